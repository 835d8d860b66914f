"""Rows of the table back into maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.maps import ClassificationMap, Geometry, MapError
from pipeline.recipe import Form
from pipeline.rows import ARRAYS, DTYPES, Status

MAP_COLUMNS = (
    *("key", "uri", "id", "status", "image_height", "image_width", "scale", "map_height", "map_width", "geometry"),
    *("form", *ARRAYS, "model_digest", "run_id", "tile_index", "tile_count", "tile_y", "tile_x"),
)
"""What reading a map takes; the other columns need not be loaded."""


def map_from_row(row: Mapping[str, Any], labels: tuple[str, ...]) -> ClassificationMap:
    """The map that a scored row holds, exactly as it was stored.

    Args:
        row: The columns of `MAP_COLUMNS` as Arrow scalars: what `scalars` gives.
        labels: The labels of the row's model.

    Raises:
        MapError: The row is a rejection, or its arrays do not fit each other.
    """
    value = {name: row[name].as_py() for name in MAP_COLUMNS if name not in ARRAYS}
    where = value["uri"]
    if value["status"] != Status.SCORED:
        raise MapError("the row is a rejection and holds no map", where=where)
    height, width, form = value["map_height"], value["map_width"], value["form"]
    if not height or not width or value["geometry"] is None:
        raise MapError("the row has no map size or no geometry", where=where)
    if form not in list(Form):
        raise MapError(
            f"the map has the unknown form {form!r}", where=where, remedy="read it with a newer version of densecast"
        )
    dtype = DTYPES.get(Form(form))
    try:
        stored = None if dtype is None else np.frombuffer(row["probabilities"].as_buffer(), dtype=dtype)
        return ClassificationMap(
            uri=where,
            id=value["id"],
            image_size=(value["image_height"], value["image_width"]),
            labels=labels,
            classes=_values(row["classes"], np.int32).reshape(height, width, -1),
            scores=_values(row["scores"], np.float32).reshape(height, width, -1),
            residual=_values(row["residual"], np.float32).reshape(height, width),
            # A copy, because the bytes of a row may lie at any address.
            probabilities=None
            if stored is None
            else stored.astype(stored.dtype.newbyteorder("=")).reshape(height, width, -1),
            geometry=Geometry(**value["geometry"]),
            model_digest=value["model_digest"],
            run_id=value["run_id"],
            scale=value["scale"],
            key=value["key"],
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise MapError(
            f"the arrays of the row do not make a map of {height} x {width} cells: {error}", where=where
        ) from error


def scalars(batch: Any, index: int) -> dict[str, Any]:
    """Row `index` of a `pyarrow.RecordBatch` or `Table`, as Arrow scalars by column."""
    return {name: batch.column(name)[index] for name in batch.schema.names}


def _values(scalar: Any, dtype: type[np.generic]) -> Any:
    return scalar.values.to_numpy(zero_copy_only=False).astype(dtype, casting="equiv")
