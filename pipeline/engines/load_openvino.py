"""Imports OpenVINO without the statistics of use that its import sends."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from conversion.errors import MissingExtraError, install_extra

# A dependency of openvino. On import it sends an event to its makers unless somebody has opted out, and writes an
# identifier and a count below the user's home. openvino has a stand-in that does nothing, for where it is missing.
_STATISTICS = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """Returns the openvino module, imported on first use; raises MissingExtraError without it.

    The import sends nothing, and writes nothing.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError(
            "OpenVINO is not installed",
            why="the engine `openvino` computes with it",
            remedy=install_extra("openvino"),
        )
    loaded = sys.modules.get(_STATISTICS)
    sys.modules[_STATISTICS] = None  # type: ignore[assignment] # so an import of it fails as if it were missing
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_STATISTICS]
        if loaded is not None:
            sys.modules[_STATISTICS] = loaded
