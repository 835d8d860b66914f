"""Reads sets of features to compare: a table, or a file that `export_table` wrote, or plain NumPy arrays."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conversion import temporary_folder
from pipeline.errors import TableError
from pipeline.exports.export_table import format_of
from pipeline.exports.formats import ABOUT, SHAPE_SUFFIX, ExportFormat, matlab_name, names_file
from pipeline.exports.gather import Selection, gather
from pipeline.exports.spool import Spool, Values
from pipeline.storage.address import is_remote, local_path
from pipeline.table.paths import TableRoot

Row = Callable[[int], Values]
"""Returns the values of an image by its place, in any shape."""

_NAMES = ("uri", "id")
_MATLAB_NUMBERS = (b"single", b"double", b"int32")
_REMEDY = "give a table, or a file that `densecast export` wrote"


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of images, which are read one by one.

    Attributes:
        where: Where they are.
        uris: The addresses of the images; empty if the file has no names, whose rows are then numbered.
        ids: Their owners' names, or empty texts.
        blobs: What returns the values of an image, by name of the blob.
        images: The number of images.
    """

    where: str
    uris: Sequence[str]
    ids: Sequence[str]
    blobs: Mapping[str, Row]
    images: int


@contextmanager
def read_features(where: TableRoot | str, selection: Selection) -> Iterator[FeatureSet]:
    """Yields a set of features; files stay open until the block ends.

    Args:
        where: A table, or a file by its ending: `.npy` (with `.json` beside it for the names), `.npz`, `.h5`, `.hdf5`,
            `.mat` or `.parquet`.
        selection: What is taken of a table. `blobs` also chooses among those of a file; all others of it are ignored.

    Raises:
        TableError: It is neither, it is damaged, or it has no such blob.
    """
    path = None if is_remote(where) else local_path(where)
    with ExitStack() as stack:
        if path is None or not path.is_file():
            root = where if isinstance(where, TableRoot) else TableRoot(where)
            gathered = stack.enter_context(gather(root, selection))
            blobs = {name: array.__getitem__ for name, array in gathered.arrays.items()}
            found = FeatureSet(str(where), gathered.uris, gathered.ids, blobs, len(gathered.uris))
        else:
            try:
                form = format_of(str(path))
                found = _READERS[form](path, stack)
            except TableError:
                raise
            except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, pa.ArrowException) as error:
                raise TableError(f"cannot be read: {error}", where=str(path), remedy=_REMEDY) from error
            found = _chosen(found, selection.blobs)
        yield found


def _chosen(found: FeatureSet, wanted: Sequence[str]) -> FeatureSet:
    if not wanted:
        return found
    of_matlab = {matlab_name(name): row for name, row in found.blobs.items()}
    blobs = {name: found.blobs.get(name) or of_matlab.get(matlab_name(name)) for name in wanted}
    missing = [name for name, row in blobs.items() if row is None]
    if missing:
        raise TableError(
            f"there is no {', '.join(missing)}", where=found.where, remedy=f"it has {', '.join(found.blobs)}"
        )
    kept = {name: row for name, row in blobs.items() if row is not None}
    return FeatureSet(found.where, found.uris, found.ids, kept, found.images)


def _set(path: Path, names: Mapping[str, Sequence[str]], blobs: Mapping[str, Row], images: int) -> FeatureSet:
    uris, ids = ([_text(path, text) for text in names.get(name, ())] for name in _NAMES)
    for texts in (uris, ids):
        if len(texts) not in (0, images):
            raise TableError(f"{len(texts)} names for {images} images", where=str(path), remedy=_REMEDY)
    return FeatureSet(str(path), uris, ids or [""] * images, blobs, images)


def _text(path: Path, name: object) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "surrogateescape")
    if not isinstance(name, str):
        raise TableError(f"a name is {name!r}, not a text", where=str(path), remedy=_REMEDY)
    return name


def _rows(array: Any, shapes: Values | None) -> Row:
    """Returns the rows of an array over all images: along its first axis, or as many cells as `shapes` says."""
    if shapes is None or len(array) == len(shapes):
        return lambda index: np.asarray(array[index])
    counts = shapes.astype(np.int64).prod(axis=1)
    ends = np.cumsum(counts)
    return lambda index: np.asarray(array[ends[index] - counts[index] : ends[index]])


def _read_npy(path: Path, stack: ExitStack) -> FeatureSet:  # noqa: ARG001 - one signature for all readers
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    beside = names_file(path)
    names: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if not isinstance(names, dict):
        raise TableError(
            "the names are not a JSON object", where=str(beside), remedy='write {"uri": [...], "name": "fc7"}'
        )
    if array.ndim < 1:
        raise TableError("an array without axes has no rows", where=str(path))
    return _set(path, names, {str(names.get("name", path.stem)): _rows(array, None)}, len(array))


