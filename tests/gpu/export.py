"""`python -m tests.gpu.export FOLDER`: writes the graphs that `check.py` measures; they have no weights."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from conversion import KeptBlob, inference_graph, load_model_network, read_metadata
from tests.benchmarks.caffenet import caffenet
from tests.gpu.check import SCORES

_BEST = 5


def export(model: Path, folder: Path) -> None:
    """Writes four graphs of a model: float32 and float16, each with the best classes and with all values.

    Those are the probabilities and what the last layer, a Softmax, computes them from: weights that are drawn may give
    probabilities of 0 and 1, which show no difference.

    They are dense: an image of the size that the net was trained at has one cell, which is the classifier's answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = read_metadata(model)
    (bottom,) = next(layer.bottoms for layer in load_model_network(model).layers if metadata.output_blob in layer.tops)
    for name, narrow in (("float32", False), ("float16", True)):
        for suffix, best in (("", _BEST), ("-all", None)):
            kept = [] if best else [KeptBlob(SCORES, bottom)]
            graph = inference_graph(model, metadata, best=best, features=kept, narrow=narrow, filtered=False)
            (folder / f"{name}{suffix}.onnx").write_bytes(graph.proto)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        export(caffenet(Path(scratch)), Path(sys.argv[1]))
