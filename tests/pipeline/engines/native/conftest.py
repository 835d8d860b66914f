from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def native():
    """The extension; where it is not built there is nothing to test."""
    return pytest.importorskip("densecast_native")


@pytest.fixture(scope="session")
def pool(native):
    return native.ThreadPool(2)
