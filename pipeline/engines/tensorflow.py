"""The TensorFlow engine: runs a dense model on CPU or GPU."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata, import_tensorflow, load_model_network, read_metadata
from pipeline.engines.base import BatchShape, EngineOutOfMemoryError
from pipeline.engines.cell_scores import cell_scores
from pipeline.engines.device_pool import ThreadCounts
from pipeline.engines.devices import Device, open_devices
from pipeline.engines.load_tensorflow import load_tensorflow
from pipeline.engines.net_function import NetFunction, Tensor
from pipeline.engines.windows_of_batch import score_prepared
from pipeline.engines.xla import CompiledFunction
from pipeline.errors import EngineError, JobError
from pipeline.malloc_trim import release_free_memory
from pipeline.maps.classification_map import DEFAULT_K, CellScores
from pipeline.maps.features import parse_features
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.windows import WindowInput

# All weights of nets without large InnerProducts (ResNet-50's largest takes 9.4 MB), whose BatchNorms TensorFlow then
# folds into the convolutions; of CaffeNet and VGG all but the three InnerProducts.
_LARGEST_CONSTANT = 10_000_000
# Messages of CUDA's libraries for a lack of memory that TensorFlow does not report as ResourceExhaustedError.
_SHORT = ("out of memory", "out_of_memory", "alloc_failed", "resource_exhausted")


class TensorFlowEngine:
    """Loads a model directory and runs the model. Several threads may call it at once.

    Args:
        model: The directory that `conversion.convert` wrote.
        k: Number of classes that a cell keeps; all classes if the model has fewer.
        form: With `TOP_K` the device selects the best classes, so that only k numbers per cell leave it; with the other
            forms all probabilities leave it.
        features: Blobs to return with the map, as in `Recipe.features`. The network is run once for all of them.
        device: The device; by default the first that `open_devices` returns.
        precision: The type that the network computes in. The maps are always float32.
        compiled: Shapes of batches that XLA compiles when the engine is opened; other shapes are run without XLA.
            Windows are always run without.
        windows: Prepares windows for `score_windows`; None if there are none.

    Raises:
        ModelError: The directory is not a model.
        JobError: The model does not offer such a blob.
        EngineError: XLA cannot compile the model.
        MissingExtraError: TensorFlow is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        k: int = DEFAULT_K,
        form: Form = Form.TOP_K,
        features: Sequence[str] = (),
        *,
        device: Device | None = None,
        precision: Precision = Precision.FLOAT32,
        compiled: Sequence[BatchShape] = (),
        windows: WindowInput | None = None,
    ) -> None:
        self._metadata = read_metadata(model)
        self._features = parse_features(features, self._metadata, lambda: load_model_network(model))
        self._windows = windows
        self._k = min(k, self._metadata.classes)
        self._form = form
        logging.getLogger("densecast").info("loading the model %s", self._metadata.name)
        load_tensorflow(debug=logging.getLogger().isEnabledFor(logging.INFO))
        self._tf = import_tensorflow()
        device = device or open_devices()[0]
        self._device = device.name
        largest = _largest_constant(device)
        self._identity = (
            f"TensorFlow {self._tf.__version__}, {device.label}, {precision}, {form}, k {self._k}, features"
            f" {list(features)}, XLA for {sorted(compiled)}, constants of up to {largest} bytes"
            + (", windows" if windows is not None else "")
        )
        self._counts = ThreadCounts()
        with self._tf.device(self._device):
            net = NetFunction(
                model,
                self._metadata,
                self._features,
                best=form is Form.TOP_K,
                precision=Precision(precision),
                prepared=windows is not None,
            )
            self._function, self._outputs = net.frozen(largest=largest), net.outputs
            self._programs = self._compile(net, compiled) if compiled else None
        self._warm = False
        del net
        _release()

    @property
    def metadata(self) -> ModelMetadata:
        """The model's `densecast.json`."""
        return self._metadata

    @property
    def identity(self) -> str:
        """See `Engine`."""
        return self._identity

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """See `Engine`."""
        return self._guarded(images, lambda: self._score(self._tf.constant(images)))

    def score_windows(self, windows: NDArray[np.float32]) -> list[CellScores]:
        """See `WindowEngine`."""
        return score_prepared(
            windows, self._windows, lambda data: self._guarded(data, lambda: self._score(self._tf.constant(data)))
        )

    def _guarded(self, images: NDArray[np.generic], score: Callable[[], list[CellScores]]) -> list[CellScores]:
        """Returns the maps of a batch; its errors are those of `Engine.score`."""
        tf = self._tf
        try:
            with tf.device(self._device):
                maps = score()
        except (tf.errors.OpError, MemoryError, ValueError, TypeError, RuntimeError) as error:
            if _out_of_memory(tf, error):
                count, height, width = images.shape[:3]
                raise EngineOutOfMemoryError(
                    f"a batch of {count} images of {height} x {width} does not fit in memory"
                ) from error
            if "GPU" in self._device and isinstance(error, _device_errors(tf)):
                raise JobError(
                    f"the GPU failed, which is not due to an image: {error}",
                    where=self._device,
                    remedy="look at the driver's messages; run again, in a new process: nothing is scored twice",
                ) from error
            raise EngineError(f"TensorFlow failed on images of {images.shape}: {error}") from error
        if not self._warm:
            self._warm = True
            _release()
        return maps

    def take_counts(self) -> dict[str, float]:
        """See `Counting`: with XLA, images that it ran, other images, and the seconds of compilation."""
        return self._counts.take()

    def _score(self, images: Tensor) -> list[CellScores]:
        out = {name: value.numpy() for name, value in self._run(images).items()}
        return cell_scores(out, self._form, self._k, self._features)

    def _given(self, images: Tensor) -> Tensor:
        """Returns images as the function takes them: a function for windows takes them prepared, as windows are."""
        if self._windows is None or images.dtype != self._tf.uint8:
            return images
        return self._metadata.preprocessing.tensorflow(self._tf, images)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        if self._programs is not None and images.dtype == self._tf.uint8:
            program = self._programs.program(tuple(images.shape[:3]))
            self._counts.counts["xla.other" if program is None else "xla.compiled"] += len(images)
            if program is not None:
                return program(images)
        best = {"k": self._tf.constant(self._k)} if self._form is Form.TOP_K else {}
        return dict(zip(self._outputs, self._function(images=self._given(images), **best), strict=True))

    def _compile(self, net: NetFunction, shapes: Sequence[BatchShape]) -> CompiledFunction:
        """Returns XLA's programs. In them k is a constant, because XLA needs to know all sizes."""
        best = {"k": self._tf.constant(self._k)} if self._form is Form.TOP_K else {}
        started = time.perf_counter()
        try:
            programs = CompiledFunction(lambda images: net.concrete(images=self._given(images), **best), shapes)
        except (self._tf.errors.OpError, ValueError, TypeError, RuntimeError) as error:
            raise EngineError(
                f"XLA cannot compile the model: {error}", remedy="leave --xla out, or reduce --xla-shapes"
            ) from error
        self._counts.counts["seconds.compile"] += time.perf_counter() - started
        return programs


def _largest_constant(device: Device) -> int | None:
    """Returns the bytes of the largest weights that become constants; None for all.

    Only oneDNN gains by large constants. It is a fact of the processor and its environment whether TensorFlow uses it,
    so machines of one kind compute in one form. On GPUs all weights are constants, as they always were.
    """
    from tensorflow.python.util import _pywrap_util_port

    return None if device.is_gpu or _pywrap_util_port.IsMklEnabled() else _LARGEST_CONSTANT


def _out_of_memory(tf: ModuleType, error: Exception) -> bool:
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return True
    return isinstance(error, tf.errors.OpError) and any(sign in str(error).lower() for sign in _SHORT)


def _device_errors(tf: ModuleType) -> tuple[type[Exception], ...]:
    """Returns what TensorFlow raises if a GPU is lost or has a permanent error: every further image would fail."""
    return (tf.errors.InternalError, tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.UnknownError)


def _release() -> None:
    """Frees the copies of the weights that TensorFlow makes while it freezes a model, and at the first call.

    Measured on CaffeNet (244 MB of weights): 2.8 GB stay in use instead of 4.0; the peak is 4.5 GB instead of 5.5.
    """
    gc.collect()
    release_free_memory()
