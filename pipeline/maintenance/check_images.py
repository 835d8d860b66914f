"""Checks that the rows of a table make up whole images, in bounded memory for millions of images.

In the first pass `RowLedger` keeps 28 bytes for each row, hashes and numbers, and finds the images that may be wrong.
In the second pass these few are read again, and `image_faults` finds what is wrong with them. A collision of hashes can
only make a sound image suspect, and the second pass clears it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NAMED = 5  # tiles, keys or recipes that a message names


class RowIdentity(NamedTuple):
    """The columns that identify a row, and the origin of its map.

    Attributes:
        uri: The image.
        scale: The scale.
        tile_index: The tile, from 0.
        tile_count: The number of tiles.
        key: The content address of the map.
        recipe: Digest of the recipe that made it.
        run_id: The run that made it.
    """

    uri: str
    scale: float
    tile_index: int
    tile_count: int
    key: str
    recipe: str
    run_id: str


class Fault(StrEnum):
    """A fault in the rows of an image."""

    DUPLICATE = "duplicate"
    INCOMPLETE = "incomplete"
    MIXED = "mixed"


class RowLedger:
    """Gathers the identities of all rows of a table, then finds the images whose rows may be wrong.

    It holds 28 bytes for each row; `suspects` takes about 60 more while it sorts.

    Args:
        rows: The expected number of rows; a larger number costs a copy.
    """

    def __init__(self, rows: int = 0) -> None:
        self._rows = 0
        self._image = np.empty(rows, np.uint64)
        self._place = np.empty(rows, np.uint64)  # the scale, hashed, in the upper half; the tile in the lower
        self._count = np.empty(rows, np.uint32)
        self._key = np.empty(rows, np.uint32)
        self._origin = np.empty(rows, np.uint32)

    def __len__(self) -> int:
        return self._rows

    def add(self, rows: Sequence[RowIdentity]) -> None:
        """Adds rows, in any order."""
        if self._rows + len(rows) > len(self._image):
            self._grow(self._rows + len(rows))
        here = slice(self._rows, self._rows + len(rows))
        self._image[here] = [hash_of(row.uri) for row in rows]
        self._place[here] = [(_cached_hash32(repr(row.scale)) << 32) | (row.tile_index & 0xFFFFFFFF) for row in rows]
        self._count[here] = [row.tile_count & 0xFFFFFFFF for row in rows]
        self._key[here] = [_hash32(row.key) for row in rows]
        self._origin[here] = [_cached_hash32(f"{row.recipe} {row.run_id}") for row in rows]
        self._rows += len(rows)

    def images(self) -> int:
        """Returns the number of images."""
        return len(np.unique(self._image[: self._rows]))

    def suspects(self) -> NDArray[np.uint64]:
        """Returns the hashes, see `hash_of`, of the images whose rows may be wrong; sorted, each once."""
        image, place = self._image[: self._rows], self._place[: self._rows]
        order = np.lexsort((place, image))
        image, place = image[order], place[order]
        count, key, origin = (array[: self._rows][order] for array in (self._count, self._key, self._origin))
        same_image = image[1:] == image[:-1]
        same_map = same_image & (place[1:] >> 32 == place[:-1] >> 32)
        tile = place & np.uint64(0xFFFFFFFF)
        first = np.ones(self._rows, bool)
        first[1:] = ~same_map
        last = np.ones(self._rows, bool)
        last[:-1] = ~same_map
        wrong = (first & (tile != 0)) | (last & (tile + np.uint64(1) != count))
        # Within a map tile numbers rise by one, except at a duplicate.
        wrong[1:] |= same_map & ((tile[1:] != tile[:-1] + np.uint64(1)) | (count[1:] != count[:-1]))
        wrong[1:] |= same_map & (key[1:] != key[:-1])
        wrong[1:] |= same_image & (origin[1:] != origin[:-1])
        return np.unique(image[wrong])

    def _grow(self, rows: int) -> None:
        room = max(rows, len(self._image) * 5 // 4, 1024)
        for name in ("_image", "_place", "_count", "_key", "_origin"):
            old = getattr(self, name)
            new = np.empty(room, old.dtype)
            new[: self._rows] = old[: self._rows]
            setattr(self, name, new)


def hash_of(uri: str) -> int:
    """Returns 64 bits of an image's address, the same in every process."""
    return int.from_bytes(hashlib.blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def image_faults(rows: Sequence[RowIdentity]) -> Iterator[tuple[Fault, str]]:
    """Yields the faults of an image.

    Args:
        rows: All rows of the image, from all files.
    """
    scales: defaultdict[float, list[RowIdentity]] = defaultdict(list)
    for row in rows:
        scales[row.scale].append(row)
    for scale, rows_at_scale in sorted(scales.items()):
        at = f"at scale {scale:g}"
        tiles = sorted(row.tile_index for row in rows_at_scale)
        repeated = sorted({tile for tile, next_ in pairwise(tiles) if tile == next_})
        if repeated:
            yield Fault.DUPLICATE, f"{len(tiles)} rows {at} instead of {len(set(tiles))}: tile {_list(repeated)}"
        counts = sorted({row.tile_count for row in rows_at_scale})
        if len(counts) > 1:
            yield Fault.MIXED, f"its rows {at} have the tile counts {_list(counts)}"
        wanted = range(counts[-1])
        if missing := [tile for tile in wanted[: len(tiles) + _NAMED + 1] if tile not in set(tiles)]:
            yield Fault.INCOMPLETE, f"{len(set(tiles))} of {len(wanted)} tiles {at}; missing: {_list(missing)}"
        if beyond := [tile for tile in tiles if tile not in wanted]:
            yield Fault.MIXED, f"it has tile {_list(beyond)} of {len(wanted)} {at}"
        if len(keys := sorted({row.key for row in rows_at_scale})) > 1:
            yield Fault.MIXED, f"its rows {at} have {len(keys)} keys: {_list([key[:12] for key in keys])}"
    for name, values in (("recipes", {row.recipe[:12] for row in rows}), ("runs", {row.run_id for row in rows})):
        if len(values) > 1:
            yield Fault.MIXED, f"its rows are of {len(values)} {name}: {_list(sorted(values))}"


def _list(values: Sequence[object]) -> str:
    """Returns the first few values for a message, and how many follow."""
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return ", ".join(map(str, values[:_NAMED])) + more


def _hash32(text: str) -> int:
    """Returns 32 bits of a text; two different texts collide once in 4e9."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


# There are few scales, recipes and runs.
_cached_hash32 = lru_cache(maxsize=4096)(_hash32)
