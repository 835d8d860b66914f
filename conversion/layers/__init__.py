"""conversion/layers"""
