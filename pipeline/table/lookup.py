"""Finds an image in a table by the name that a person types; its errors say what the table has instead."""

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.compute as pc
import pyarrow.dataset as pads

from conversion import nearest
from pipeline.errors import TableError
from pipeline.images.resize import WINDOWS_SCALE
from pipeline.sources.spelling import relative_to, spell_file
from pipeline.storage.address import absolute, is_remote, local_path
from pipeline.storage.errors import StorageError
from pipeline.table.part_reader import reading_part
from pipeline.table.rows import storable
from pipeline.table.scan import Rows
from pipeline.table.schema import Status

NarrowRow: TypeAlias = Mapping[str, Any]
"""The narrow columns of a row, as Python objects."""

_SUGGESTIONS = 3
_COMPARED_NAMES = 1000  # of all names, those that `nearest` compares, which is slow
_COLUMNS = [
    *("key", "uri", "id", "status", "reason", "detail", "scale", "form", "class_count", "model_digest", "run_id"),
    "scored_at",
]


def find_rows(dataset: Rows, root: str, image: str, key: str = "", *, image_root: str = "") -> list[NarrowRow]:
    """Returns the rows of an image, with their narrow columns, oldest first; at least one.

    Args:
        dataset: The rows of the table.
        root: The table, for messages.
        image: A uri, a path as a person types it, an image's own id, the whole key of a map, or the end of a uri from a
            `/` or `#` on, as a file's name, if only one image has it.
        key: The beginning of the key of the rows.
        image_root: The folder that addresses are relative to; empty where they are absolute.

    Raises:
        TableError: There is no such image, no such key, or several images have that name.
    """
    text = storable(image)
    # What is typed may be a uri of the table as it is, or else the path of a file whose name is spelled otherwise.
    conditions = [pads.field("uri").isin(_spellings(image, spelled, image_root)) for spelled in (storable, spell_file)]
    conditions.append(pads.field("id") == text)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        conditions.append(pads.field("key") == text)
    for condition in conditions:
        with reading(root):
            rows = _narrow_rows(dataset, condition)
        if rows:
            break
    else:
        rows = _ending_with(dataset, root, text)
        if not rows:
            raise _no_image(dataset, root, image)
    chosen = [row for row in rows if row["key"].startswith(key)]
    if not chosen:
        raise TableError(
            f"no map of {image!r} has a key that begins with {key!r}; its keys are"
            f" {', '.join(sorted({row['key'][:12] for row in rows}))}",
            where=root,
        )
    return sorted(chosen, key=lambda row: row["scored_at"])


def _ending_with(dataset: Rows, root: str, name: str) -> list[NarrowRow]:
    """Returns the rows of the one image whose uri ends with a name; none if there is no such image."""
    ending = name.lstrip("/")
    if not ending:
        return []
    uri = pads.field("uri")
    condition = pc.ends_with(uri, f"/{ending}") | pc.ends_with(uri, f"#{ending}")
    with reading(root):
        rows = _narrow_rows(dataset, condition)
    uris = sorted({row["uri"] for row in rows})
    if len(uris) > 1:
        more = f" and {len(uris) - _SUGGESTIONS:,} more" if len(uris) > _SUGGESTIONS else ""
        raise TableError(
            f"{len(uris):,} images are called {name!r}: {', '.join(uris[:_SUGGESTIONS])}{more}",
            where=root,
            remedy="give more of the address",
        )
    return rows


def _narrow_rows(dataset: Rows, condition: pads.Expression) -> list[NarrowRow]:
    return list(dataset.to_table(columns=_COLUMNS, filter=condition).to_pylist())


def maps_among(rows: Sequence[NarrowRow]) -> list[NarrowRow]:
    """Returns one row for each map, sorted by uri and scale; the tiles of a map count once."""
    maps = {(row["uri"], row["key"]): row for row in rows if row["status"] == Status.SCORED}
    return sorted(maps.values(), key=lambda row: (row["uri"], row["scale"], row["key"]))


def of_whole_image(maps: Sequence[NarrowRow]) -> list[NarrowRow]:
    """Returns the maps of whole images among `maps`; where there are none, those of windows."""
    return [row for row in maps if row["scale"] != WINDOWS_SCALE] or list(maps)


def several_maps(root: str, image: str, maps: Sequence[NarrowRow]) -> TableError:
    """Returns the error for a name that means several maps."""
    remedy = "give the uri of the image, and the key of the map if the uri is not enough"
    if len({row["uri"] for row in maps}) == 1 and len({row["scale"] for row in maps}) == len(maps):
        scales = ", ".join(f"{row['scale']:g}" for row in maps)
        remedy = f"give one of the scales {scales}, or ask for the fused map (`--scale`, `--fused`)"
    return TableError(
        f"{image!r} has {len(maps)} maps:{''.join(map(_describe, maps))}",
        where=root,
        remedy=remedy,
    )


