"""The golden cases: what a real Caffe computed (tests/golden/README.md)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclasses.dataclass(frozen=True)
class GoldenCase:
    name: str
    folder: Path
    tags: frozenset[str]

    @property
    def prototxt(self) -> Path:
        return self.folder / "net.prototxt"

    @property
    def weights(self) -> Path:
        return self.folder / "net.caffemodel"

    def inputs(self, first: str) -> dict[str, np.ndarray]:
        several = self.folder / "inputs.npz"
        if several.exists():
            with np.load(several) as arrays:
                return {_blob(k): arrays[k].astype(np.float32) for k in arrays.files}
        return {first: np.load(self.folder / "input.npy").astype(np.float32)}

    def outputs(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "outputs.npz") as arrays:
            return {_blob(k): arrays[k] for k in arrays.files}


def _blob(key: str) -> str:
    return key.replace("__SLASH__", "/")


def cases(kind: str) -> list[GoldenCase]:
    """`kind` is layers or nets; nets without net.prototxt and input.npy in one place (fullconv) are left out."""
    index = json.loads((GOLDEN / kind / "index.json").read_text())
    return [
        GoldenCase(case["case"], GOLDEN / kind / case["case"], frozenset(case.get("tags", ())))
        for case in index
        if (GOLDEN / kind / case["case"] / "net.prototxt").exists()
    ]
