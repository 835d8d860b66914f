"""What the tests of GPUs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion import convert
from tests.pipeline.conftest import NET, small_model

__all__ = ["onnx_model", "small_model"]


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `small_model` with its ONNX form alone."""
    output = tmp_path_factory.mktemp("onnx") / "model"
    convert(NET / "net.prototxt", NET / "net.caffemodel", output, mean=(104.0, 117.0, 123.0), form="onnx")
    return output
