"""Checks that a row of the table is consistent in itself; one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.images.resize import WINDOWS_SCALE
from pipeline.maintenance.check_images import RowIdentity
from pipeline.maps.classification_map import MapError, check_cells, check_values
from pipeline.maps.encoding import decode, map_digest
from pipeline.maps.recipe import Form
from pipeline.rejection import Reason
from pipeline.table.row_decoding import Row, scalars
from pipeline.table.schema import ARRAYS, SCHEMA, Status, strings

IDENTITY_COLUMNS = RowIdentity._fields
_OF_A_MAP = (*ARRAYS, "geometry", "map_height", "map_width", "class_count", "map_digest", "best_labels")
_OF_A_SCORED_ROW = ("image_digest", "image_height", "image_width", "map_height", "map_width", "class_count", "geometry")
_DECODED = ("form", *ARRAYS, "map_height", "map_width", "class_count", "map_digest")
_Indices: TypeAlias = NDArray[np.intp]
_REASONS = frozenset(map(str, Reason))
_STATUSES = frozenset(map(str, Status))


class RowFault(NamedTuple):
    """A fault of a row.

    Attributes:
        uri: The image.
        what: What is wrong.
        digest: Whether the map differs from its digest, so is not the one that was stored.
    """

    uri: str
    what: str
    digest: bool = False


def identities(batch: pa.RecordBatch) -> list[RowIdentity]:
    """Returns the identities of a batch's rows; the columns must not have nulls."""
    columns = (batch.column(name).to_pylist() for name in IDENTITY_COLUMNS)
    return [RowIdentity(*values) for values in zip(*columns, strict=True)]


def null_faults(batch: pa.RecordBatch) -> list[str]:
    """Returns the columns that must not have nulls, and have some."""
    required = [field.name for field in SCHEMA if not field.nullable]
    nulls = {name: batch.column(name).null_count for name in required}
    return [f"{count} rows have no {name}" for name, count in nulls.items() if count]


def row_faults(batch: pa.RecordBatch) -> Iterator[RowFault]:
    """Yields the faults of the rows of a batch of `SCHEMA` that has no `null_faults`."""
    uris, statuses = strings(batch.column("uri")), strings(batch.column("status"))
    yield from _placement_faults(batch, uris)
    yield from _emptiness_faults(batch, uris, statuses)
    decoded = batch.select(list(_DECODED))
    for index, status in enumerate(statuses):
        if status == Status.SCORED:
            yield from _map_faults(uris[index], scalars(decoded, index))


def _placement_faults(batch: pa.RecordBatch, uris: list[str]) -> Iterator[RowFault]:
    scale, tile, tiles = (batch.column(name).to_numpy() for name in ("scale", "tile_index", "tile_count"))
    of_windows = pc.is_valid(batch.column("windows")).to_numpy(zero_copy_only=False)
    for index in np.flatnonzero(np.where(of_windows, scale != WINDOWS_SCALE, ~((scale > 0) & np.isfinite(scale)))):
        yield RowFault(uris[index], f"its scale is {scale[index]}")
    for index in np.flatnonzero((tile < 0) | (tile >= tiles)):
        yield RowFault(uris[index], f"it is tile {tile[index]} of {tiles[index]}")


def _emptiness_faults(batch: pa.RecordBatch, uris: list[str], statuses: list[str]) -> Iterator[RowFault]:
    """Yields unknown statuses and reasons, and columns that are null, or not, contrary to the status."""
    column = batch.column("status")
    scored, rejected = (pc.equal(column, pa.scalar(value)) for value in (Status.SCORED.value, Status.REJECTED.value))
    for index, (status, reason) in enumerate(zip(statuses, batch.column("reason").to_pylist(), strict=True)):
        if status not in _STATUSES:
            yield RowFault(uris[index], f"its status is {status!r}")
        elif status == Status.REJECTED and reason not in _REASONS:
            yield RowFault(uris[index], f"it was rejected for the unknown reason {reason!r}")
        elif status != Status.REJECTED and reason is not None:
            yield RowFault(uris[index], f"it is {status}, and has the reason {reason!r}")
    for name in _OF_A_MAP:
        present = pc.is_valid(batch.column(name))
        for index in _indices_of_true(pc.and_not(present, scored)):
            yield RowFault(uris[index], f"it is {statuses[index]}, and has {name}")
    for name in _OF_A_SCORED_ROW:
        for index in _indices_of_true(pc.and_(pc.is_null(batch.column(name)), scored)):
            yield RowFault(uris[index], f"it is scored, and has no {name}")
    for index in _indices_of_true(pc.and_(pc.is_null(batch.column("detail")), rejected)):
        yield RowFault(uris[index], "it is rejected, and has no detail")


def _indices_of_true(mask: pa.BooleanArray) -> _Indices:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def _map_faults(uri: str, row: Row) -> Iterator[RowFault]:
    height, width = row["map_height"].as_py(), row["map_width"].as_py()
    try:
        cells = decode(row, Form(row["form"].as_py()), height, width)
        check_cells(uri, cells, row["class_count"].as_py())
        check_values(uri, cells)
    except MapError as error:
        yield RowFault(uri, error.what)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        yield RowFault(uri, f"its arrays do not make a map of {height} x {width} cells: {error}")
    stored = row["map_digest"].as_py()
    digest = _digest(row)
    if digest != stored:
        what = "its map has no digest" if stored is None else f"its map has the digest {digest}, not {stored}"
        yield RowFault(uri, what, digest=True)


def _digest(row: Row) -> str:
    # A digest that cannot be computed becomes a text that differs from every stored one.
    try:
        return map_digest(
            row["map_height"].as_py(),
            row["map_width"].as_py(),
            **{name: row[name].values.to_numpy(zero_copy_only=False) for name in ("classes", "scores", "residual")},
            probabilities=row["probabilities"].as_py(),
            features=row["features"].as_py(),
        )
    except (AttributeError, ValueError, TypeError, pa.ArrowException) as error:
        return f"that cannot be computed ({error})"
