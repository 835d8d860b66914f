"""Collections to measure on: seeded, made once a folder and kept where the folder is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 64
MIXED = (300, 640)
"""The least and the greatest side of photographs of mixed size, in pixels."""
_PER_FOLDER = 1000


def photographs(folder: Path, count: int, side: int = 451) -> Path:
    """`count` JPEG files of side x side pixels, quality 90: hard links to 64 different ones, about 60 kB each."""
    done = folder / f"photographs-{side}-{count}"
    if not done.exists():
        originals = folder / f"originals-{side}"
        originals.mkdir(parents=True, exist_ok=True)
        names = [originals / f"{number}.jpg" for number in range(DISTINCT)]
        for number, name in enumerate(names):
            if not name.exists():
                scene(number, side).save(name, "JPEG", quality=90)
        _fill(done, count, lambda number, path: os.link(names[number % DISTINCT], path), ".jpg")
    return done


def mixed_photographs(folder: Path, count: int, sides: tuple[int, int] = MIXED) -> Path:
    """`count` different JPEG files, quality 90, whose heights and widths are spread evenly over `sides`, in pixels."""
    done = folder / f"mixed-{sides[0]}-{sides[1]}-{count}"
    if not done.exists():
        sizes = np.random.default_rng(count).integers(sides[0], sides[1], (count, 2), endpoint=True)

        def save(number: int, path: Path) -> None:
            height, width = sizes[number].tolist()
            scene(number, height, width).save(path, "JPEG", quality=90)

        _fill(done, count, save, ".jpg")
    return done


def thumbnails(folder: Path, count: int, side: int = 32) -> Path:
    """`count` different files of side x side pixels, JPEG and PNG in turns."""
    done = folder / f"thumbnails-{side}-{count}"
    if not done.exists():
        image = np.asarray(scene(0, side))

        def save(number: int, path: Path) -> None:
            pixels = image.copy()
            pixels[:2, :8] = np.random.default_rng(number).integers(0, 256, (2, 8, 3))
            if number % 2:
                Image.fromarray(pixels).save(path, "JPEG", quality=90)
            else:
                Image.fromarray(pixels).save(path, "PNG", compress_level=1)

        _fill(done, count, save, "")
    return done


def scene(seed: int, height: int, width: int = 0) -> Image.Image:
    """Colours that change slowly, edges and some noise: a file of it has about the size of a photograph's.

    Args:
        seed: The seed.
        height: In pixels.
        width: In pixels; 0: as high as wide.
    """
    width = width or height
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 256, (max(1, height // 6), max(1, width // 6), 3), dtype=np.uint8))
    size = (width, height)
    smooth, detail = (np.asarray(i.resize(size, Image.Resampling.BICUBIC), np.float32) for i in (coarse, fine))
    noise = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(0.7 * smooth + 0.3 * detail + noise, 0, 255).astype(np.uint8))


def _fill(done: Path, count: int, save, ending: str) -> None:
    """Under another name first, so that a folder that is there is complete."""
    partial = done.with_name(done.name + ".partial")
    for number in range(count):
        folder = partial / f"{number // _PER_FOLDER:04d}"
        if number % _PER_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        suffix = ending or (".jpg" if number % 2 else ".png")
        path = folder / f"{number:06d}{suffix}"
        path.unlink(missing_ok=True)
        save(number, path)
    partial.rename(done)
