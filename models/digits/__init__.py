"""models/digits"""
