"""The Delta table of maps: rows, parts, commits, reading."""
