"""Looking after a table: check, compact, vacuum."""
