"""What a user would write instead of `densecast score`, each a program of its own that needs no densecast.

`python -m tests.benchmarks.peers.NAME GRAPH IMAGES OUTPUT` scores the JPEG files below IMAGES with the ONNX graph
GRAPH, and writes OUTPUT/NAME.npz for each: the best 5 classes of every cell, their probabilities, and the time.
"""
