"""The weights of a model directory: one copy, in one file of raw numbers, with an index that needs no TensorFlow.

With a SavedModel the numbers are those of TensorFlow's checkpoint, which holds every variable as it lies in memory;
without one they are in a file of their own. The index, `weights.json`, says where each of them is.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conversion.arrays import Array
from conversion.errors import ConversionError, ModelError
from conversion.export.bundle_index import bundle_places
from conversion.files import write_atomically
from conversion.net.network import Network, weight_key

INDEX_FILE = "weights.json"
OWN_FILE = "weights.bin"
BUNDLE_FILE = "variables/variables.data-00000-of-00001"
_BUNDLE_INDEX = "variables/variables.index"
MOST_WEIGHT_BYTES = (2 << 30) - (64 << 20)
"""What one ONNX file holds of weights: protobuf ends at 2 GiB, and a graph takes some."""
_ALIGNMENT = 64  # bytes, a line of the cache
_MAX_INDEX_BYTES = 64 << 20
_DTYPE = np.dtype("<f4")

Weights = Mapping[str, Sequence[Array]]
"""For each layer with learned values the result of `Layer.prepare`."""


class StoredArray(BaseModel):
    """One array of learned values, as `Layer.prepare` returns it.

    Attributes:
        shape: Its shape; the numbers of the last axis lie side by side.
        offset: Its first byte in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    offset: int = Field(ge=0)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * _DTYPE.itemsize


class WeightsIndex(BaseModel):
    """The content of `weights.json`.

    Attributes:
        file: The file of the numbers, by its path within the model directory.
        dtype: Their type; the bytes are little-endian.
        layers: The arrays of each layer that has any, in the order of `Layer.prepare`. Layers that share weights name
            the same places.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Literal["weights.bin", "variables/variables.data-00000-of-00001"]
    dtype: Literal["float32"] = "float32"
    layers: dict[str, tuple[StoredArray, ...]]


def write_weights(network: Network, directory: Path) -> None:
    """Writes the weights of a network to a file of their own, shared ones once, and their index."""
    layers: dict[str, tuple[StoredArray, ...]] = {}
    shared: dict[object, tuple[StoredArray, ...]] = {}
    with (directory / OWN_FILE).open("xb") as file:
        for layer in network.layers:
            blobs = network.parameters.get(layer.name, ())
            key = weight_key(layer, blobs)
            if key not in shared:
                shared[key] = tuple(_append(file, blob) for blob in layer.prepare(blobs))
            if shared[key]:
                layers[layer.name] = shared[key]
    _write_index(directory, WeightsIndex(file="weights.bin", layers=layers))


def index_bundle(weights: Mapping[str, Iterable[Array]], directory: Path) -> None:
    """Writes the index of the weights that TensorFlow has saved.

    Args:
        weights: The values of TensorFlow's variables by layer; they are taken one by one.
        directory: The SavedModel's. The bytes at each place of its checkpoint are compared with the values.

    Raises:
        ConversionError: The checkpoint does not have them in the form that densecast knows.
    """
    by_size: dict[int, list[int]] = {}
    for place in bundle_places(directory / _BUNDLE_INDEX):
        by_size.setdefault(place.size, []).append(place.offset)
    data = mapped_file(directory / BUNDLE_FILE)
    layers = {
        name: tuple(
            StoredArray(shape=blob.shape, offset=_find(data, blob, by_size.get(blob.nbytes, ()), name))
            for blob in blobs
        )
        for name, blobs in weights.items()
    }
    layers = {name: blobs for name, blobs in layers.items() if blobs}
    _write_index(directory, WeightsIndex(file="variables/variables.data-00000-of-00001", layers=layers))


def read_index(model: str | Path) -> WeightsIndex:
    """Reads the index of a model's weights, and checks that every array lies within the file.

    Raises:
        ModelError: It is missing or not valid.
    """
    path = Path(model) / INDEX_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_INDEX_BYTES + 1)
        index = WeightsIndex.model_validate_json(text)
        size = (Path(model) / index.file).stat().st_size
    except OSError as error:
        raise _invalid(path, f"{error.filename} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise _invalid(path, error.errors(include_url=False, include_input=False)[0]["msg"]) from error
    for name, arrays in index.layers.items():
        for array in arrays:
            if min(array.shape, default=1) < 1 or array.offset + array.size > size:
                raise _invalid(path, f"an array of layer {name!r} lies outside {index.file}")
    return index


def read_weights(model: str | Path, index: WeightsIndex | None = None) -> dict[str, list[Array]]:
    """Returns the weights of a model by layer, as `Layer.prepare` returned them; the file is mapped, not read.

    Layers that share weights have the same arrays. Arrays are read-only.

    Args:
        model: The model directory.
        index: Its index; it is read by default.

    Raises:
        ModelError: The index is missing or not valid, or the file cannot be read.
    """
    index = index or read_index(model)
    data = mapped_file(Path(model) / index.file)
    arrays: dict[StoredArray, Array] = {}
    for stored in (array for layer in index.layers.values() for array in layer):
        values = data[stored.offset : stored.offset + stored.size].view(_DTYPE)
        arrays.setdefault(stored, values.reshape(stored.shape))
    return {name: [arrays[stored] for stored in layer] for name, layer in index.layers.items()}


def _append(file: BinaryIO, blob: Array) -> StoredArray:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(np.ascontiguousarray(blob, _DTYPE).data)
    return StoredArray(shape=blob.shape, offset=offset)


def _find(data: Array, blob: Array, offsets: Sequence[int], layer: str) -> int:
    values = np.ascontiguousarray(blob, _DTYPE).reshape(-1).view(np.uint8)
    for offset in offsets:
        if np.array_equal(data[offset : offset + values.size], values):
            return offset
    raise ConversionError(
        f"the weights of layer {layer!r} are not in the checkpoint that TensorFlow wrote",
        why="densecast knows the form that TensorFlow 2.21 writes",
        remedy="install the version that constraints.txt states",
    )


def mapped_file(path: Path) -> Array:
    """Returns the bytes of a file, uint8; they are read when they are used."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return np.zeros(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from error


def release_pages(weights: Iterable[Array]) -> None:
    """Takes the pages of mapped files out of this process's memory; those that are used again are read again.

    Args:
        weights: Arrays of `read_weights`; others stay as they are.
    """
    for array in weights:
        base: object = array
        while isinstance(base, np.ndarray):
            base = base.base
        while isinstance(base, memoryview):
            base = base.obj
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def _write_index(directory: Path, index: WeightsIndex) -> None:
    write_atomically(directory / INDEX_FILE, (index.model_dump_json() + "\n").encode())


def _invalid(path: Path, why: str) -> ModelError:
    return ModelError(
        "the weights cannot be read",
        where=str(path),
        why=why,
        remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
    )
