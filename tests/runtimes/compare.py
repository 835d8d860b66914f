"""Runs networks in the ONNX form through several runtimes, and says how each differs from the reference."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import onnx
import onnxruntime

from conversion.errors import DensecastError
from conversion.export.onnx_net import output_name, to_onnx
from conversion.export.verification import relative_error
from conversion.net.network import Network
from conversion.net.reference import evaluate

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-runtimes" / "bin" / "python"
RUNNER = Path(__file__).with_name("runner.py")
OTHERS = ("opencv", "openvino")
RUNTIMES = ("onnxruntime", *OTHERS)
TITLES = {"onnxruntime": "ONNX Runtime", "opencv": "OpenCV", "openvino": "OpenVINO"}
TOLERANCE = 1e-4  # of a blob's largest magnitude
FORMS = ("free", "fixed")  # whether batch, height and width are free, or those of the inputs
_LONGEST = 160  # characters that are kept of what a runtime says
_MARK = "runner: "
_SECONDS = 240

Arrays = Mapping[str, np.ndarray]


class Case(NamedTuple):
    """A network to compute.

    Attributes:
        name: Unique.
        layers: The types of its layers, for the table.
        network: With weights.
        inputs: By blob.
        outputs: The blobs to compare.
    """

    name: str
    layers: str
    network: Network
    inputs: Arrays
    outputs: Sequence[str]


class Job(TypedDict):
    """What a runtime is asked for; see `runner.py`."""

    model: str
    inputs: str
    outputs: list[str]
    result: str


def case_of(name: str, network: Network, inputs: Arrays, outputs: Sequence[str] = ()) -> Case:
    """Returns a case that compares the outputs of the net, without those that no layer computes."""
    types = sorted({layer.caffe_type for layer in network.layers} - {"Input"})
    computed = {top for layer in network.layers if layer.bottoms for top in layer.tops} - set(network.inputs)
    given = {blob: np.asarray(value, np.float32) for blob, value in inputs.items()}
    return Case(name, " + ".join(types), network, given, [b for b in outputs or network.outputs if b in computed])


def outcomes(cases: Sequence[Case], folder: Path, runtimes: Sequence[str] = RUNTIMES) -> dict[str, dict[str, str]]:
    """Returns what is wrong, by runtime and then by `case (form)`; a runtime that is right is not listed.

    A form of a case is tried with sizes that are fixed only where it is wrong with sizes that are free.

    Args:
        cases: The networks.
        folder: Receives the models.
        runtimes: The names of the runtimes.
    """
    expected: dict[str, dict[str, np.ndarray]] = {}
    for case in cases:
        with np.errstate(all="ignore"):
            blobs = evaluate(case.network, case.inputs)
        expected[case.name] = {blob: blobs[blob].astype(np.float32) for blob in case.outputs}
    wrong: dict[str, dict[str, str]] = {}
    for runtime in runtimes:
        found: dict[str, str] = {}
        remaining = [case for case in cases if case.outputs]
        for form in FORMS:
            said = dict(_judged(remaining, form, runtime, folder, expected))
            found |= {f"{name} ({form})": text for name, text in said.items() if text}
            remaining = [case for case in remaining if said[case.name]]
        wrong[runtime] = found
    return wrong


def _judged(
    cases: Sequence[Case], form: str, runtime: str, folder: Path, expected: Mapping[str, Arrays]
) -> Iterator[tuple[str, str]]:
    """Yields for each case its name and what is wrong, or ""."""
    jobs: list[tuple[Case, Job]] = []
    for number, case in enumerate(cases):
        place = folder / f"{runtime}-{form}-{number}"
        shapes = None if form == "free" else {blob: value.shape for blob, value in case.inputs.items()}
        try:
            model = to_onnx(case.network, outputs=case.outputs, shapes=shapes)
        except DensecastError as refusal:
            yield case.name, f"no ONNX form: {refusal.what}"
            continue
        onnx.save(model, f"{place}.onnx")
        np.savez(f"{place}.inputs.npz", **case.inputs)
        names = [output_name(case.network, blob) for blob in case.outputs]
        job = Job(model=f"{place}.onnx", inputs=f"{place}.inputs.npz", outputs=names, result=f"{place}.npz")
        jobs.append((case, job))
    run = _in_process if runtime == "onnxruntime" else _elsewhere
    for (case, job), error in zip(jobs, run(runtime, [job for _, job in jobs]), strict=True):
        yield (
            case.name,
            _refused(error, folder) if error else _difference(case, Path(job["result"]), expected[case.name]),
        )


def _refused(error: str, folder: Path) -> str:
    line = " ".join(error.replace(f"{folder}/", "").replace(f"{ROOT}/", "").split())
    return f"refused: {textwrap.shorten(line, _LONGEST, placeholder=' ...')}"


def _difference(case: Case, result: Path, expected: Arrays) -> str:
    with np.load(result) as stored:
        found = [stored[f"output{i}"] for i in range(len(case.outputs))]
    for blob, value in zip(case.outputs, found, strict=True):
        wanted = expected[blob]
        if value.shape != wanted.shape and value.size == wanted.size:
            value = value.reshape(wanted.shape)  # runtimes drop or add axes of size 1
        if value.shape != wanted.shape:
            return f"wrong: blob {blob} is {list(value.shape)} instead of {list(wanted.shape)}"
        error = relative_error(value.astype(np.float64), wanted.astype(np.float64))
        if not error <= TOLERANCE:
            return f"wrong: blob {blob} by {error:.0e} of its largest magnitude"
    return ""


def _in_process(runtime: str, jobs: Sequence[Job]) -> Iterator[str]:
    """Runs jobs in ONNX Runtime; yields what is wrong with each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what a run refuses is raised too
    for job in jobs:
        with np.load(job["inputs"]) as stored:
            inputs = {name: stored[name] for name in stored.files}
        try:
            session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
            found = session.run(job["outputs"], inputs)
        except Exception as raised:  # noqa: BLE001  # whatever a runtime raises is its answer
            yield f"{type(raised).__name__}: {raised}"
            continue
        np.savez(job["result"], **{f"output{i}": value for i, value in enumerate(found)})
        yield ""


def _elsewhere(runtime: str, jobs: Sequence[Job]) -> Iterator[str]:
    """Runs jobs in the runtime's own process, and a new one after each that it does not survive."""
    done = 0
    while done < len(jobs):
        lines = "".join(f"{json.dumps(job)}\n" for job in jobs[done:])
        process = subprocess.run(
            [PYTHON, RUNNER, runtime],
            input=lines,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={**os.environ, "OPENCV_LOG_LEVEL": "SILENT", "PYTHONPATH": ""},
            check=False,
        )
        answers = [line.removeprefix(_MARK) for line in process.stdout.splitlines() if line.startswith(_MARK)]
        for answer in answers:
            yield json.loads(answer)["error"] or ""
        done += len(answers)
        if done < len(jobs):
            yield f"the process ends with status {process.returncode}"
            done += 1
