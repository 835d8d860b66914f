"""A network as a value: its layers, its weights, its geometry, and its plain evaluation in NumPy."""
