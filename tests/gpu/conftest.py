"""What the tests of GPUs share."""

from __future__ import annotations

from tests.pipeline.conftest import small_model

__all__ = ["small_model"]