def no_scale(root: str, image: str, scale: float, rows: Sequence[NarrowRow]) -> TableError:
    """Returns the error for an image that has maps, but none at the requested scale."""
    scales = ", ".join(f"{each:g}" for each in sorted({row["scale"] for row in maps_among(rows)}))
    rejected = [row for row in rows if row["scale"] == scale and row["status"] == Status.REJECTED]
    return TableError(
        f"{image!r} has no map at scale {scale:g}" + (f": rejected as {rejected[-1]['reason']}" if rejected else ""),
        where=root,
        why=(rejected[-1]["detail"] or "") if rejected else "",
        remedy=f"it has maps at {scales}",
    )


def no_map(root: str, row: NarrowRow, version: int | None) -> TableError:
    """Returns the error for an image without a map.

    Args:
        root: The table.
        row: The image's newest row.
        version: The version of the table that the row's run made; None if unknown.
    """
    if row["status"] != Status.DELETED:
        return TableError(
            f"{row['uri']} has no map: it was rejected as {row['reason']}",
            where=root,
            why=row["detail"] or "",
            remedy="repair or replace the image, then score it again",
        )
    made = f", which made version {version}" if version is not None else ""
    earlier = f"MapTable(root, version={version - 1})" if version else "an earlier version of the table"
    return TableError(
        f"{row['uri']} no longer has a map: it was deleted from the collection",
        where=root,
        why=f"run {row['run_id']}{made}, no longer found it" if made else f"run {row['run_id']} did not find it",
        remedy=f"its last map is in {earlier}, unless that version was vacuumed",
    )


def no_table(root: str) -> TableError:
    """Returns the error for a path without a table; it says what the path is."""
    kind = "is a remote folder without a Delta log"
    if not is_remote(root):
        path = local_path(root)
        if not path.exists():
            kind = "does not exist"
        elif path.is_file():
            kind = "is a file"
        elif (path / "densecast.json").exists() or (path / "saved_model.pb").exists():
            kind = "is a model"
        else:
            entries = sum(1 for _ in path.iterdir())
            kind = f"is a folder of {entries} entries without a Delta log" if entries else "is an empty folder"
    return TableError(
        f"there is no table: this {kind}",
        where=root,
        why="a table is a folder with a Delta log, _delta_log",
        remedy="make one with `densecast score`, or give the path of its output",
    )


@contextmanager
def reading(root: str) -> Iterator[None]:
    """Converts the errors of reading files into TableError."""
    remedy = "if the table was vacuumed or copied meanwhile, open it again; otherwise restore the file that is named,"
    with reading_part(root, remedy=f"{remedy} or open an earlier version"):
        yield


def _no_image(dataset: Rows, root: str, image: str) -> TableError:
    wanted = _base_name(image)
    count = 0
    likely: list[tuple[int, str, str]] = []
    with reading(root):
        for batch in dataset.to_batches(columns=["uri", "id"], filter=pads.field("tile_index") == 0):
            count += batch.num_rows
            names = {name for column in batch.columns for name in column.to_pylist() if name is not None}
            ranked = ((_likeness(base := _base_name(name), wanted), base, name) for name in names)
            likely = heapq.nlargest(_COMPARED_NAMES, (*likely, *ranked))
    by_base = {base: name for _, base, name in reversed(likely)}
    near = [by_base[base] for base in nearest(wanted, by_base, _SUGGESTIONS)]
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    return TableError(
        f"there is no image {image!r} among {count:,}",
        where=root,
        remedy=f"{suggestion}an image is found by its uri, its path or its id",
    )


def _spellings(image: str, spelled: Callable[[str], str], root: str) -> list[str]:
    """Returns the uris under which an image may have been listed.

    Args:
        image: What a person types.
        spelled: Gives the spelling in the table of a name that is typed.
        root: The folder that addresses are relative to; empty where they are absolute.
    """
    names = [image]
    if not is_remote(image):
        try:
            path = local_path(image)
        except StorageError:
            return [spelled(image)]
        for candidate in (path, Path(absolute(path)), path.resolve()):
            names += [str(candidate), *([candidate.as_uri()] if candidate.is_absolute() else [])]
            names.append(f"file://{candidate}")
    return list(dict.fromkeys(spelled(each) for name in names for each in (name, relative_to(root, name))))


def _base_name(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()


def _likeness(name: str, wanted: str) -> int:
    """Returns how many letters two names share at both ends: cheap enough for all names of a collection."""
    length = min(len(name), len(wanted))
    front = next((i for i in range(length) if name[i] != wanted[i]), length)
    back = next((i for i in range(length) if name[-1 - i] != wanted[-1 - i]), length)
    return front + back


def _describe(row: NarrowRow) -> str:
    return (
        f"\n  {row['uri']} at scale {row['scale']:g}, {row['form']}, model {row['model_digest'][:12]},"
        f" run {row['run_id']}, key {row['key'][:12]}"
    )
