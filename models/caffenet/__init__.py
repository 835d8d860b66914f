"""models/caffenet"""
