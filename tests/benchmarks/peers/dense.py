"""What the peers have in common: the session, decoding, the best classes, and the file of a map."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

K, THREADS = 5, 2
INPUT, OUTPUT = "images", "probabilities"


def open_session(graph: str) -> Any:
    """Returns an ONNX Runtime session of the graph, on two threads."""
    import onnxruntime

    return onnxruntime.InferenceSession(graph, session_options(), providers=["CPUExecutionProvider"])


def session_options() -> Any:
    """Returns ONNX Runtime's options: its own, on two threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return options


def decode(path: str) -> np.ndarray:
    """Returns the pixels of a file, uint8 RGB [h, w, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def save(output: str, path: str, probabilities: np.ndarray) -> None:
    """Writes the best classes of a map, float32 [h, w, C], best first."""
    classes = np.argpartition(-probabilities, K, axis=-1)[..., :K]
    scores = np.take_along_axis(probabilities, classes, axis=-1)
    order = np.argsort(-scores, axis=-1, kind="stable")
    classes, scores = (np.take_along_axis(values, order, axis=-1) for values in (classes, scores))
    file = Path(output, Path(path).stem + ".npz")
    np.savez(file, classes=classes.astype(np.int32), scores=scores, time=time.time())
