"""The full-size CaffeNet with seeded weights, converted."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.ruler.nets import NetFiles


def caffenet(folder: Path) -> Path:
    """The model directory, made below `folder` unless it is there."""
    files = NetFiles("caffenet", folder)
    files.make()
    return files.model
