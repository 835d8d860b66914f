"""Draws maps: as an overlay on the image, and as a table in a terminal."""
