"""Network -> network: the passes of the cast, finer maps, pruning."""
