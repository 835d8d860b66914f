"""Runs ONNX graphs by ONNX Runtime on the CPU: the check of a model's graph, and the runner of the verification."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from conversion.arrays import Array
from conversion.errors import MissingExtraError, ModelError, install_extra
from conversion.export.onnx_model import BLOB, GRAPH_FILE, ImageGraph, add_stored
from conversion.export.verification import Answer

_FATAL_ONLY = 4  # errors are raised too
_REFUSALS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)
# Where ONNX Runtime finds the weights of a graph that is given as bytes.
_FOLDER = "session.model_external_initializers_file_folder_path"


def import_onnxruntime() -> ModuleType:
    """Returns the onnxruntime module, imported on first use; raises MissingExtraError without it."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError(
            "ONNX Runtime is not installed",
            why="the ONNX form of a model is verified by running it",
            remedy=install_extra("onnx", gpu="gpu"),
        )
    # Its import would write an identifier of the machine and a queue of events into the user's cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


class Session:
    """A graph that ONNX Runtime has loaded.

    Args:
        graph: A file, or the bytes of one.
        folder: Where the files of weights are that a graph given as bytes refers to.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """

    def __init__(self, graph: Path | bytes, folder: Path | None = None) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.enable_cpu_mem_arena = False  # it would keep the most that any size needed
        if folder is not None:
            options.add_session_config_entry(_FOLDER, str(folder))
        source = graph if isinstance(graph, bytes) else str(graph)
        errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        refusals = tuple(getattr(errors, name) for name in _REFUSALS)
        try:
            self._session: Any = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except refusals as error:
            raise ModelError(
                f"ONNX Runtime {runtime.__version__} does not load the graph: {error}",
                where=str(folder if isinstance(graph, bytes) else graph),
                remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
            ) from error

    def __call__(self, value: Array) -> dict[str, Array]:
        """Returns all outputs by name for the one input."""
        (given,) = self._session.get_inputs()
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {given.name: value}), strict=True))


class OnnxRunner:
    """An ONNX graph as the verification runs it; see `verification.Runner`.

    Args:
        graph: What it computes.
        some_blobs: Loads the graph with these blobs as its outputs: ONNX Runtime keeps every output that a graph has.
        own: Loads the graph that users run. Only one graph is in memory at a time.
    """

    form = "ONNX"

    def __init__(
        self, graph: ImageGraph, some_blobs: Callable[[Sequence[str]], Session], own: Callable[[], Session]
    ) -> None:
        self._graph, self._some_blobs, self._own = graph, some_blobs, own
        self._loaded: tuple[Sequence[str], Session] | None = None
        self.answered = set(graph.outputs.values())

    def blobs(self, images: Array, wanted: Sequence[str]) -> dict[str, Array]:
        """See `Runner.blobs`."""
        return {name.removeprefix(BLOB): value for name, value in self._run(images, wanted).items()}

    def answers(self, images: Array) -> list[Answer]:
        """See `Runner.answers`."""
        outputs = self._graph.outputs
        return [
            Answer(f"output {name}", outputs[name], value if self._graph.raw_input else _nchw(value))
            for name, value in self._run(images, ()).items()
        ]

    def _run(self, images: Array, blobs: Sequence[str]) -> dict[str, Array]:
        if self._loaded is None or self._loaded[0] != blobs:
            self._loaded = None  # frees its weights before the other's are loaded
            self._loaded = blobs, self._some_blobs(blobs) if blobs else self._own()
        return self._loaded[1](self._graph.image_input(images))


def stored_runner(graph: ImageGraph, model: Path) -> OnnxRunner:
    """Returns the runner of a model directory's graph."""
    add = add_stored(model)
    return OnnxRunner(
        graph,
        lambda blobs: Session(graph.build(add, blobs=blobs).SerializeToString(), model),
        lambda: Session(model / GRAPH_FILE),
    )


def _nchw(value: Array) -> Array:
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
