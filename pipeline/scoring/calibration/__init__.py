"""Settings chosen on the first images of a collection."""
