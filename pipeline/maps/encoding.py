"""The arrays of a map as the table stores them: flat, little-endian, probabilities in the requested form."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import Cells, CellScores, Feature, MapError, Probabilities
from pipeline.maps.quantization import quantize, restore
from pipeline.maps.recipe import Form

LARGEST_VALUE_BYTES = 1 << 30  # Parquet and Arrow count the bytes of a value, and of a page, with 31 bits

DTYPES: dict[Form, np.dtype[np.uint8] | np.dtype[np.float16] | np.dtype[np.float32]] = {
    Form.LOG_UINT8: np.dtype("u1"),
    Form.FLOAT16: np.dtype("<f2"),
    Form.FLOAT32: np.dtype("<f4"),
}
"""The type of the stored `probabilities`, by form; `Form.TOP_K` has none."""


Numbers: TypeAlias = Sequence[float] | NDArray[np.int32] | NDArray[np.float32]


class MapTooLargeError(MapError):
    """A map does not fit in one row."""


class StoredFeature(TypedDict):
    """A feature as the table stores it; see `pipeline.table.schema`."""

    name: str
    height: int
    width: int
    channels: int
    dtype: str
    values: bytes


class StoredArrays(TypedDict):
    """The array columns of a row; see `pipeline.table.schema`."""

    classes: NDArray[np.int32]
    scores: NDArray[np.float32]
    residual: NDArray[np.float32]
    probabilities: bytes | None
    features: list[StoredFeature] | None


def encode(where: str, cells: CellScores, form: Form) -> StoredArrays:
    """Returns the array columns of a row.

    Args:
        where: The image, for messages.
        cells: Arrays that match (`check_cells`).
        form: How the probabilities are stored.

    Raises:
        MapError: There are probabilities although the form has none, or there are none although it has.
        MapTooLargeError: An array does not fit in one row.
    """
    dtype = DTYPES.get(form)
    if (dtype is None) != (cells.probabilities is None):
        given = "no probabilities" if cells.probabilities is None else "probabilities"
        raise MapError(f"{given} for a map of the form {form}", where=where)
    stored = None
    if cells.probabilities is not None and dtype is not None:
        _check_storable(where, f"{cells.probabilities.shape[2]} classes", cells.probabilities, form=form, dtype=dtype)
        coded = quantize(cells.probabilities) if form is Form.LOG_UINT8 else cells.probabilities
        stored = np.ascontiguousarray(coded, dtype=dtype).tobytes()
    return {
        "classes": np.ascontiguousarray(cells.classes).reshape(-1),
        "scores": np.ascontiguousarray(cells.scores).reshape(-1),
        "residual": np.ascontiguousarray(cells.residual).reshape(-1),
        "probabilities": stored,
        "features": [_stored_feature(where, feature) for feature in cells.features] or None,
    }


def decode(row: Mapping[str, Any], form: Form, height: int, width: int) -> CellScores:
    """Returns the arrays of a row; probabilities of `Form.LOG_UINT8` become float32, see `quantization.restore`.

    Args:
        row: The array columns as Arrow scalars.
        form: How the probabilities are stored.
        height: Rows of cells.
        width: Columns of cells.

    Raises:
        ValueError, TypeError, AttributeError: A column is empty or has a wrong size.
    """
    classes = _values(row["classes"], np.int32).reshape(height, width, -1)
    scores = _values(row["scores"], np.float32).reshape(height, width, -1)
    probabilities = None
    if form in DTYPES:
        probabilities = _array(row["probabilities"], DTYPES[form]).reshape(height, width, -1)
        if form is Form.LOG_UINT8:
            probabilities = restore(probabilities, classes, scores)
    features = []
    for item in row["features"] if row["features"].is_valid else ():
        stored = {name: item[name].as_py() for name in ("name", "height", "width", "channels", "dtype")}
        values = _array(item["values"], np.dtype(stored["dtype"]).newbyteorder("<"))
        features.append(Feature(stored["name"], values.reshape(stored["height"], stored["width"], stored["channels"])))
    residual = _values(row["residual"], np.float32).reshape(height, width)
    return CellScores(classes, scores, residual, probabilities, tuple(features))


def map_digest(
    height: int,
    width: int,
    *,
    classes: Numbers,
    scores: Numbers,
    residual: Numbers,
    probabilities: bytes | None,
    features: Sequence[Mapping[str, Any] | StoredFeature] | None,
) -> str:
    """Returns the SHA-256, in hex, of a stored map; it does not depend on the file. `densecast check` compares it.

    Args:
        height: Rows of cells.
        width: Columns of cells.
        classes: int32, flat.
        scores: float32, flat.
        residual: float32, flat.
        probabilities: As stored, or None.
        features: As stored, or None.
    """
    sha = hashlib.sha256(f"{height} {width}".encode())
    for array, dtype in ((classes, "<i4"), (scores, "<f4"), (residual, "<f4")):
        sha.update(np.ascontiguousarray(array, dtype=dtype).data)
    sha.update(probabilities or b"")
    for feature in features or ():
        sha.update("\0".join(str(feature[name]) for name in ("name", "height", "width", "dtype")).encode())
        sha.update(feature["values"])
    return sha.hexdigest()


def _check_storable(where: str, what: str, array: Probabilities, *, form: str, dtype: np.dtype[Cells]) -> None:
    """Raises MapTooLargeError if an array, stored as `dtype`, does not fit in one row."""
    size = array.size * dtype.itemsize
    if size > LARGEST_VALUE_BYTES:
        raise MapTooLargeError(
            f"a map of {array.shape[0]} x {array.shape[1]} cells and {what} takes {size:,} bytes as {form}",
            where=where,
            why=f"a row of the table holds at most {LARGEST_VALUE_BYTES:,}",
            remedy="keep the top k classes only, use float16, a smaller scale, or smaller tiles",
        )


def _stored_feature(where: str, feature: Feature) -> StoredFeature:
    height, width, channels = feature.values.shape
    values = np.ascontiguousarray(feature.values).astype(feature.values.dtype.newbyteorder("<"), copy=False)
    what = f"{channels} channels of {feature.name}"
    _check_storable(where, what, values, form=values.dtype.name, dtype=values.dtype)
    return {
        "name": feature.name,
        "height": height,
        "width": width,
        "channels": channels,
        "dtype": values.dtype.name,
        "values": values.tobytes(),
    }


def _array(scalar: Any, dtype: np.dtype[Any]) -> Any:
    # A copy, because the bytes of a row may start at any address.
    return np.frombuffer(scalar.as_buffer(), dtype=dtype).astype(dtype.newbyteorder("="))


def _values(scalar: Any, dtype: type[np.generic]) -> Any:
    return scalar.values.to_numpy(zero_copy_only=False).astype(dtype, casting="equiv")
