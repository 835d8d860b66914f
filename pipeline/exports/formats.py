"""The files of an export: NumPy's `.npy` and `.npz`, HDF5, MATLAB's `.mat` (version 7.3) and Parquet.

Each writer takes what was gathered and a path that does not exist yet. It writes a few images at a time.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.exports.gather import Gathered
from pipeline.exports.spool import OrderedArray, Values

_IMAGES_AT_ONCE = 256
_BYTES_AT_ONCE = 1 << 24
_NAMES = ("uri", "id", "label")
ABOUT = "densecast"
"""What a file keeps the facts of an export under, as JSON."""
SHAPE_SUFFIX = ".shape"
"""Follows the name of an array in the name of its images' (rows, columns), int32 [N, 2]."""


class ExportFormat(StrEnum):
    """The kind of file that is written."""

    NPY = "npy"
    NPZ = "npz"
    HDF5 = "hdf5"
    MAT = "mat"
    PARQUET = "parquet"


Writer: TypeAlias = Callable[[Gathered, Path], None]


def _texts(gathered: Gathered) -> dict[str, Sequence[str]]:
    return dict(zip(_NAMES, (gathered.uris, gathered.ids, gathered.labels), strict=True))


def _chunks(array: OrderedArray) -> Iterator[tuple[int, Values]]:
    """Yields the array in its own shape, a few images at a time: where a piece begins along axis 0, and the piece."""
    shape = array.shape[1:]
    start, held, size = 0, [], 0
    for index, values in enumerate(array):
        held.append(values.reshape(-1, *shape))
        size += values.nbytes
        if len(held) == _IMAGES_AT_ONCE or size >= _BYTES_AT_ONCE or index + 1 == len(array):
            piece = np.concatenate(held)
            yield start, piece
            start, held, size = start + len(piece), [], 0


