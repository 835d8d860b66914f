"""Fuzz targets, one a reader: `python -m tests.fuzz.TARGET -max_total_time=600` (needs Atheris)."""
