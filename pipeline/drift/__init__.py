"""How the maps of two runs differ."""
