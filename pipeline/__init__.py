"""Apache Beam: run a dense model over image collections and keep the classification maps in a Delta table."""
