"""What tests of the native engine share."""

from __future__ import annotations

import importlib
import os

import pytest


@pytest.fixture(scope="session")
def native():
    """The extension; where it is not built there is nothing to test."""
    if os.environ.get("DENSECAST_NATIVE") == "required":
        return importlib.import_module("densecast_native")
    return pytest.importorskip("densecast_native", reason="it is built where a C++ compiler is at hand: make")


@pytest.fixture(scope="session")
def pool(native):
    return native.ThreadPool(2)
