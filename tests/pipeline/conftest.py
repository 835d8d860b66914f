"""What tests of the pipeline share."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion import convert
from tests.support.golden_cases import GOLDEN

NET = GOLDEN / "nets" / "caffenet_small"


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CaffeNet of few channels, converted."""
    output = tmp_path_factory.mktemp("small") / "model"
    convert(NET / "net.prototxt", NET / "net.caffemodel", output, mean=(104.0, 117.0, 123.0))
    return output
