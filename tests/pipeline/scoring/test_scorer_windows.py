"""Windows in batches: several images a call, and every image in one row whatever becomes of its neighbours."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.engines import EngineOutOfMemoryError
from pipeline.errors import EngineError
from pipeline.images.resize import WINDOWS_SCALE
from pipeline.maps.classification_map import CellScores, top_k
from pipeline.maps.recipe import Recipe
from pipeline.maps.windows import as_map
from pipeline.scoring.batching import BatchBudget
from pipeline.scoring.scorer import Limits, Scorer, Tiles
from pipeline.settings import WindowFilter, Windows
from pipeline.sources import ImageReference
from pipeline.table.rows import MapRow
from tests.support.fakes import METADATA, WINDOW, FakeEngine, probabilities

TEN = Recipe(k=2, windows=Windows.TEN, window_filter=WindowFilter.PIL, window_resize=(20, 24)).for_model(METADATA)


class WindowedEngine(FakeEngine):
    """Scores windows as it scores images, by their mean colours."""

    def score_windows(self, windows: np.ndarray) -> list[CellScores]:
        self.batches.append(windows.shape)
        if len(windows) > self.largest_batch:
            raise EngineOutOfMemoryError("does not fit")
        if (windows[:, 0, 0, 0, 0] == self.broken).any():
            raise EngineError("cannot do it")
        return [as_map([top_k(probabilities(window), 2) for window in image]) for image in windows]


def references(folder: Path, count: int) -> list[ImageReference]:
    found = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(2, 256, (20, 24, 3), dtype=np.uint8)
        pixels[0, 0, 0] = number % 2
        Image.fromarray(pixels).save(folder / f"{number}.png")
        found.append(ImageReference(str(folder / f"{number}.png")))
    return found


def run(
    engine: FakeEngine, images: Sequence[ImageReference], budget: BatchBudget, recipe: Recipe = TEN
) -> list[MapRow]:
    scorer = Scorer(engine, recipe, Limits(budget=budget), "run")
    with contextlib.closing(scorer):
        found = [*(row for image in images for row in scorer.add(image)), *scorer.flush()]
    return [row for row in found if not isinstance(row, Tiles)]


def test_several_images_are_run_together_and_apart_from_their_maps(tmp_path: Path):
    engine = WindowedEngine()
    rows = run(engine, references(tmp_path, 5), BatchBudget(pixel_budget=3 * 10 * WINDOW * WINDOW))
    assert {shape for shape in engine.batches if len(shape) == 5} == {(3, 10, WINDOW, WINDOW, 3)}
    assert all(len(shape) == 4 for shape in engine.batches if shape[1:3] == (20, 24))
    assert sorted(
        (Path(row.uri).name, row.scale, row.windows, row.map_height, row.map_width) for row in rows
    ) == sorted(
        values
        for number in range(5)
        for values in ((f"{number}.png", 1.0, None, 1, 2), (f"{number}.png", WINDOWS_SCALE, "ten", 1, 10))
    )
    for row in rows:
        if row.windows:
            pixels = np.asarray(Image.open(row.uri))
            center = probabilities(pixels[2:18, 4:20])
            assert row.classes is not None
            assert row.classes.reshape(10, 2)[4, 0] == center[0, 0].argmax()


def test_out_of_memory_and_failures_cost_no_other_image(tmp_path: Path):
    images = references(tmp_path, 5)
    budget = BatchBudget(pixel_budget=4 * 10 * WINDOW * WINDOW)
    halved = run(WindowedEngine(largest_batch=1), images, budget)
    assert {row.status for row in halved} == {"scored"}
    broken = [row for row in run(WindowedEngine(broken=1), images, budget) if row.windows]
    by_status = {row.status: {Path(r.uri).stem for r in broken if r.status == row.status} for row in broken}
    assert by_status == {"scored": {"0", "2", "4"}, "rejected": {"1", "3"}}
    assert {row.reason for row in broken} == {None, "engine-failed"}


def test_an_engine_without_windows_rejects_them_alone(tmp_path: Path):
    rows = run(FakeEngine(), references(tmp_path, 2), BatchBudget())
    assert sorted((row.scale, row.status) for row in rows) == [
        *[(WINDOWS_SCALE, "rejected")] * 2,
        *[(1.0, "scored")] * 2,
    ]


@pytest.mark.parametrize("scales", [(), (1.0, 0.9)])
def test_a_file_that_cannot_be_read_has_a_rejection_for_its_windows_too(tmp_path: Path, scales: tuple[float, ...]):
    (tmp_path / "x.png").write_bytes(b"nothing")
    recipe = Recipe(k=2, scales=scales, windows=Windows.CENTER).for_model(METADATA)
    rows = run(WindowedEngine(), [ImageReference(str(tmp_path / "x.png"))], BatchBudget(), recipe)
    assert sorted(row.scale for row in rows) == sorted(recipe.row_scales)
    assert {row.windows for row in rows if row.scale == WINDOWS_SCALE} == {"center"}