def _check_names(gathered: Gathered, names: Sequence[str]) -> None:
    """Checks that the names of a file's arrays differ.

    Raises:
        TableError: Two are one, as that of a blob called `label`.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(
            f"the arrays {', '.join(gathered.arrays)} would have the same names in the file: {', '.join(twice)}",
            remedy="export them one by one with --blob, or use --format npy",
        )


def _shapes(array: OrderedArray) -> Values:
    return np.array(array.shapes, np.int32).reshape(-1, 2)


# --- NumPy


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_2_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _npy_pieces(array: OrderedArray) -> Iterator[bytes]:
    yield _npy_header(array.shape, array.dtype)
    for _, piece in _chunks(array):
        yield piece.tobytes()


def names_file(path: Path) -> Path:
    """Returns the file beside an `.npy` that holds the names of its rows: `features.json` of `features.npy`."""
    return path.with_suffix(".json")


def check_npy(gathered: Gathered) -> OrderedArray:
    """Returns the one array that an `.npy` holds.

    Raises:
        TableError: There are several, or the images have different numbers of cells.
    """
    if len(gathered.arrays) != 1:
        raise TableError(
            f"an .npy holds one array, and these maps have {', '.join(gathered.arrays)}",
            remedy="name one with --blob, or use --format npz",
        )
    (array,) = gathered.arrays.values()
    if array.size is None:
        raise TableError(
            f"an .npy holds rows of one shape, and {array.name} has {len(set(array.shapes))} shapes",
            why="maps of images of different sizes have different numbers of cells",
            remedy="use --format npz, hdf5, mat or parquet; or --average; or score with --windows",
        )
    return array


def _write_npy(gathered: Gathered, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(_npy_pieces(check_npy(gathered)))


def names_of(gathered: Gathered) -> bytes:
    """Returns the content of `names_file`: JSON with `uri`, `id` and `label` of each row, `name` and the facts."""
    (name,) = gathered.arrays
    return json.dumps({ABOUT: dict(gathered.facts), "name": name, **_texts(gathered)}, indent=1).encode() + b"\n"


def _text_pieces(texts: Sequence[str]) -> Iterator[bytes]:
    dtype = np.dtype(f"<U{max([1, *map(len, texts)])}")
    yield _npy_header((len(texts),), dtype)
    for start in range(0, len(texts), _IMAGES_AT_ONCE):
        yield np.array(texts[start : start + _IMAGES_AT_ONCE], dtype).tobytes()


def _write_npz(gathered: Gathered, path: Path) -> None:
    def pieces() -> Iterator[tuple[str, Iterator[bytes]]]:
        for name, texts in _texts(gathered).items():
            yield name, _text_pieces(texts)
        yield ABOUT, _text_pieces([json.dumps(gathered.facts)])
        for name, array in gathered.arrays.items():
            yield name, _npy_pieces(array)
            shapes = _shapes(array)
            yield name + SHAPE_SUFFIX, iter([_npy_header(shapes.shape, shapes.dtype), shapes.tobytes()])

    _check_names(gathered, [*_NAMES, ABOUT, *gathered.arrays, *(name + SHAPE_SUFFIX for name in gathered.arrays)])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in pieces():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for piece in data:
                    member.write(piece)


# --- HDF5 and MATLAB


def _write_hdf5(gathered: Gathered, path: Path) -> None:
    import h5py

    names = [*_NAMES, *gathered.arrays, *(name + SHAPE_SUFFIX for name in gathered.arrays)]
    # HDF5 has a group for what stands before a slash.
    _check_names(gathered, [*names, *{name[:place] for name in names for place in _slashes(name)}])
    with h5py.File(path, "w") as file:
        file.attrs[ABOUT] = json.dumps(gathered.facts)
        for name, texts in _texts(gathered).items():
            file.create_dataset(name, data=list(texts), dtype=h5py.string_dtype())
        for name, array in gathered.arrays.items():
            dataset = file.create_dataset(name, array.shape, array.dtype)
            for start, piece in _chunks(array):
                dataset[start : start + len(piece)] = piece
            file.create_dataset(name + SHAPE_SUFFIX, data=_shapes(array))


def _slashes(name: str) -> list[int]:
    return [place for place, character in enumerate(name) if character == "/"]


_MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: densecast, written by h5py HDF5 schema 1.00 ."
_MATLAB_CLASSES = {"float64": b"double", "float32": b"single", "int32": b"int32"}


def matlab_name(name: str) -> str:
    """Returns a name as a variable of MATLAB: `fc7_before` of `fc7:before`.

    It has at most 57 characters: with `_shape` they are MATLAB's 63.

    >>> matlab_name("fc7:before"), matlab_name("1x1/out")
    ('fc7_before', 'x1x1_out')
    """
    safe = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return (safe if safe[:1].isalpha() else f"x{safe}")[:57]


def _write_mat(gathered: Gathered, path: Path) -> None:
    import h5py

    names = {name: matlab_name(name) for name in gathered.arrays}
    _check_names(gathered, [*_NAMES, ABOUT, *names.values(), *(f"{name}_shape" for name in names.values())])
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, texts in {**_texts(gathered), ABOUT: [json.dumps(gathered.facts)]}.items():
            _write_characters(file, name, texts)
        for name, array in gathered.arrays.items():
            # MATLAB has no float16, and counts axes from the other end.
            dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype
            dataset = file.create_dataset(names[name], array.shape[::-1], dtype)
            dataset.attrs[ABOUT] = name
            dataset.attrs["MATLAB_class"] = np.bytes_(_MATLAB_CLASSES[dtype.name])
            for start, piece in _chunks(array):
                dataset[..., start : start + len(piece)] = piece.astype(dtype, copy=False).transpose()
            shapes = file.create_dataset(f"{names[name]}_shape", data=_shapes(array).transpose())
            shapes.attrs["MATLAB_class"] = np.bytes_(b"int32")
    with path.open("r+b") as file:
        # Text, subsystem offset, version 2.0 and the mark of little-endian order: the header of every MAT-file.
        file.write(_MATLAB_HEADER.ljust(116) + b" " * 8 + b"\x00\x02IM")


def _write_characters(file: Any, name: str, texts: Sequence[str]) -> None:
    """Writes texts as a matrix of characters, one a row, padded with spaces: `cellstr(uri)` gives them."""
    units = [text.encode("utf-16-le", "surrogatepass") for text in texts]
    width = max([2, *map(len, units)]) // 2
    dataset = file.create_dataset(name, (width, len(texts)), np.uint16)
    dataset.attrs["MATLAB_class"] = np.bytes_(b"char")
    dataset.attrs["MATLAB_int_decode"] = np.int32(2)
    for start in range(0, len(units), _IMAGES_AT_ONCE):
        padded = [unit + b" \x00" * (width - len(unit) // 2) for unit in units[start : start + _IMAGES_AT_ONCE]]
        rows = np.frombuffer(b"".join(padded), "<u2").reshape(-1, width)
        dataset[:, start : start + len(rows)] = rows.transpose()


# --- Parquet


def _write_parquet(gathered: Gathered, path: Path) -> None:
    fields: list[pa.Field[Any]] = [pa.field(name, pa.string()) for name in _NAMES]
    for name, array in gathered.arrays.items():
        fields.append(pa.field(name, pa.list_(pa.field("element", pa.from_numpy_dtype(array.dtype)))))
        fields += [pa.field(f"{name}.{part}", pa.int32()) for part in ("height", "width", "channels")]
    _check_names(gathered, [field.name for field in fields])
    schema = pa.schema(fields, metadata={ABOUT: json.dumps(gathered.facts)})
    texts = _texts(gathered)
    bytes_an_image = sum(
        max((height * width for height, width in array.shapes), default=0) * array.channels * array.dtype.itemsize
        for array in gathered.arrays.values()
    )
    step = max(1, min(_IMAGES_AT_ONCE, _BYTES_AT_ONCE // max(1, bytes_an_image)))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(gathered.uris), step):
            here = range(start, min(start + step, len(gathered.uris)))
            columns: dict[str, Any] = {name: [values[index] for index in here] for name, values in texts.items()}
            for name, array in gathered.arrays.items():
                columns[name] = pa.array([array[index].reshape(-1) for index in here], schema.field(name).type)
                columns[f"{name}.height"] = [array.shapes[index][0] for index in here]
                columns[f"{name}.width"] = [array.shapes[index][1] for index in here]
                columns[f"{name}.channels"] = [array.channels] * len(here)
            writer.write_table(pa.table(columns, schema))


WRITERS: dict[ExportFormat, Writer] = {
    ExportFormat.NPY: _write_npy,
    ExportFormat.NPZ: _write_npz,
    ExportFormat.HDF5: _write_hdf5,
    ExportFormat.MAT: _write_mat,
    ExportFormat.PARQUET: _write_parquet,
}
"""What writes each format."""
