"""Rows of the table back into maps; the tiles of a huge image into one."""

from collections.abc import Mapping, Sequence
from typing import Any

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
"""What reading a map takes; the other columns need not be loaded."""

_OF_A_TILE = (*ARRAYS, "tile_index", "tile_y", "tile_x", "map_height", "map_width", "run_id")


def map_from_row(row: Mapping[str, Any], labels: tuple[str, ...]) -> ClassificationMap:
    """The map that a scored row holds: `map_from_rows` of a single row."""
    return map_from_rows([row], labels)


def map_from_rows(rows: Sequence[Mapping[str, Any]], labels: tuple[str, ...]) -> ClassificationMap:
    """The map that the rows of an image at one scale hold, exactly as it was stored.

    Args:
        rows: The columns of `MAP_COLUMNS` as Arrow scalars: what `scalars` gives. All tiles of a map in any order, or
            the one row of an image that was not cut; a tile given twice counts once.
        labels: The labels of the rows' model.

    Raises:
        MapError: A row holds no map, its arrays do not fit each other, or the tiles do not make up a map: one is
            missing, they overlap, or they are of different maps.
    """
    found = [(_facts(row), row) for row in rows]
    about = found[0][0]
    tiles = {facts["tile_index"]: (facts, row) for facts, row in found}
    for name in (name for name in MAP_COLUMNS if name not in _OF_A_TILE):
        if any(facts[name] != about[name] for facts, _ in found):
            raise MapError(f"tiles of one map have different {name}", where=about["uri"])
    missing = [index for index in range(about["tile_count"]) if index not in tiles]
    if missing or len(tiles) != about["tile_count"]:
        numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise MapError(
            f"{len(tiles)} of {about['tile_count']} tiles are there" + (f"; missing: {numbers}" if missing else ""),
            where=about["uri"],
            remedy="look at the damage with `densecast check`, or score the image again",
        )
    cells = _assembled([(facts, _cells(facts, row)) for facts, row in tiles.values()])
    seen = about["scored_height"], about["scored_width"]
    return ClassificationMap(
        uri=about["uri"],
        id=about["id"],
        image_size=(about["image_height"], about["image_width"]),
        labels=labels,
        classes=cells.classes,
        scores=cells.scores,
        residual=cells.residual,
        probabilities=cells.probabilities,
        geometry=Geometry(**about["geometry"]),
        model_digest=about["model_digest"],
        run_id=about["run_id"],
        scale=about["scale"],
        key=about["key"],
        features={feature.name: feature.values for feature in cells.features},
        scored_size=None if None in seen else seen,
    )


def scalars(batch: Any, index: int) -> dict[str, Any]:
    """Row `index` of a `pyarrow.RecordBatch` or `Table`, as Arrow scalars by column."""
    return {name: batch.column(name)[index] for name in batch.schema.names}


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The narrow columns of a row that holds a map."""
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


def _cells(facts: Mapping[str, Any], row: Mapping[str, Any]) -> CellScores:
    height, width = facts["map_height"], facts["map_width"]
    try:
        return decode(row, Form(facts["form"]), height, width)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise MapError(
            f"the arrays of the row do not make a map of {height} x {width} cells: {error}", where=facts["uri"]
        ) from error


def _assembled(tiles: Sequence[tuple[Mapping[str, Any], CellScores]]) -> CellScores:
    """The cells of all tiles in their places."""
    if len(tiles) == 1:
        return tiles[0][1]
    where = tiles[0][0]["uri"]
    origins = [(facts["tile_y"], facts["tile_x"]) for facts, _ in tiles]
    names = [[feature.name for feature in cells.features] for _, cells in tiles]
    if any(cells.residual.shape != f.values.shape[:2] for _, cells in tiles for f in cells.features):
        raise MapError("a feature of a tile has other cells than its map", where=where)
    if any(other != names[0] for other in names):
        raise MapError("tiles of one map have different features", where=where)

    def whole(arrays: Sequence[Any]) -> Any:
        return place((y, x, array) for (y, x), array in zip(origins, arrays, strict=True))

    try:
        parts = [cells for _, cells in tiles]
        first = parts[0].probabilities
        return CellScores(
            whole([cells.classes for cells in parts]),
            whole([cells.scores for cells in parts]),
            whole([cells.residual for cells in parts]),
            None if first is None else whole([cells.probabilities for cells in parts]),
            tuple(
                Feature(name, whole([cells.features[i].values for cells in parts])) for i, name in enumerate(names[0])
            ),
        )
    except MapError as error:
        raise MapError(f"its tiles do not make up a map: {error.what}", where=where, why=error.why) from error
