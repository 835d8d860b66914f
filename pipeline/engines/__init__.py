"""pipeline/engines"""
