"""Apache Beam: run a dense model over image collections and keep the classification maps in a Delta table."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.geometry import Geometry
    from pipeline.maps import ClassificationMap
    from pipeline.scoring import ScoreImages
    from pipeline.sources import ImageReference, ListImages
    from pipeline.table import MapTable

__all__ = ["ClassificationMap", "Geometry", "ImageReference", "ListImages", "MapTable", "ScoreImages"]

_MODULES = {
    "ClassificationMap": "pipeline.maps",
    "Geometry": "pipeline.geometry",
    "ImageReference": "pipeline.sources",
    "ListImages": "pipeline.sources",
    "MapTable": "pipeline.table",
    "ScoreImages": "pipeline.scoring",
}


def __getattr__(name: str) -> object:
    """Imports a name on first use: Beam takes seconds to import, which `densecast inspect` should not wait for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
