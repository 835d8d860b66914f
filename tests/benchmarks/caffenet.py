"""The full-size CaffeNet with seeded weights, converted."""

from __future__ import annotations

from pathlib import Path

from conversion import convert, load_network, save
from conversion.surgery import random_parameters
from models import entry

NETWORK, WEIGHTS = "net.prototxt", "net.caffemodel"


def caffenet(folder: Path) -> Path:
    """The model directory, made below `folder` unless it is there."""
    model = folder / "caffenet"
    if not model.exists():
        known = entry("caffenet")
        save(random_parameters(load_network(known.definition)), folder / NETWORK, folder / WEIGHTS)
        convert(known.definition, folder / WEIGHTS, model, mean=known.mean)
    return model
