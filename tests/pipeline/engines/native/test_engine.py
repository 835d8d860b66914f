"""The engine where it cannot compute, and images of several sizes."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion.errors import MissingExtraError
from pipeline.engines.base import EngineOutOfMemoryError
from pipeline.engines.device_pool import DevicePool
from pipeline.engines.devices import THE_CPU
from pipeline.engines.native import engine as native_engine
from pipeline.engines.native.engine import NativeEngine, load_extension
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision
from pipeline.scoring.batch_effect import batch_effect
from pipeline.scoring.batching import BatchBudget, BatchEffect
from pipeline.settings import Rounding
from tests.support import numpy_native


def small(by_name: dict[str, Path], **how: Any) -> NativeEngine:
    """The digits, computed in NumPy: where there is no compiler too."""
    return NativeEngine(by_name["digits"], extension=numpy_native, **how)


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def test_without_the_extension_the_way_to_build_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="densecast_native is not installed") as caught:
        load_extension()
    assert "pip install ./pipeline/engines/native/extension" in caught.value.remedy


def test_an_extension_that_does_not_load_is_an_error_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_extension.py").write_text("raise ImportError('file too short')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(native_engine, "EXTENSION", "broken_extension")
    with pytest.raises(EngineError, match="file too short"):
        load_extension()


def test_a_processor_without_fused_multiply_add_is_refused(monkeypatch: pytest.MonkeyPatch):
    module: Any = types.ModuleType("old_processor")
    module.isas = list
    module.__spec__ = importlib.util.spec_from_loader("old_processor", None)
    monkeypatch.setitem(sys.modules, "old_processor", module)
    monkeypatch.setattr(native_engine, "EXTENSION", "old_processor")
    with pytest.raises(EngineError, match="no fused multiply-add"):
        load_extension()


def test_other_precisions_are_refused(by_name: dict[str, Path]):
    with pytest.raises(EngineError, match="does not compute in float16"):
        small(by_name, precision=Precision.FLOAT16)


def test_a_layer_that_it_does_not_have_is_named(by_name: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in by_name["digits"].iterdir():
        (folder / path.name).symlink_to(path)
    text = (folder / "network.prototxt").read_text()
    (folder / "network.prototxt").unlink()
    (folder / "network.prototxt").write_text(text.replace('type: "LRN"', 'type: "MVN"', 1))
    with pytest.raises(EngineError, match=r"\(MVN\) is not among the layers of the native engine"):
        NativeEngine(folder, extension=numpy_native)


def test_images_of_several_sizes_are_scored_together(by_name: dict[str, Path]):
    engine = small(by_name, k=3, form=Form.FLOAT32)
    given = images((32, 32), (41, 36), (32, 60))
    for image, cells in zip(given, engine.score_mixed(given), strict=True):
        (alone,) = engine.score(image[np.newaxis])
        np.testing.assert_array_equal(cells.classes, alone.classes)
        np.testing.assert_array_equal(cells.probabilities, alone.probabilities)


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (MemoryError(), EngineOutOfMemoryError, "does not fit in memory"),
        (ValueError("a bad image"), EngineError, "failed on 2 images: a bad image"),
    ],
)
def test_what_fails_is_an_error_of_the_batch(by_name: dict[str, Path], error: Exception, kind: type, what: str):
    engine = small(by_name)

    def fails(*_: object) -> None:
        raise error

    engine._execute = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(kind, match=what):
        engine.score_mixed(images((32, 32), (33, 40)))


def test_an_image_without_a_map_is_refused(by_name: dict[str, Path]):
    with pytest.raises(EngineError, match="failed on 1 images"):
        small(by_name).score_mixed(images((9, 9)))


def test_programs_of_many_sizes_are_not_kept(by_name: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native_engine, "_PROGRAMS", 2)
    engine = small(by_name)
    for width in (32, 33, 34, 32):
        engine.score_mixed(images((32, width)))
    assert list(engine._programs) == [((32, 34),), ((32, 32),)]


def test_batches_respect_nothing(by_name: dict[str, Path]):
    """Nothing is measured: the engine promises its bits."""
    engine = small(by_name)
    engine.score = lambda _: pytest.fail("a measurement")  # type: ignore[method-assign, assignment]
    assert engine.exact
    pool = DevicePool(lambda _: engine, (THE_CPU,), first=0)
    assert pool.exact
    assert batch_effect(pool, Rounding.EXACT, BatchBudget()) is BatchEffect.NONE


def test_its_name_says_what_bits_depend_on(by_name: dict[str, Path]):
    identity = small(by_name, k=3).identity
    assert identity.startswith("densecast's own kernels numpy, CPU, float32")
    assert "threads" not in identity
