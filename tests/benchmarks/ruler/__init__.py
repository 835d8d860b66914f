"""How long engines and runtimes take for the same nets, in turns in one run: `python -m tests.benchmarks ruler`.

What is timed: ours from uint8 pixels to the best classes of each cell, peers from the float32 blob to all
probabilities, so that preprocessing and selection count for ours alone. Each peer has its own best form: sizes that are
fixed, as many threads as there are cores, the files that it reads itself.

This module imports nothing: the peers' own environment, which lacks most packages, imports it too.
"""
