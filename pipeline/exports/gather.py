"""The maps and features of a table that are exported or compared, in order."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import TableError
from pipeline.exports.spool import OrderedArray, Spool, Values
from pipeline.images.resize import WINDOWS_SCALE
from pipeline.maps.classification_map import ClassificationMap
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.summaries import read_model

PROBABILITIES, CLASSES, SCORES = "probabilities", "classes", "scores"
"""The names of a map's own arrays, beside those of its features."""


@dataclass(frozen=True)
class Selection:
    """What is taken of a table.

    Attributes:
        run: The run whose maps are taken; None for all.
        scale: The scale of the maps; 0 for windows. None: windows if the table has any, or else its only scale.
        blobs: The names of features or of a map's own arrays; the name of the blob behind the map stands for
            `probabilities`. Empty: the features and the probabilities that the maps keep, or else classes and scores.
        average: Whether the mean over the cells of each image is taken.
    """

    run: str | None = None
    scale: float | None = None
    blobs: tuple[str, ...] = ()
    average: bool = False


@dataclass(frozen=True)
class Gathered:
    """Arrays of images, sorted by address.

    Attributes:
        uris: The addresses of the images, ascending by code points; each once.
        ids: Their owner's names; empty where there are none.
        labels: Their labels; empty where there are none.
        arrays: The arrays by name, each with one entry an image.
        facts: What they are of, for people and programs, as JSON.
    """

    uris: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    arrays: Mapping[str, OrderedArray]
    facts: Mapping[str, Any]


@contextmanager
def gather(table: TableRoot, selection: Selection, folder: Path | None = None) -> Iterator[Gathered]:
    """Yields the chosen arrays of a table; they lie in temporary files of `folder` until the block ends.

    Memory holds the names of the images and some numbers for each; every row is read once.

    Raises:
        TableError: There is no such map or blob, or images differ in what they keep.
        MapError: A map cannot be decoded.
    """
    maps = MapTable(table)
    scale = _scale(table, maps, selection)
    names: list[tuple[str, str]] = []
    models: set[str] = set()
    with Spool(folder) as spool:
        for map_ in maps.select(run=selection.run, scale=scale):
            chosen = _chosen(table, map_, selection)
            if selection.average and (best := [name for name in (CLASSES, SCORES) if name in chosen]):
                raise TableError(
                    f"{' and '.join(best)} cannot be averaged",
                    where=map_.uri,
                    why="every cell has its own best classes",
                    remedy="score with --scores float32 and average the probabilities, or name a feature with --blob",
                )
            for name, values in chosen.items():
                spool.append(name, _mean(values) if selection.average else values, map_.uri)
            names.append((map_.uri, map_.id or ""))
            models.add(map_.model_digest)
        _check_whole(table, spool, len(names))
        order = sorted(range(len(names)), key=lambda index: names[index][0])
        labels = _labels_of(maps)
        yield Gathered(
            tuple(names[index][0] for index in order),
            tuple(names[index][1] for index in order),
            tuple(labels.get(names[index][0], "") for index in order),
            {name: array.ordered(order) for name, array in spool.arrays.items()},
            {
                "densecast": 1,
                "table": str(table),
                "version": maps.version,
                "run": selection.run,
                "scale": scale,
                "averaged": selection.average,
                "models": sorted(models),
            },
        )


def _scale(table: TableRoot, maps: MapTable, selection: Selection) -> float:
    """Returns the scale whose maps are taken; raises TableError if there are none, or several to choose from."""
    run = "" if selection.run is None else f" by run {selection.run}"
    scales = maps.scored_scales(run=selection.run)
    text = ", ".join(f"{scale:g}" for scale in scales)
    if not scales:
        raise TableError(f"the table has no maps{run}", where=table, remedy="see `densecast runs`")
    if selection.scale is not None:
        if selection.scale not in scales:
            raise TableError(
                f"the table has no maps{run} at scale {selection.scale:g}", where=table, remedy=f"it has maps at {text}"
            )
        return selection.scale
    if WINDOWS_SCALE in scales:
        return WINDOWS_SCALE
    if len(scales) > 1:
        raise TableError(
            f"the table has maps{run} at the scales {text}", where=table, remedy="name one of them with --scale"
        )
    return scales[0]


def _chosen(table: TableRoot, map_: ClassificationMap, selection: Selection) -> dict[str, Values]:
    """Returns the arrays of a map that are taken, [h, w, channels], by name."""
    own: dict[str, Values] = {CLASSES: map_.classes, SCORES: map_.scores}
    if map_.probabilities is not None:
        own = {PROBABILITIES: map_.probabilities, **own}
    if not selection.blobs:
        kept: dict[str, Values] = dict(map_.features)
        if PROBABILITIES in own:
            kept[PROBABILITIES] = own[PROBABILITIES]
        return kept or own
    known: dict[str, Values] = {**own, **map_.features}
    if any(name not in known for name in selection.blobs) and PROBABILITIES in own:
        known = {_output_blob(table, map_.model_digest): own[PROBABILITIES], **known}
    missing = [name for name in selection.blobs if name not in known]
    if missing:
        raise TableError(
            f"there is no {', '.join(missing)}",
            where=map_.uri,
            why="its map keeps only the best classes" if PROBABILITIES not in own else "",
            remedy=f"it has {', '.join(known)}; score again with --features, or --scores float32 for all probabilities",
        )
    return {name: known[name] for name in selection.blobs}


@functools.lru_cache(maxsize=64)
def _output_blob(table: TableRoot, digest: str) -> str:
    return str(read_model(table, digest).get("output_blob", PROBABILITIES))


def _mean(values: Values) -> Values:
    kind = np.float64 if values.dtype == np.float64 else np.float32
    mean: Values = values.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(kind)
    return mean


def _check_whole(table: TableRoot, spool: Spool, images: int) -> None:
    """Checks that every array has an entry for every image."""
    for name, array in spool.arrays.items():
        if len(array) < images:
            raise TableError(
                f"{images - len(array)} of {images} images do not keep {name}",
                where=table,
                why="they were scored with other settings",
                remedy="export the maps of one run: --run; or name what all of them keep: --blob",
            )


def _labels_of(maps: MapTable) -> dict[str, str]:
    columns: Sequence[str] = ("uri", "label")
    rows = maps.to_arrow(columns)
    pairs = zip(*(rows.column(name).to_pylist() for name in columns), strict=True)
    return {uri: label for uri, label in pairs if label}
