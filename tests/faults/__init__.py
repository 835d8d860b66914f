"""Faults that are really injected, and what becomes of every image: `python -m tests.faults` prints the table."""
