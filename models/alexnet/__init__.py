"""models/alexnet"""
