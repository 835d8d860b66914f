"""What other programs that read Caffe's files compute for a case: OpenCV's `dnn`, and MNN where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.support.golden_cases import GoldenCase

_TOLERANCE = 1e-4
MNN = "DENSECAST_MNN_PYTHON"  # the interpreter of an environment with MNN 3.6.1
_MNN_SCRIPT = """
import json, sys, numpy as np, MNN
model, inputs, outputs, wanted = sys.argv[1:]
given = np.load(inputs)
net = MNN.nn.load_module_from_file(model, list(given.files), json.loads(wanted))
tensors = []
for name in given.files:
    value = MNN.expr.placeholder(list(given[name].shape), MNN.expr.NCHW, MNN.expr.float)
    value.write(given[name].tolist())
    tensors.append(value)
tops = net.onForward(tensors)
np.savez(outputs, **{n: np.array(MNN.expr.convert(t, MNN.expr.NCHW).read()) for n, t in zip(json.loads(wanted), tops)})
"""


def opinions(case: GoldenCase, first: str, scratch: Path) -> dict[str, str]:
    """For each engine: agrees; differs, with by how much; or cannot read it."""
    inputs, outputs = case.inputs(first), case.outputs()
    engines: dict[str, Callable[..., Mapping[str, np.ndarray]]] = {"OpenCV 4.14": _opencv}
    if MNN in os.environ:
        engines["MNN 3.6.1"] = _mnn
    return {name: _opinion(engine, case, inputs, outputs, scratch) for name, engine in engines.items()}


def _opinion(engine, case: GoldenCase, inputs, outputs, scratch: Path) -> str:
    try:
        found = engine(case, inputs, outputs, scratch)
    except Exception:  # noqa: BLE001  # an engine may fail in any way; that is what is recorded
        return "cannot read it"
    if any(found[top].shape != values.shape for top, values in outputs.items()):
        return "differs: other shapes"
    share = max(_difference(found[top], values) for top, values in outputs.items())
    return "agrees" if share <= _TOLERANCE else f"differs: {share:.1g} of absmax"


def _difference(found: np.ndarray, values: np.ndarray) -> float:
    if (np.isnan(found) != np.isnan(values)).any():
        return float("inf")
    return float(np.nanmax(np.abs(found - values)) / max(np.nanmax(np.abs(values)), 1e-30))


def _opencv(case: GoldenCase, inputs, outputs, scratch: Path) -> dict[str, np.ndarray]:
    import cv2

    net = cv2.dnn.readNetFromCaffe(str(case.prototxt), str(case.weights))
    for blob, values in inputs.items():
        net.setInput(values, blob if len(inputs) > 1 else "")
    names = list(outputs)
    return dict(zip(names, net.forward(names), strict=True))


def _mnn(case: GoldenCase, inputs, outputs, scratch: Path) -> dict[str, np.ndarray]:
    python = Path(os.environ[MNN])
    model, given, found = (scratch / f"{case.name}{ending}" for ending in (".mnn", ".in.npz", ".out.npz"))
    convert = [str(python.parent / "mnnconvert"), "-f", "CAFFE", "--bizCode", "test", "--MNNModel", str(model)]
    files = ["--modelFile", str(case.weights), "--prototxt", str(case.prototxt)]
    subprocess.run([*convert, *files], check=True, capture_output=True, timeout=60)
    np.savez(given, **inputs)
    arguments = [str(model), str(given), str(found), json.dumps(list(outputs))]
    subprocess.run([str(python), "-c", _MNN_SCRIPT, *arguments], check=True, capture_output=True, timeout=60)
    with np.load(found) as arrays:
        return {name: arrays[name] for name in outputs}
