"""Weights as HDF5, `net.caffemodel.h5`: what Caffe writes with `snapshot_format: HDF5` (Net::ToHDF5).

A dataset `/data/<layer>/<index>` for each learned blob; a blob that is shared by name is stored with its owner alone,
the first layer that has it. HDF5 can refer to other files and to itself: such references are refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import h5py
import numpy as np

from conversion.arrays import Array
from conversion.caffe.reading import PathLike
from conversion.errors import ReadingError, WeightsError
from conversion.limits import DEFAULT_LIMITS, Limits

Stored = Mapping[str, Mapping[int, Array]]

_FLOAT_BYTES = 4
# What h5py raises on files that contradict themselves.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError)


def parse(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Stored:
    """Returns the blobs of a file's content as float32, by layer name and index. Layers without blobs are left out.

    Raises:
        ReadingError: It is not HDF5, is damaged, is not a net that Caffe saved, or refers to other files.
        LimitError: It has too many entries, or too large blobs.
    """
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return _read(file, where, limits)
    except _DAMAGED as error:
        raise ReadingError(
            f"cannot be read as HDF5: {error}", where=where, remedy="the file is damaged or truncated: fetch it again"
        ) from error


def write(path: PathLike, layers: Mapping[str, Sequence[tuple[str, Array]]]) -> None:
    """Writes parameters as Caffe does; a blob that layers share by name is written with the first of them.

    Args:
        path: The file; it is replaced if it exists.
        layers: For each layer of the net, in order, its learned blobs as (name that they are shared by or "", values).

    Raises:
        WeightsError: A layer with blobs has `/` in its name. HDF5 would make groups of it, which Caffe does not look
            into: it would load the file, leave the layer as it was initialised, and say nothing.
        OSError: The file cannot be written.
    """
    bad = [layer for layer, blobs in layers.items() if blobs and "/" in layer]
    if bad:
        raise WeightsError(
            f"layers {', '.join(bad[:5])}{' and more' if len(bad) > 5 else ''} cannot be saved as HDF5",
            where=str(path),
            why="`/` separates groups in HDF5, and Caffe would not find their weights",
            remedy="save as .caffemodel",
        )
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        written: set[str] = set()
        for layer, blobs in layers.items():
            if "/" in layer:
                continue
            group = data.create_group(layer)
            for index, (name, blob) in enumerate(blobs):
                if not name or name not in written:
                    group.create_dataset(str(index), data=np.ascontiguousarray(blob, np.float32))
                written.add(name)


def _read(file: h5py.File, where: str, limits: Limits) -> Stored:
    if not isinstance(_link(file, "data", where), h5py.Group):
        state = " (it looks like a solver's state)" if "history" in file or "iter" in file else ""
        raise ReadingError(
            f"it has no group /data{state}", where=where, remedy="give the .caffemodel.h5 that Caffe saved"
        )
    blobs_by_layer: dict[str, dict[int, Array]] = {}
    entries = 0
    size = 0
    for name, dataset in _datasets(file["data"], "", limits.nesting, where):
        entries += 1
        limits.check("entries", entries, "more entries", where=where)
        if dataset is None:
            continue
        layer, _, index = name.rpartition("/")
        place = f"{where}: /data/{name}"
        if not layer or not (index.isascii() and index.isdigit() and len(index) < 4):
            raise ReadingError("a dataset that is not a blob of a layer", where=place, why="expected /data/LAYER/INDEX")
        limits.check("axes", dataset.ndim, f"a blob of {dataset.ndim} axes", where=place)
        limits.check("elements", dataset.size, f"a blob of shape {dataset.shape}", where=place)
        size += int(dataset.size) * _FLOAT_BYTES
        limits.check("memory", size, f"{size:,} bytes of weights", where=place)
        if dataset.dtype.kind != "f" or 0 in dataset.shape:
            raise ReadingError(f"a blob of {dataset.dtype} and shape {dataset.shape}", where=place)
        if dataset.external or dataset.is_virtual:
            raise ReadingError(
                "its values are in another file", where=place, why="densecast opens no path that a file names"
            )
        blobs_by_layer.setdefault(layer, {})[int(index)] = np.asarray(dataset[()], dtype=np.float32)
    return {layer: dict(sorted(blobs.items())) for layer, blobs in blobs_by_layer.items()}


def _datasets(group: h5py.Group, prefix: str, depth: int, where: str) -> Iterator[tuple[str, h5py.Dataset | None]]:
    """Yields every dataset below a group with its path, and (path, None) for groups: a layer's name may contain `/`."""
    for key in group:
        name = f"{prefix}{key}"
        item = _link(group, key, where)
        if isinstance(item, h5py.Dataset):
            yield name, item
        elif isinstance(item, h5py.Group):
            yield name, None
            if depth == 0:
                raise ReadingError("groups are nested too deeply", where=f"{where}: /data/{name[:200]}")
            yield from _datasets(item, f"{name}/", depth - 1, where)
        else:
            raise ReadingError("neither group nor dataset", where=f"{where}: /data/{name}")


def _link(group: h5py.Group, key: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """Returns the object of a name, or None; raises ReadingError for a link to another object or file."""
    link = group.get(key, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ReadingError(
            f"{key!r} is a link to another object", where=where, why="Caffe writes none, and densecast follows none"
        )
    return group.get(key)
