"""Chooses settings by a sample: the first images of a collection."""
