"""Batches run in a thread of their own, in order, and one runs while the rows of another are made."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Recipe
from pipeline.scoring.batching import BatchBudget
from pipeline.scoring.inference import Inference
from pipeline.scoring.prefetch import LookAhead
from pipeline.scoring.scorer import Limits, Scored, Scorer
from pipeline.sources import ImageReference
from pipeline.table.rows import MapRow
from tests.support.fakes import METADATA, FakeEngine

WAIT_S = 60


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def stem(row: Scored) -> str:
    assert isinstance(row, MapRow)
    return Path(row.uri).stem


def test_batches_run_in_order_and_their_seconds_count():
    counts: dict[str, float] = {}
    with contextlib.closing(Inference(FakeEngine(), counts)) as inference:
        started = [inference.start([image(n)]) for n in range(5)]
        for n, maps in enumerate(started):
            [expected] = FakeEngine().score(image(n)[np.newaxis])
            [found] = maps.result(WAIT_S)
            np.testing.assert_array_equal(found.scores, expected.scores)
    assert counts.keys() == {"seconds.infer"}


def test_an_engine_without_windows_says_so():
    windows = np.zeros((10, 24, 32, 3), np.float32)
    with contextlib.closing(Inference(FakeEngine(), {})) as inference:
        maps = inference.start([windows, windows])
        with pytest.raises(EngineError, match="FakeEngine does not classify windows"):
            maps.result(WAIT_S)


class Gated(FakeEngine):
    """Runs its first batch at once, and the second only when the rows of the first are there."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.first_rows = threading.Event()
        self.started = threading.Event()

    def score(self, images: np.ndarray) -> list[CellScores]:
        self.calls += 1
        if self.calls == 2:
            self.started.set()
            assert self.first_rows.wait(WAIT_S), "the rows of the first batch are made while the second one runs"
        return super().score(images)


def test_rows_are_made_while_the_next_batch_runs(tmp_path: Path):
    references = []
    for n in range(3):
        Image.fromarray(image(n)).save(tmp_path / f"{n}.png")
        references.append(ImageReference(str(tmp_path / f"{n}.png")))
    engine = Gated()
    limits = Limits(budget=BatchBudget(max_batch=1), look_ahead=LookAhead(max_pending=1))
    names = []
    with contextlib.closing(Scorer(engine, Recipe(METADATA.digest, k=2), limits, "run")) as scorer:
        for reference in references:
            for row in scorer.add(reference):
                engine.started.wait(WAIT_S)
                engine.first_rows.set()
                names.append(stem(row))
        names += map(stem, scorer.flush())
    assert names == ["0", "1", "2"]


def test_what_runs_when_a_scorer_is_reset_is_forgotten(tmp_path: Path):
    Image.fromarray(image(0)).save(tmp_path / "a.png")
    Image.fromarray(image(1)).save(tmp_path / "b.png")
    limits = Limits(budget=BatchBudget(max_batch=1), look_ahead=LookAhead(max_pending=1))
    with contextlib.closing(Scorer(FakeEngine(), Recipe(METADATA.digest, k=2), limits, "run")) as scorer:
        assert not list(scorer.add(ImageReference(str(tmp_path / "a.png")))), "its batch runs"
        scorer.reset()
        assert not scorer.counts
        list(scorer.add(ImageReference(str(tmp_path / "b.png"))))
        assert list(map(stem, scorer.flush())) == ["b"]
