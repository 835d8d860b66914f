"""What tests of the native engine share."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from tests.support.native_digests import models


@pytest.fixture(scope="session")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models, converted without TensorFlow."""
    return dict(models(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def native():
    """The extension; where it is not built there is nothing to test."""
    if os.environ.get("DENSECAST_NATIVE") == "required":
        return importlib.import_module("densecast_native")
    return pytest.importorskip("densecast_native", reason="it is built where a C++ compiler is at hand: make")


@pytest.fixture(scope="session")
def pool(native):
    return native.ThreadPool(2)
