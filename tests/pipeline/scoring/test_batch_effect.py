"""What is measured of an engine, and that maps keep their bits by it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline.engines import EngineOutOfMemoryError
from pipeline.maps.classification_map import CellScores
from pipeline.scoring import machine
from pipeline.scoring.batch_effect import batch_effect, measure, probe_shapes
from pipeline.scoring.batching import BatchBudget, BatchEffect
from pipeline.settings import Rounding
from tests.support.fakes import METADATA, WINDOW, FakeEngine

BUDGET = BatchBudget(pixel_budget=4 * 32 * 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "densecast" / "measured"


class Rounds(FakeEngine):
    """Moves the last bit of a map by what the effect says."""

    def __init__(self, effect: BatchEffect, least: int = 2) -> None:
        super().__init__()
        self.effect, self.least = effect, least

    def score(self, images: np.ndarray) -> list[CellScores]:
        maps = super().score(images)
        if len(images) < self.least or self.effect is BatchEffect.NONE:
            return maps
        if self.effect is BatchEffect.PLACE:
            up = [place == len(images) - 1 for place in range(len(images))]
        else:
            up = [bool(np.delete(images, place, axis=0).sum() % 2) for place in range(len(images))]
        return [
            cells._replace(scores=np.nextafter(cells.scores, np.float32(2))) if moved else cells
            for cells, moved in zip(maps, up, strict=True)
        ]


@pytest.mark.parametrize("effect", BatchEffect)
def test_an_effect_is_found(effect: BatchEffect):
    assert batch_effect(Rounds(effect), Rounding.EXACT, BUDGET) is effect


def test_the_strongest_effect_of_all_shapes_holds():
    engine = Rounds(BatchEffect.PLACE, least=16)
    assert measure(engine, [(4, (32, 32))]) is BatchEffect.NONE
    assert measure(engine, [(16, (WINDOW, WINDOW)), (4, (32, 32))]) is BatchEffect.PLACE
    assert measure(engine, []) is BatchEffect.NONE


def test_bounded_measures_nothing():
    engine = Rounds(BatchEffect.NEIGHBOURS)
    assert batch_effect(engine, Rounding.BOUNDED, BUDGET) is BatchEffect.NONE
    assert not engine.batches


def test_shapes_go_from_the_smallest_image_to_two_in_a_batch():
    shapes = probe_shapes(METADATA, BUDGET)
    assert shapes[0] == (16, (WINDOW, WINDOW))
    assert shapes[-1] == (2, (45, 45))
    assert len(shapes) == 3
    assert probe_shapes(METADATA, BatchBudget(pixel_budget=WINDOW * WINDOW)) == []


def test_a_batch_that_does_not_fit_is_run_one_by_one(caplog: pytest.LogCaptureFixture):
    engine = FakeEngine(largest_batch=3)
    with pytest.raises(EngineOutOfMemoryError):
        engine.score(np.zeros((4, WINDOW, WINDOW, 3), np.uint8))
    assert batch_effect(engine, Rounding.EXACT, BUDGET) is BatchEffect.NEIGHBOURS
    assert "cannot be run together" in caplog.text


# --- kept for the next process


def test_a_measurement_is_kept_for_an_engine_model_and_machine(monkeypatch: pytest.MonkeyPatch):
    assert batch_effect(Rounds(BatchEffect.PLACE), Rounding.EXACT, BUDGET) is BatchEffect.PLACE
    again = Rounds(BatchEffect.PLACE)
    assert batch_effect(again, Rounding.EXACT, BUDGET) is BatchEffect.PLACE
    assert not again.batches
    for change in ("engine", "model", "machine", "variable"):
        other = Rounds(BatchEffect.NONE)
        with monkeypatch.context() as patch:
            if change == "engine":
                patch.setattr(other, "identity", "another")
            if change == "model":
                patch.setattr(other, "metadata", METADATA.model_copy(update={"digest": "0" * 64}))
            if change == "machine":
                patch.setattr(machine, "_processor_facts", lambda: [("model name", "Another")])
            if change == "variable":
                patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
            assert batch_effect(other, Rounding.EXACT, BUDGET) is BatchEffect.NONE, change
        assert other.batches, change


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nonsense"])
def test_a_damaged_record_is_measured_again(cache: Path, content: bytes):
    batch_effect(FakeEngine(), Rounding.EXACT, BUDGET)
    [record] = cache.iterdir()
    record.write_bytes(content)
    engine = FakeEngine()
    assert batch_effect(engine, Rounding.EXACT, BUDGET) is BatchEffect.NONE
    assert engine.batches
    assert record.read_text() == "none"


def test_without_a_cache_directory_every_process_measures(cache: Path, caplog: pytest.LogCaptureFixture):
    cache.parent.write_text("a file where the directory belongs")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        engine = FakeEngine()
        assert batch_effect(engine, Rounding.EXACT, BUDGET) is BatchEffect.NONE
        assert engine.batches
    assert not caplog.records


def test_the_processor_is_named_with_its_usable_cores():
    assert machine.processor_name().endswith(" cores")
    assert machine.processor_name() in machine.machine_facts()
