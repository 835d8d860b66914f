"""The classification map and its arithmetic, without input or output."""
