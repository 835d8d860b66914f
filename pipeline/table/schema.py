"""The columns of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, cast

import pyarrow as pa

from pipeline.maps.geometry import Geometry

DETAIL_LENGTH = 2000  # characters: a decoder's message may quote half a file


class Status(StrEnum):
    """The status of an image: it has a map, it was rejected for a reason, or it was deleted from the collection."""

    SCORED = "scored"
    REJECTED = "rejected"
    DELETED = "deleted"


def _list_of(value: pa.DataType) -> pa.DataType:
    # Delta and the Parquet format call the inner field "element"; Arrow's default is "item".
    return pa.list_(pa.field("element", value))


_GEOMETRY = pa.struct([pa.field(field.name, pa.float64()) for field in fields(Geometry)])


_FEATURE = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("channels", pa.int32()),
        pa.field("dtype", pa.string()),
        pa.field("values", pa.binary()),
    ]
)


SCHEMA: pa.Schema = pa.schema(
    [  # type: ignore[arg-type] # the stubs join fields of several types to object
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("image_bytes", pa.int64()),
        pa.field("image_digest", pa.string()),
        pa.field("image_version", pa.string()),
        pa.field("image_height", pa.int32()),
        pa.field("image_width", pa.int32()),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("scored_height", pa.int32()),
        pa.field("scored_width", pa.int32()),
        pa.field("tile_index", pa.int32(), nullable=False),
        pa.field("tile_count", pa.int32(), nullable=False),
        pa.field("tile_y", pa.int32(), nullable=False),
        pa.field("tile_x", pa.int32(), nullable=False),
        pa.field("map_height", pa.int32()),
        pa.field("map_width", pa.int32()),
        pa.field("geometry", _GEOMETRY),
        pa.field("form", pa.string(), nullable=False),
        pa.field("classes", _list_of(pa.int32())),
        pa.field("scores", _list_of(pa.float32())),
        pa.field("residual", _list_of(pa.float32())),
        pa.field("probabilities", pa.binary()),
        pa.field("class_count", pa.int32()),
        pa.field("features", _list_of(_FEATURE)),
        pa.field("map_digest", pa.string()),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("label", pa.string()),
        pa.field("best_labels", _list_of(pa.string())),
        pa.field("windows", pa.string()),
    ]
)


COMMENTS: Mapping[str, str] = {
    "key": "content address of the map, SHA-256 in hex: equal keys mean equal maps",
    "uri": "address of the image; of a member, CONTAINER#MEMBER",
    "id": "your name of the image",
    "status": "scored, rejected or deleted",
    "reason": "why there is no map: one word for programs",
    "detail": "why there is no map, for people",
    "image_bytes": "size of the image file, in bytes",
    "image_digest": "digest of the image file, SHA-256 in hex",
    "image_version": "text that changes when the image file does",
    "image_height": "height of the image, upright, in pixels",
    "image_width": "width of the image, upright, in pixels",
    "scale": "scale that was asked for; 0 for the row of an image that holds its windows",
    "scored_height": "height that the model saw of the whole image, in pixels",
    "scored_width": "width that the model saw of the whole image, in pixels",
    "tile_index": "tile of a large image, from 0, by rows",
    "tile_count": "tiles of the image; 1 for an image that is not cut",
    "tile_y": "row of the image's map that is row 0 of this tile",
    "tile_x": "column of the image's map that is column 0 of this tile",
    "map_height": "height of the map, or of the tile's part of it, in cells",
    "map_width": "width of the map, or of the tile's part of it, in cells",
    "geometry": "where the cells lie in the image, in pixels",
    "form": "how probabilities are stored: top-k, log-uint8, float16 or float32",
    "classes": "best k classes of each cell, [map_height, map_width, k] row by row, the best first",
    "scores": "their probabilities, in the same order",
    "residual": "probability outside them, [map_height, map_width]",
    "probabilities": "all probabilities, [map_height, map_width, class_count] row by row: float16 and float32 are"
    " little-endian; of log-uint8, byte 0 means 0 and byte c means 2 ** ((c - 255) * 20 / 254)",
    "class_count": "classes of the model",
    "features": "blobs of the net beside the map",
    "map_digest": "digest of the map as it is stored, SHA-256 in hex",
    "model_digest": "digest of the model, SHA-256 in hex",
    "precision": "what the net computed in: float32, float16 or bfloat16",
    "recipe": "digest of all settings that change maps, SHA-256 in hex",
    "run_id": "run that wrote the row",
    "scored_at": "time of the row, in UTC",
    "label": "label that the list of the images gives the image",
    "best_labels": "names of the classes that are best in most cells, at most 5, the one with most cells first",
    "windows": "of a row of windows, which: center, ten or warp; null for a map of the whole image",
}
"""What each column means, for people who open the table with other programs."""


LATER_COLUMNS = frozenset({"label", "best_labels", "windows"})
"""The columns that tables and parts of earlier versions of densecast lack; there they are null."""


def has_type_of(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Returns whether a column of a part holds what `wanted` means, in whatever form its writer has stored it.

    Delta knows one type of texts, one of bytes, one of lists and one of times in UTC; Arrow and Parquet have several of
    each. Numbers have one form.

    >>> has_type_of(pa.large_string(), pa.string()), has_type_of(pa.int64(), pa.int32())
    (True, False)
    """
    types = pa.types
    if isinstance(kind, pa.DictionaryType):
        return has_type_of(kind.value_type, wanted)
    if types.is_string(wanted):
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if types.is_binary(wanted):
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    if types.is_list(wanted):
        return isinstance(kind, pa.ListType | pa.LargeListType) and has_type_of(kind.value_type, wanted.value_type)
    if types.is_struct(wanted):
        fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
        return len(fields) == len(list(wanted)) and all(
            field.name in fields and has_type_of(fields[field.name], field.type) for field in wanted
        )
    # Without a zone too: Spark writes times so, and Delta's are in UTC.
    return types.is_timestamp(kind) if types.is_timestamp(wanted) else kind == wanted


def schema_faults(schema: pa.Schema) -> list[str]:
    """Returns the differences of a part's columns to `SCHEMA`; it may have more, and may lack `LATER_COLUMNS`."""
    faults = []
    for field in SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0:
            if field.name not in LATER_COLUMNS:
                faults.append(f"has no column {field.name}")
        elif not has_type_of(schema.field(index).type, field.type):
            faults.append(f"has the column {field.name} as {schema.field(index).type} instead of {field.type}")
    return faults


def strings(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> list[str]:
    """Returns the values of a column of strings without nulls."""
    return cast("list[str]", column.to_pylist())


ARRAYS = ("classes", "scores", "residual", "probabilities", "features")
"""The bulky columns."""


IDENTITY = ("uri", "scale", "tile_index")
"""The columns that identify a row: no two rows of a table agree in all of them."""
