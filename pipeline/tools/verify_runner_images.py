"""The collection that `densecast verify-runner` scores, and how it changes from one night to the next.

A table of it has every kind of row: maps at two scales, whole and in tiles, images that are rejected at one scale or at
both, and after the second night rows that were kept, replaced, relabelled and marked as deleted.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from conversion import ModelMetadata
from models.digits.pages import Pixels
from pipeline.storage.address import join
from pipeline.table.paths import TableRoot
from pipeline.tools.demo import compose_pages

SCALES = (1.0, 0.5)
MINIMUM_PAGES = 4
_SHORTEST = 160  # sides of pages, in pixels
_TILE = 200  # longer than the shortest page's side, shorter than most


class Shape(NamedTuple):
    """The sizes that fit a model.

    Attributes:
        window: The longer side of the model's nominal window, in pixels.
        enlarged: The factor by which pages are larger than those for the digits model.
        tile_pixels: The largest area of a tile, in pixels; most pages are larger.
    """

    window: int
    enlarged: int
    tile_pixels: int


def shape_for(metadata: ModelMetadata) -> Shape:
    """Returns the sizes at which a model gives maps at both scales, whole and in tiles."""
    window = max(metadata.minimum_size)
    alignment = metadata.alignment or (0, 0)
    axes = (metadata.geometry.y, metadata.geometry.x)
    # No tile has to be longer than that, see `pipeline.maps.tiling.cut`.
    least = [math.ceil(max(a.window, a.receptive_field)) + 2 * step for a, step in zip(axes, alignment, strict=True)]
    enlarged = math.ceil(max(window / min(SCALES) / _SHORTEST, max(least) / _TILE))
    return Shape(window, enlarged, (_TILE * enlarged) ** 2)


def first_night(folder: str, pages: int, shape: Shape) -> tuple[str, ...]:
    """Writes the collection.

    Args:
        folder: The folder to write to, a local path or `scheme://`.
        pages: How many pages, at least `MINIMUM_PAGES`.
        shape: The sizes that fit the model.

    Returns:
        The arguments of `densecast score` that list the collection.

    Raises:
        StorageError: A file cannot be written.
    """
    images = list(_pages(pages + 2, 0, shape))
    for number, pixels in enumerate(images[:pages]):
        _write(folder, _page(number), encoded(pixels))
    whole = encoded(images[0])
    _write(folder, "photo.jpg", encoded(images[1], "JPEG"))
    _write(folder, "broken.png", whole[: len(whole) // 2])
    _write(folder, "no-image.jpg", b"no image")
    _write(folder, "small.png", encoded(images[0][:8, :8]))
    _write(folder, "narrow.png", encoded(images[0][: shape.window + shape.window // 2]))
    _write(folder, "shard.tar", _tar({f"{n}.png": encoded(pixels) for n, pixels in enumerate(images[pages:])}))
    # The listing of a folder does not enter archives, so the archive is an argument of its own.
    return folder, join(folder, "shard.tar")


def second_night(folder: str, pages: int, shape: Shape) -> None:
    """Changes the collection: pages are changed, touched, removed, damaged and added, and a small image becomes large.

    Args:
        folder: The folder given to `first_night`.
        pages: How many pages `first_night` wrote.
        shape: The sizes that fit the model.

    Raises:
        StorageError: A file cannot be written.
    """
    changed, new, enlarged = _pages(3, 1, shape)
    _write(folder, _page(0), encoded(changed))
    touched = join(folder, _page(1))
    store = TableRoot(folder).store
    store.write_atomically(touched, store.read_bytes(touched))
    store.delete(join(folder, _page(2)))
    _write(folder, _page(3), b"broken now")
    _write(folder, _page(pages), encoded(new))
    _write(folder, "small.png", encoded(enlarged))


def encoded(pixels: Pixels, form: str = "PNG") -> bytes:
    """Returns an image file of RGB pixels, uint8 [H, W, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def _pages(count: int, seed: int, shape: Shape) -> Iterator[Pixels]:
    for page in compose_pages(count, seed):
        yield np.kron(page.pixels, np.ones((shape.enlarged, shape.enlarged, 1), np.uint8))


def _page(number: int) -> str:
    return f"page-{number:03d}.png"


def _write(folder: str, name: str, data: bytes) -> None:
    TableRoot(folder).store.write_atomically(join(folder, name), data)


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()
