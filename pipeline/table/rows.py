"""The rows of the table: an image, or a tile of a huge one, at one scale; scored, rejected or deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.images.resize import WINDOWS_SCALE
from pipeline.maps.classification_map import CellScores, Floats, Integers, MapError, check_cells
from pipeline.maps.encoding import encode, map_digest
from pipeline.maps.geometry import Geometry
from pipeline.maps.labels import best_labels
from pipeline.maps.recipe import Recipe
from pipeline.rejection import Reason
from pipeline.table.schema import ARRAYS, DETAIL_LENGTH, SCHEMA, Status

_GEOMETRY = tuple(field.name for field in fields(Geometry))


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image file; of a rejected one perhaps only the uri is known.

    Attributes:
        uri: The image's address.
        id: The name that its owner gave it, if any.
        size_bytes: Size of the file.
        digest: SHA-256 of the file, in hex.
        height: Pixels.
        width: Pixels.
        version: `ImageReference.version` when the file was listed.
        file_type: The type of the file by its content, see `pipeline.images.decoding_rules`; None if it was not read.
        label: The label that its list gives it, if any.
    """

    uri: str
    id: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    height: int | None = None
    width: int | None = None
    version: str | None = None
    file_type: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The scale and tile of a row.

    Attributes:
        scale: The requested scale, or `WINDOWS_SCALE`; a rejected image has a row at each.
        height: Height of the whole image after scaling, in pixels.
        width: Width of the whole image after scaling, in pixels.
        tile_index: The tile of a huge image, counted from 0 by rows.
        tile_count: The number of tiles; 1 for an image that was not cut.
        tile_y: The row of the image's map at which the tile's map begins.
        tile_x: The column of the image's map at which the tile's map begins.
    """

    scale: float = 1.0
    height: int | None = None
    width: int | None = None
    tile_index: int = 0
    tile_count: int = 1
    tile_y: int = 0
    tile_x: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MapRow:
    """One row of the table; the fields are the columns of `SCHEMA`, arrays flattened row-major."""

    key: str
    uri: str
    id: str | None
    status: str
    reason: str | None
    detail: str | None
    image_bytes: int | None
    image_digest: str | None
    image_version: str | None
    image_height: int | None
    image_width: int | None
    scale: float
    scored_height: int | None
    scored_width: int | None
    tile_index: int
    tile_count: int
    tile_y: int
    tile_x: int
    map_height: int | None
    map_width: int | None
    geometry: Mapping[str, float] | None
    form: str
    classes: Integers | None
    scores: Floats | None
    residual: Floats | None
    probabilities: bytes | None
    class_count: int | None
    features: Sequence[Mapping[str, Any]] | None
    map_digest: str | None
    model_digest: str
    precision: str
    recipe: str
    run_id: str
    scored_at: datetime
    label: str | None
    best_labels: Sequence[str] | None
    windows: str | None

    @property
    def size_bytes(self) -> int:
        """Returns the approximate size of the row in memory, in bytes; its share of a compressed file is smaller."""
        arrays = sum(array.nbytes for array in (self.classes, self.scores, self.residual) if array is not None)
        blobs = sum(len(feature["values"]) for feature in self.features or ())
        texts = (self.uri, self.id, self.detail, *(self.best_labels or ()))
        text = sum(len(value) for value in texts if value is not None)
        return 512 + text + arrays + len(self.probabilities or b"") + blobs


def scored_row(
    image: ImageFacts,
    recipe: Recipe,
    geometry: Geometry,
    cells: CellScores,
    *,
    class_count: int,
    run_id: str,
    scored_at: datetime,
    placement: Placement | None = None,
) -> MapRow:
    """Returns the row of a map, without the names of its classes: see `with_labels`.

    Args:
        image: The image; its digest and size must be known.
        recipe: The recipe that made the map.
        geometry: Where the cells of the whole image's map lie in the image, in pixels of the image as it was read.
        cells: The map's cells; with `probabilities` if `recipe.form` stores them. They are stored in that form.
        class_count: C, the number of the model's classes.
        run_id: The run.
        scored_at: The time, with a time zone.
        placement: The row's scale and tile; by default the whole map at scale 1.

    Raises:
        MapError: The arrays do not fit each other, the recipe or the class count, or are too large for one row.
    """
    if image.digest is None or image.height is None or image.width is None:
        raise MapError("a map needs the digest and the size of its image", where=image.uri)

    check_cells(image.uri, cells, class_count)
    height, width, _ = cells.classes.shape
    arrays = encode(image.uri, cells, recipe.form)
    return MapRow(
        **_common_columns(
            image,
            recipe,
            placement or Placement(1.0, image.height, image.width),
            run_id=run_id,
            scored_at=scored_at,
        ),
        **arrays,
        status=Status.SCORED.value,
        reason=None,
        detail=None,
        map_height=height,
        map_width=width,
        geometry={name: float(getattr(geometry, name)) for name in _GEOMETRY},
        class_count=class_count,
        map_digest=map_digest(height, width, **arrays),
        best_labels=None,
    )


def with_labels(row: MapRow, cells: CellScores, labels: Sequence[str]) -> MapRow:
    """Returns the row of a map with the names of its best classes.

    Args:
        row: The row, as `scored_row` has made it; it gets the names, since a copy takes as long as a row.
        cells: The map's cells.
        labels: The names of the model's classes, by number; empty where it has none.
    """
    names = best_labels(cells.classes, labels)
    if names is not None:
        object.__setattr__(row, "best_labels", [storable(name) for name in names])
    return row


def rejected_row(
    image: ImageFacts,
    recipe: Recipe,
    reason: Reason,
    detail: str,
    *,
    run_id: str,
    scored_at: datetime,
    placement: Placement | None = None,
) -> MapRow:
    """Returns the row of a rejected image.

    Args:
        image: The image.
        recipe: The run's recipe.
        reason: The kind of failure, for counting.
        detail: The failure, for people; cut to `DETAIL_LENGTH` characters.
        run_id: The run.
        scored_at: The time of the rejection, with a time zone.
        placement: The scale; 1 by default.
    """
    without_map: dict[str, Any] = dict.fromkeys(
        (*ARRAYS, "map_height", "map_width", "geometry", "class_count", "map_digest", "best_labels")
    )
    return MapRow(
        **_common_columns(image, recipe, placement or Placement(), run_id=run_id, scored_at=scored_at),
        **without_map,
        status=Status.REJECTED.value,
        reason=str(reason),
        detail=storable(detail)[:DETAIL_LENGTH],
    )


def rows_to_arrow(rows: Sequence[MapRow]) -> pa.Table:
    """Returns the rows as a table of `SCHEMA`."""
    columns = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def storable(text: str) -> str:
    r"""Returns a text as valid Unicode: bytes of a file name that are not UTF-8 become `\udcff` and the like.

    >>> storable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _common_columns(
    image: ImageFacts, recipe: Recipe, placement: Placement, *, run_id: str, scored_at: datetime
) -> dict[str, Any]:
    """Returns the columns that scored and rejected rows share."""
    if scored_at.tzinfo is None:
        raise MapError(f"the time {scored_at} has no time zone", where=image.uri, remedy="use datetime.now(UTC)")
    return {
        # An image that could not be read has no content address.
        "key": recipe.key(image.digest or f"uri:{storable(image.uri)}", placement.scale, image.file_type),
        "uri": storable(image.uri),
        "id": None if image.id is None else storable(image.id),
        "label": None if image.label is None else storable(image.label),
        "image_bytes": image.size_bytes,
        "image_digest": image.digest,
        "image_version": image.version,
        "image_height": image.height,
        "image_width": image.width,
        "scale": float(placement.scale),
        "scored_height": placement.height,
        "scored_width": placement.width,
        "tile_index": placement.tile_index,
        "tile_count": placement.tile_count,
        "tile_y": placement.tile_y,
        "tile_x": placement.tile_x,
        "form": str(recipe.form),
        "model_digest": recipe.model_digest,
        "precision": recipe.precision,
        "windows": str(recipe.windows) if placement.scale == WINDOWS_SCALE and recipe.windows else None,
        "recipe": recipe.digest_of(recipe.decoding(image.file_type)),
        "run_id": run_id,
        "scored_at": scored_at,
    }
