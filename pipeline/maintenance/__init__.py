"""The maintenance of a table: check, compact, vacuum."""
