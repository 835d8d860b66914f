"""Scores images: from references to rows, without Beam."""