def _read_npz(path: Path, stack: ExitStack) -> FeatureSet:
    # NumPy would read a whole member into memory.
    folder = stack.enter_context(temporary_folder())
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for number, member in enumerate(archive.namelist()):
            copy = folder / f"{number}.npy"
            with archive.open(member) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            arrays[member.removesuffix(".npy")] = np.load(copy, mmap_mode="r", allow_pickle=False)
    texts = {name: arrays[name].tolist() for name in _NAMES if name in arrays}
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu" and array.ndim}
    return _of_arrays(path, texts, numbers, SHAPE_SUFFIX)


def _of_arrays(path: Path, texts: Mapping[str, Sequence[str]], numbers: Mapping[str, Any], suffix: str) -> FeatureSet:
    blobs = {name: array for name, array in numbers.items() if not name.endswith(suffix)}
    shapes = {name: np.asarray(numbers[name + suffix]) for name in blobs if name + suffix in numbers}
    counts = {len(shapes.get(name, array)) for name, array in blobs.items()}
    if len(counts) != 1:
        raise TableError(f"arrays of {sorted(counts)} rows", where=str(path), remedy=_REMEDY)
    rows = {name: _rows(array, shapes.get(name)) for name, array in blobs.items()}
    return _set(path, texts, rows, counts.pop())


def _read_hdf5(path: Path, stack: ExitStack) -> FeatureSet:
    import h5py

    file = stack.enter_context(h5py.File(path, "r"))
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.__setitem__(name, item) if isinstance(item, h5py.Dataset) else None)
    texts = {name: list(found[name].asstr()[:]) for name in _NAMES if name in found}
    numbers = {name: item for name, item in found.items() if item.dtype.kind in "fiu" and item.ndim}
    return _of_arrays(path, texts, numbers, SHAPE_SUFFIX)


class _Transposed:
    """A dataset of a MAT-file, whose axes are counted from the other end."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return int(self._dataset.shape[-1])

    def __getitem__(self, index: int | slice) -> Values:
        return np.asarray(self._dataset[..., index]).transpose()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        return np.asarray(self[:], dtype)


def _read_mat(path: Path, stack: ExitStack) -> FeatureSet:
    import h5py

    try:
        file = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise TableError(
            "is not a MAT-file of version 7.3", where=str(path), remedy="save it in MATLAB with -v7.3"
        ) from error
    variables = [(name, item) for name, item in file.items() if isinstance(item, h5py.Dataset)]
    kinds = {name: item.attrs.get("MATLAB_class", b"") for name, item in variables}
    texts = {name: _characters(file[name]) for name in _NAMES if kinds.get(name) == b"char"}
    numbers = {name: _Transposed(file[name]) for name, kind in kinds.items() if kind in _MATLAB_NUMBERS}
    found = _of_arrays(path, texts, numbers, "_shape")
    # A variable of MATLAB cannot have every blob's name.
    own = {name: str(file[name].attrs.get(ABOUT, name)) for name in found.blobs}
    return dataclasses.replace(found, blobs={own[name]: row for name, row in found.blobs.items()})


def _characters(dataset: Any) -> list[str]:
    rows = np.ascontiguousarray(dataset[:].transpose()).astype("<u2")
    return [row.tobytes().decode("utf-16-le", "surrogatepass").rstrip(" ") for row in rows]


def _read_parquet(path: Path, stack: ExitStack) -> FeatureSet:
    file = stack.enter_context(pq.ParquetFile(path))
    schema = file.schema_arrow
    lists = [field.name for field in schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)]
    names = [name for name in _NAMES if name in schema.names]
    spool = stack.enter_context(Spool())
    texts: dict[str, list[str]] = {name: [] for name in names}
    images = 0
    for batch in file.iter_batches(256, columns=[*names, *lists]):
        for name in names:
            texts[name] += [text or "" for text in batch.column(name).to_pylist()]
        for name in lists:
            for value in batch.column(name):
                spool.append(name, value.values.to_numpy(zero_copy_only=False).reshape(1, -1, 1), str(path))
        images += batch.num_rows
    order = range(images)
    return _set(path, texts, {name: array.ordered(order).__getitem__ for name, array in spool.arrays.items()}, images)


_READERS: dict[ExportFormat, Callable[[Path, ExitStack], FeatureSet]] = {
    ExportFormat.NPY: _read_npy,
    ExportFormat.NPZ: _read_npz,
    ExportFormat.HDF5: _read_hdf5,
    ExportFormat.MAT: _read_mat,
    ExportFormat.PARQUET: _read_parquet,
}
