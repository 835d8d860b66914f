"""Runs ONNX models in a runtime of another environment, which has none of this project's packages.

    python runner.py RUNTIME < jobs

Each line of stdin is a job in JSON: `model` (path of the .onnx), `inputs` (.npz: an array for each input, by name),
`outputs` (names), `result` (path of the .npz to write, with an array for each output). Each job is answered by one
line of stdout: a mark and `{"error": null}`, or what the runtime says. A runtime may crash: whoever starts this script
counts the answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

MARK = "runner: "
Arrays = Mapping[str, "np.ndarray"]


def opencv(model: str, inputs: Arrays, outputs: Sequence[str]) -> list[np.ndarray]:
    """Returns the outputs as OpenCV's dnn module computes them."""
    import cv2

    net = cv2.dnn.readNetFromONNX(model)
    for name, value in inputs.items():
        net.setInput(value, name)
    return list(net.forward(list(outputs)))


def openvino(model: str, inputs: Arrays, outputs: Sequence[str]) -> list[np.ndarray]:
    """Returns the outputs as OpenVINO's CPU plugin computes them in float32."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(dict(inputs))
    return [found[name] for name in outputs]


RUNTIMES: dict[str, Callable[[str, Arrays, Sequence[str]], list[np.ndarray]]] = {
    "opencv": opencv,
    "openvino": openvino,
}


def main(runtime: str) -> None:
    """Answers the jobs on stdin."""
    # What runtimes print from C++ does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        with np.load(job["inputs"]) as stored:
            inputs = {name: stored[name] for name in stored.files}
        error = None
        try:
            found = RUNTIMES[runtime](job["model"], inputs, job["outputs"])
            np.savez(job["result"], **{f"output{i}": value for i, value in enumerate(found)})
        except Exception as raised:  # noqa: BLE001  # whatever a runtime raises is its answer
            error = f"{type(raised).__name__}: {raised}"
        answers.write(f"{MARK}{json.dumps({'error': error})}\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
