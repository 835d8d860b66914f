"""Decodes rows of the table into maps; the tiles of a huge image become one map."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from pipeline.maps.classification_map import CellScores, ClassificationMap, Feature, MapError
from pipeline.maps.encoding import decode
from pipeline.maps.geometry import Geometry
from pipeline.maps.recipe import Form
from pipeline.maps.tiling import place
from pipeline.table.schema import ARRAYS, Status

MAP_COLUMNS = (
    *("key", "uri", "id", "status", "image_height", "image_width", "scale", "scored_height", "scored_width"),
    *("tile_index", "tile_count", "tile_y", "tile_x", "map_height", "map_width", "geometry", "form", *ARRAYS),
    *("model_digest", "run_id"),
)
"""The columns from which a map is decoded."""

_OF_A_TILE = (*ARRAYS, "tile_index", "tile_y", "tile_x", "map_height", "map_width", "run_id")

Row: TypeAlias = Mapping[str, Any]
"""A row as Arrow scalars by column; their methods depend on the column's type."""

_Facts: TypeAlias = Mapping[str, Any]
"""The narrow columns of a row as Python objects, by name."""


def map_from_rows(rows: Sequence[Row], labels: tuple[str, ...]) -> ClassificationMap:
    """Returns the map that the rows of an image at one scale hold, exactly as it was stored.

    Args:
        rows: The columns `MAP_COLUMNS`, as `scalars` returns them: all tiles of a map in any order, or the one row of
            an image that was not cut. A tile given twice counts once.
        labels: The labels of the rows' model.

    Raises:
        MapError: A row holds no map, its arrays do not fit each other, or the tiles do not make up a map: one is
            missing, they overlap, or they belong to different maps.
    """
    tiles_facts = [(_facts(row), row) for row in rows]
    first = tiles_facts[0][0]
    tiles = {facts["tile_index"]: (facts, row) for facts, row in tiles_facts}
    for name in (name for name in MAP_COLUMNS if name not in _OF_A_TILE):
        if any(facts[name] != first[name] for facts, _ in tiles_facts):
            raise MapError(f"tiles of one map have different {name}", where=first["uri"])
    missing = [index for index in range(first["tile_count"]) if index not in tiles]
    if missing or len(tiles) != first["tile_count"]:
        numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise MapError(
            f"the table has {len(tiles)} of {first['tile_count']} tiles" + (f"; missing: {numbers}" if missing else ""),
            where=first["uri"],
            remedy="find the damage with `densecast check`, or score the image again",
        )
    cells = _join_tiles([(facts, _cells(facts, row)) for facts, row in tiles.values()])
    scored_size = first["scored_height"], first["scored_width"]
    return ClassificationMap(
        uri=first["uri"],
        id=first["id"],
        image_size=(first["image_height"], first["image_width"]),
        labels=labels,
        classes=cells.classes,
        scores=cells.scores,
        residual=cells.residual,
        probabilities=cells.probabilities,
        geometry=Geometry(**first["geometry"]),
        model_digest=first["model_digest"],
        run_id=first["run_id"],
        scale=first["scale"],
        key=first["key"],
        features={feature.name: feature.values for feature in cells.features},
        scored_size=None if None in scored_size else scored_size,
    )


def scalars(batch: pa.RecordBatch | pa.Table, index: int) -> Row:
    """Returns row `index` of a batch."""
    return {name: batch.column(name)[index] for name in batch.schema.names}


def _facts(row: Row) -> _Facts:
    """Returns the narrow columns of a row that holds a map."""
    facts = {name: row[name].as_py() for name in MAP_COLUMNS if name not in ARRAYS}
    where = facts["uri"]
    if facts["status"] != Status.SCORED:
        kind = "rejection" if facts["status"] == Status.REJECTED else "deletion"
        raise MapError(f"the row is a {kind} and holds no map", where=where)
    if not facts["map_height"] or not facts["map_width"] or facts["geometry"] is None:
        raise MapError("the row has no map size or no geometry", where=where)
    if facts["form"] not in list(Form):
        raise MapError(
            f"the map has the unknown form {facts['form']!r}",
            where=where,
            remedy="read it with a newer version of densecast",
        )
    return facts


def _cells(facts: _Facts, row: Row) -> CellScores:
    height, width = facts["map_height"], facts["map_width"]
    try:
        return decode(row, Form(facts["form"]), height, width)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise MapError(
            f"the arrays of the row do not make a map of {height} x {width} cells: {error}", where=facts["uri"]
        ) from error


def _join_tiles(tiles: Sequence[tuple[_Facts, CellScores]]) -> CellScores:
    """Returns the cells of all tiles as one map."""
    if len(tiles) == 1:
        return tiles[0][1]
    where = tiles[0][0]["uri"]
    origins = [(facts["tile_y"], facts["tile_x"]) for facts, _ in tiles]
    names = [[feature.name for feature in cells.features] for _, cells in tiles]
    if any(cells.residual.shape != f.values.shape[:2] for _, cells in tiles for f in cells.features):
        raise MapError("a feature of a tile has other cells than its map", where=where)
    if any(other != names[0] for other in names):
        raise MapError("tiles of one map have different features", where=where)

    def join(arrays: Sequence[Any]) -> Any:
        return place((y, x, array) for (y, x), array in zip(origins, arrays, strict=True))

    try:
        parts = [cells for _, cells in tiles]
        first = parts[0].probabilities
        return CellScores(
            join([cells.classes for cells in parts]),
            join([cells.scores for cells in parts]),
            join([cells.residual for cells in parts]),
            None if first is None else join([cells.probabilities for cells in parts]),
            tuple(
                Feature(name, join([cells.features[i].values for cells in parts])) for i, name in enumerate(names[0])
            ),
        )
    except MapError as error:
        raise MapError(f"its tiles do not make up a map: {error.what}", where=where, why=error.why) from error
