"""The classification map and the arithmetic behind it. Pure."""
