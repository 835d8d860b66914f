"""The bits of ten maps by the native engine: `python -m tests.support.native_digests` writes `native_digests.json`.

A change of them is a change of what tables hold: it is named in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conversion import convert
from models import entries
from pipeline.engines.native.engine import NativeEngine, load_extension
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Form
from tests.support.golden_cases import GOLDEN

FILE = Path(__file__).parent / "native_digests.json"
SIZES = {
    "caffenet_small": [(227, 227), (240, 260), (451, 451), (300, 515), (643, 227)],
    "digits": [(32, 32), (40, 57), (128, 128), (200, 333), (511, 64)],
}
FEATURES = {"caffenet_small": ("pool5", "fc6:before"), "digits": ()}


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Both models, converted without TensorFlow."""
    net = GOLDEN / "nets" / "caffenet_small"
    convert(net / "net.prototxt", net / "net.caffemodel", folder / "small", mean=(104.0, 117.0, 123.0), form="onnx")
    yield "caffenet_small", folder / "small"
    digits = next(entry for entry in entries() if entry.name == "digits")
    weights = Path(digits.definition).with_name("digits.caffemodel")
    convert(digits.definition, weights, folder / "digits", mean=digits.mean, scale=digits.scale, form="onnx")
    yield "digits", folder / "digits"


def opened(name: str, model: Path, threads: int | None = None, isa: str | None = None) -> NativeEngine:
    """An engine with so many threads, by an instruction set."""
    native = load_extension()
    extension: Any = native
    if threads is not None or isa is not None:
        names = {attribute: getattr(native, attribute) for attribute in ("Filters", "Program", "isas", "__version__")}
        extension = types.SimpleNamespace(ThreadPool=lambda count: native.ThreadPool(threads or count, isa), **names)
    return NativeEngine(model, k=5, form=Form.FLOAT32, features=FEATURES[name], extension=extension)


def images(name: str) -> list[np.ndarray]:
    """The seeded images, one of each size: photographs are smooth, so they are."""
    random = np.random.default_rng(16)
    return [smooth(random, height, width) for height, width in SIZES[name]]


def smooth(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 RGB [h, w, 3]: coarse noise and fine noise, in integers, so that they are the same everywhere."""
    coarse = random.integers(0, 192, (-(-height // 16), -(-width // 16), 3))
    fine = random.integers(0, 64, (height, width, 3))
    return (coarse.repeat(16, 0).repeat(16, 1)[:height, :width] + fine).astype(np.uint8)


def digest(cells: CellScores) -> str:
    """SHA-256 of all of a map's arrays."""
    sha = hashlib.sha256()
    for array in (cells.classes, cells.scores, cells.probabilities, *(feature.values for feature in cells.features)):
        if array is not None:
            sha.update(f"{array.dtype} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def digests(name: str, engine: NativeEngine) -> dict[str, str]:
    """The digest of each map, by model and size."""
    maps = (engine.score(image[np.newaxis])[0] for image in images(name))
    return {f"{name} {h}x{w}": digest(cells) for (h, w), cells in zip(SIZES[name], maps, strict=True)}


def main() -> None:
    """Writes the digests."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models(Path(folder)):
            found |= digests(name, opened(name, model))
    FILE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
