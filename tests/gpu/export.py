"""`python -m tests.gpu.export FOLDER`: writes the graphs that `check.py` measures; they have no weights."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from conversion import inference_graph, read_metadata
from tests.benchmarks.caffenet import caffenet

_BEST = 5


def export(model: Path, folder: Path) -> None:
    """Writes four graphs of a model: float32 and float16, each with the best classes and with all probabilities.

    They are dense: an image of the size that the net was trained at has one cell, which is the classifier's answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = read_metadata(model)
    for name, narrow in (("float32", False), ("float16", True)):
        for suffix, best in (("", _BEST), ("-all", None)):
            graph = inference_graph(model, metadata, best=best, narrow=narrow, filtered=False)
            (folder / f"{name}{suffix}.onnx").write_bytes(graph.proto)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        export(caffenet(Path(scratch)), Path(sys.argv[1]))
