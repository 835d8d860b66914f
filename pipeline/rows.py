"""The rows of the table: one image at one scale, scored or rejected, and how a map becomes a row and a map again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.maps import DEFAULT_K, CellScores, ClassificationMap, Floats, Geometry, Integers, MapError, check_cells
from pipeline.rejection import Reason

LARGEST_VALUE_BYTES = 1 << 30  # Parquet and Arrow count the bytes of a value, and of a page, in 31 bits
DETAIL_LENGTH = 2000  # characters: a detail is for people, and a decoder may quote half a file


class MapTooLargeError(MapError):
    """A map does not fit in one row."""


class Status(StrEnum):
    """What became of an image."""

    SCORED = "scored"
    REJECTED = "rejected"


class Form(StrEnum):
    """How much of a map is kept: the best k classes of every cell, or all probabilities besides."""

    TOP_K = "top-k"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


_DTYPES: dict[Form, np.dtype[Any]] = {Form.FLOAT16: np.dtype("<f2"), Form.FLOAT32: np.dtype("<f4")}


_GEOMETRY = pa.struct([pa.field(field.name, pa.float64()) for field in fields(Geometry)])


def _list_of(value: Any) -> Any:
    # Delta, and Parquet's own rules, call the inner field "element"; Arrow's default is "item".
    return pa.list_(pa.field("element", value))


SCHEMA: Any = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("image_bytes", pa.int64()),
        pa.field("image_digest", pa.string()),
        pa.field("image_height", pa.int32()),
        pa.field("image_width", pa.int32()),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("map_height", pa.int32()),
        pa.field("map_width", pa.int32()),
        pa.field("geometry", _GEOMETRY),
        pa.field("form", pa.string(), nullable=False),
        pa.field("classes", _list_of(pa.int32())),
        pa.field("scores", _list_of(pa.float32())),
        pa.field("residual", _list_of(pa.float32())),
        pa.field("probabilities", pa.binary()),
        pa.field("class_count", pa.int32()),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


_ARRAYS = ("classes", "scores", "residual", "probabilities")

# What reading a map takes; the other columns need not be loaded.
MAP_COLUMNS = (
    *("key", "uri", "id", "status", "image_height", "image_width", "scale", "map_height", "map_width", "geometry"),
    *("form", *_ARRAYS, "model_digest", "run_id"),
)


def map_key(
    image_digest: str, model_digest: str, scale: float, form: str, *, precision: str = "float32", k: int = DEFAULT_K
) -> str:
    """The content address of a map: equal keys mean equal maps, so a key that a table has need not be computed again.

    Args:
        image_digest: SHA-256 of the image file, in hex.
        model_digest: Digest of the model; it covers weights, definition and preprocessing.
        scale: By what the image is enlarged before it is scored.
        form: One of `Form`.
        precision: What the engine computes in.
        k: How many classes a cell keeps, as asked for (before a model with fewer classes cuts it).

    Returns:
        SHA-256 in hex, 64 characters.
    """
    # JSON, because a mere concatenation would let two different tuples spell the same text.
    parts = [1, image_digest, model_digest, float(scale), str(form), precision, int(k)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image file; of a rejected one perhaps no more than its uri.

    Attributes:
        uri: Where it came from.
        id: The name that its owner gave it, if any.
        size_bytes: Size of the file.
        digest: SHA-256 of the file, in hex.
        height: Pixels.
        width: Pixels.
    """

    uri: str
    id: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run makes of every image: with the image's digest, everything that a map depends on.

    Attributes:
        model_digest: Digest of the model (weights, definition, preprocessing).
        scale: By what an image is enlarged before it is scored; positive.
        form: How much of a map is kept.
        k: How many classes a cell keeps, at most.
        precision: What the engine computes in.
    """

    model_digest: str
    scale: float = 1.0
    form: Form = Form.TOP_K
    k: int = DEFAULT_K
    precision: str = "float32"

    def key(self, image: ImageFacts) -> str:
        """The key of the row of `image`: `map_key`, or for an image that could not be read one made of its uri."""
        digest = image.digest or f"uri:{storable(image.uri)}"
        return map_key(digest, self.model_digest, self.scale, self.form, precision=self.precision, k=self.k)


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
    image_height: int | None
    image_width: int | None
    scale: float
    map_height: int | None
    map_width: int | None
    geometry: Mapping[str, float] | None
    form: str
    classes: Integers | None
    scores: Floats | None
    residual: Floats | None
    probabilities: bytes | None
    class_count: int | None
    model_digest: str
    precision: str
    run_id: str
    scored_at: datetime

    @property
    def size_bytes(self) -> int:
        """About how many bytes the row holds in memory; its share of a compressed file is smaller."""
        arrays = sum(array.nbytes for array in (self.classes, self.scores, self.residual) if array is not None)
        text = sum(len(value) for value in (self.uri, self.id, self.detail) if value is not None)
        return 512 + text + arrays + len(self.probabilities or b"")


def scored_row(
    image: ImageFacts,
    recipe: Recipe,
    geometry: Geometry,
    cells: CellScores,
    *,
    class_count: int,
    run_id: str,
    scored_at: datetime,
) -> MapRow:
    """The row of a map.

    Args:
        image: The image; its digest and size must be known.
        recipe: What was made of it.
        geometry: Where the cells lie in the image.
        cells: What was computed; `probabilities` as `recipe.form` asks, which is how they are stored.
        class_count: C, how many classes the model has.
        run_id: The run.
        scored_at: When, with a time zone.

    Raises:
        MapError: The arrays do not fit each other, the recipe or the class count, or are too large for one row.
    """
    if image.digest is None or image.height is None or image.width is None:
        raise MapError("a map needs the digest and the size of its image", where=image.uri)
    check_cells(image.uri, cells, class_count)
    height, width, _ = cells.classes.shape
    dtype = _DTYPES.get(recipe.form)
    if (dtype is None) != (cells.probabilities is None):
        found = "no probabilities" if cells.probabilities is None else "probabilities"
        raise MapError(f"{found} for a map of the form {recipe.form}", where=image.uri)
    stored = None
    if cells.probabilities is not None and dtype is not None:
        size = cells.probabilities.size * dtype.itemsize
        if size > LARGEST_VALUE_BYTES:
            raise MapTooLargeError(
                f"a map of {height} x {width} cells and {class_count} classes takes {size:,} bytes as {recipe.form}",
                where=image.uri,
                why=f"a row of the table holds at most {LARGEST_VALUE_BYTES:,}",
                remedy="keep the top k classes only, use float16, a smaller scale, or cut the image into pieces",
            )
        stored = np.ascontiguousarray(cells.probabilities, dtype=dtype).tobytes()
    return MapRow(
        **_common(image, recipe, run_id, scored_at),
        status=Status.SCORED.value,
        reason=None,
        detail=None,
        map_height=height,
        map_width=width,
        geometry={name: float(value) for name, value in asdict(geometry).items()},
        classes=np.ascontiguousarray(cells.classes).reshape(-1),
        scores=np.ascontiguousarray(cells.scores).reshape(-1),
        residual=np.ascontiguousarray(cells.residual).reshape(-1),
        probabilities=stored,
        class_count=class_count,
    )


def rejected_row(
    image: ImageFacts, recipe: Recipe, reason: Reason, detail: str, *, run_id: str, scored_at: datetime
) -> MapRow:
    """The row of an image that has no map, and why.

    Args:
        image: What is known of it.
        recipe: What would have been made of it.
        reason: The kind of failure, for counting.
        detail: The failure itself, for people; cut to `DETAIL_LENGTH` characters.
        run_id: The run.
        scored_at: When it was given up, with a time zone.
    """
    return MapRow(
        **_common(image, recipe, run_id, scored_at),
        status=Status.REJECTED.value,
        reason=str(reason),
        detail=storable(detail)[:DETAIL_LENGTH],
        map_height=None,
        map_width=None,
        geometry=None,
        classes=None,
        scores=None,
        residual=None,
        probabilities=None,
        class_count=None,
    )


def rows_to_arrow(rows: Sequence[MapRow]) -> Any:
    """The rows as a `pyarrow.Table` of `SCHEMA`."""
    columns = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def storable(text: str) -> str:
    r"""`text` as Unicode that every reader takes: bytes of a file name that are no UTF-8 become `\udcff` and the like.

    >>> storable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _common(image: ImageFacts, recipe: Recipe, run_id: str, scored_at: datetime) -> dict[str, Any]:
    if scored_at.tzinfo is None:
        raise MapError(f"the time {scored_at} has no time zone", where=image.uri, remedy="use datetime.now(UTC)")
    return {
        "key": recipe.key(image),
        "uri": storable(image.uri),
        "id": None if image.id is None else storable(image.id),
        "image_bytes": image.size_bytes,
        "image_digest": image.digest,
        "image_height": image.height,
        "image_width": image.width,
        "scale": float(recipe.scale),
        "form": str(recipe.form),
        "model_digest": recipe.model_digest,
        "precision": recipe.precision,
        "run_id": run_id,
        "scored_at": scored_at,
    }


def map_from_row(row: Mapping[str, Any], labels: tuple[str, ...]) -> ClassificationMap:
    """The map that a scored row holds, exactly as it was stored.

    Args:
        row: The columns of `MAP_COLUMNS` as Arrow scalars: what `scalars` gives.
        labels: The labels of the row's model.

    Raises:
        MapError: The row is a rejection, or its arrays do not fit each other.
    """
    value = {name: row[name].as_py() for name in MAP_COLUMNS if name not in _ARRAYS}
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
    dtype = _DTYPES.get(Form(form))
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
