"""Small files of the kinds that public reports describe; see tests/field."""

from __future__ import annotations

from pathlib import Path

FIELD = Path(__file__).parents[1] / "field"


def caffe_files(name: str) -> tuple[Path, Path]:
    """The definition and the weights of a net of tests/field."""
    return FIELD / "caffe" / f"{name}.prototxt", FIELD / "caffe" / f"{name}.caffemodel"
