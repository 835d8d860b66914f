"""The native engine: a network as a program of few operations, planned here and computed by `densecast_native`."""
