"""The runtimes that users would take instead: `python -m tests.benchmarks.ruler.peers serve|convert NAME JOB`.

It runs in the environment of the development, and in that of the peers, which has only what the peers need.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.benchmarks.ruler.serve import Job, Opened, Run, cores, serve

PROBABILITIES, SCORES = 0, 1


class Peer(NamedTuple):
    """A runtime.

    Attributes:
        title: Its name.
        packages: What it is installed by; the first is the one whose version is given.
        open: Job, and which of its outputs -> what computes it.
        convert: Makes the form that it reads, if it reads neither ONNX nor Caffe, unless that is there.
        elsewhere: Whether it is in the peers' own environment.
    """

    title: str
    packages: tuple[str, ...]
    open: Callable[[Job, int], Run]
    convert: Callable[[Job], None] | None = None
    elsewhere: bool = True


def _onnxruntime(job: Job, output: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    number, _, height, width = job["shape"]
    for axis, length in (("batch", number), ("height", height), ("width", width)):
        options.add_free_dimension_override_by_name(axis, length)
    session = onnxruntime.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    inputs, names = {given.name: np.load(job["blob"])}, [job["outputs"][output]]
    return lambda: session.run(names, inputs)[0]


def _openvino(job: Job, output: int) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(job["onnx"])
    model.reshape(job["shape"])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores()}
    request = core.compile_model(model, "CPU", exact).create_infer_request()
    blob = np.load(job["blob"])

    def run() -> np.ndarray:
        request.infer([blob], share_inputs=True)
        return request.get_output_tensor(output).data.copy()

    return run


def _opencv(job: Job, output: int) -> Run:
    import cv2

    cv2.setNumThreads(cores())
    net = cv2.dnn.readNetFromCaffe(job["prototxt"], job["caffemodel"])
    blob = np.load(job["blob"])

    def run() -> np.ndarray:
        net.setInput(blob)
        return net.forward(job["outputs"][output])

    return run


def _mnn(job: Job, output: int) -> Run:
    import MNN

    interpreter = MNN.Interpreter(job["stem"] + _MNN)
    config: dict[str, object] = {"backend": "CPU", "numThread": cores(), "precision": "high"}
    if output == SCORES:
        config["saveTensors"] = tuple(job["outputs"])
    session = interpreter.createSession(config)
    given = interpreter.getSessionInput(session)
    interpreter.resizeTensor(given, tuple(job["shape"]))
    interpreter.resizeSession(session)
    blob = _tensor(MNN, np.load(job["blob"]))
    found = interpreter.getSessionOutput(session, job["outputs"][output])
    result = _tensor(MNN, np.empty(found.getShape(), np.float32))

    def run() -> np.ndarray:
        given.copyFrom(blob)
        interpreter.runSession(session)
        found.copyToHostTensor(result)
        return np.array(result.getNumpyData())

    return run


def _tensor(mnn, array: np.ndarray):
    return mnn.Tensor(array.shape, mnn.Halide_Type_Float, array, mnn.Tensor_DimensionType_Caffe)


def _to_mnn(job: Job) -> None:
    import _tools  # what MNN's own command calls, which then installs a package that reports the use

    target = Path(job["stem"] + _MNN)
    if target.exists():
        return
    arguments = ["-f", "CAFFE", "--modelFile", job["caffemodel"], "--prototxt", job["prototxt"]]
    # Of large nets it writes a file into the folder where it runs.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, contextlib.chdir(folder):
        _tools.mnnconvert(["mnnconvert", *arguments, "--MNNModel", target.name, "--bizCode", "ruler"])
        Path(target.name).rename(target)


def _ncnn(job: Job, output: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = cores()
    for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, narrow, False)
    stem = _ncnn_stem(job)
    if net.load_param(stem + _NCNN_PARAM) or net.load_model(stem + _NCNN_BIN):
        raise ValueError("ncnn does not load the net")
    images = list(np.load(job["blob"]))

    def one(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        failed, blob = extractor.extract(f"out{output}")
        if failed:
            raise ValueError("ncnn does not compute the net")
        return np.array(blob)

    return lambda: np.stack([one(image) for image in images])  # it has no batches


def _to_ncnn(job: Job) -> None:
    stem = _ncnn_stem(job)
    if Path(stem + _NCNN_PARAM).exists():
        return
    place = importlib.metadata.distribution("pnnx").locate_file("pnnx/pnnx")
    with tempfile.TemporaryDirectory(dir=Path(stem).parent) as folder:
        Path(folder, "net.onnx").symlink_to(Path(job["onnx"]).absolute())
        shape = ",".join(map(str, [1, *job["shape"][1:]]))
        command = [str(place), "net.onnx", "fp16=0", f"inputshape=[{shape}]"]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
        for suffix in (_NCNN_BIN, _NCNN_PARAM):
            shutil.move(Path(folder, "net" + suffix), stem + suffix)


def _ncnn_stem(job: Job) -> str:
    """pnnx converts for one size."""
    return f"{job['stem']}-{job['shape'][2]}x{job['shape'][3]}"


_MNN, _NCNN_BIN, _NCNN_PARAM = ".mnn", ".ncnn.bin", ".ncnn.param"

PEERS: dict[str, Peer] = {
    "onnxruntime": Peer("ONNX Runtime", ("onnxruntime",), _onnxruntime, elsewhere=False),
    "openvino": Peer("OpenVINO", ("openvino",), _openvino),
    "opencv": Peer("OpenCV", ("opencv-python-headless",), _opencv, elsewhere=False),
    "mnn": Peer("MNN", ("mnn",), _mnn, _to_mnn),
    "ncnn": Peer("ncnn", ("ncnn", "pnnx"), _ncnn, _to_ncnn),
}


def main(action: str, name: str, job: Job) -> None:
    """Converts for a peer, or serves it.

    Raises:
        PackageNotFoundError: It is not installed, and `action` is `convert`.
    """
    peer = PEERS[name]
    if action == "convert":
        for package in peer.packages:
            importlib.metadata.version(package)
        if peer.convert is not None:
            peer.convert(job)
        return

    def open_run() -> Opened:
        version, *_ = [importlib.metadata.version(package) for package in peer.packages]
        return Opened(f"{peer.title} {version}", peer.open(job, PROBABILITIES))

    serve(open_run, lambda: peer.open(job, SCORES))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
