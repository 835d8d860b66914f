"""The fused stage as Beam calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import EngineError
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.sources import ImageReference
from pipeline.table.part_file import FLUSH_BYTES, Receipt
from pipeline.transforms.reports import StageCounts
from pipeline.transforms.score_fn import ScoreFn
from pipeline.transforms.shuffle import pack
from tests.pipeline.scoring.test_scorer import noise, save
from tests.support.fakes import METADATA, FakeEngine


def test_parts_written_while_the_last_batches_are_flushed_are_not_lost(tmp_path: Path):
    """Many shapes wait for the end of the bundle, and each row fills a part of its own."""
    references = [save(tmp_path / f"i{n}.png", noise(n, 16, 16 + n)) for n in range(12)]
    recipe = Recipe(METADATA.digest, k=2)
    fn = ScoreFn(FakeEngine, str(tmp_path / "table"), "run", recipe, limits=Limits(), flush_bytes=1)
    fn.setup()
    fn.start_bundle()
    assert not list(fn.process(pack(references))), "all of them wait for a full batch"
    reports = [windowed.value for windowed in fn.finish_bundle()]
    fn.teardown()
    assert sum(report.rows for report in reports if isinstance(report, Receipt)) == 12
    [counts] = [report for report in reports if isinstance(report, StageCounts)]
    assert counts.counts["read"] == 12
    assert {"seconds.read", "seconds.decode", "seconds.infer", "seconds.write"} <= counts.counts.keys()


def test_a_model_that_was_replaced_meanwhile_is_refused():
    fn = ScoreFn(FakeEngine, "table", "run", Recipe("e" * 64, k=2), limits=Limits())
    fn.setup()
    fn.start_bundle()
    with pytest.raises(EngineError, match="the model has changed"):
        list(fn.process(pack([ImageReference("a.jpg")])))


def test_one_engine_serves_all_threads_of_a_process():
    opened = []

    def open_engine() -> FakeEngine:
        opened.append(1)
        return FakeEngine()

    work = pack([ImageReference("/nowhere/a.jpg")])
    fn = ScoreFn(open_engine, "table", "run", Recipe(METADATA.digest, k=2), limits=Limits())
    fn.setup()
    fn.start_bundle()
    assert not opened, "where there is nothing to score, no model is loaded"
    for _ in range(2):
        list(fn.process(work))
        fn.teardown()
        fn.setup()
        fn.start_bundle()
    assert len(opened) == 1


def test_an_engine_that_is_opened_ahead_is_the_one_that_scores(tmp_path: Path):
    opened = []

    def open_engine() -> FakeEngine:
        opened.append(1)
        return FakeEngine()

    work = pack([ImageReference("/nowhere/a.jpg")])
    fn = ScoreFn(open_engine, str(tmp_path / "table"), "run", Recipe(METADATA.digest, k=2), limits=Limits())
    fn.open_ahead().join()
    assert opened == [1]
    fn.setup()
    fn.start_bundle()
    list(fn.process(work))
    list(fn.finish_bundle())
    fn.teardown()
    assert opened == [1]


def test_an_engine_that_cannot_be_opened_ahead_is_opened_again_and_its_error_raised():
    opened = []

    def open_engine() -> FakeEngine:
        opened.append(1)
        raise EngineError("no memory")

    fn = ScoreFn(open_engine, "table", "run", Recipe(METADATA.digest, k=2), limits=Limits())
    fn.open_ahead().join()
    fn.setup()
    fn.start_bundle()
    with pytest.raises(EngineError, match="no memory"):
        list(fn.process(pack([ImageReference("/nowhere/a.jpg")])))
    assert opened == [1, 1]


def bundle(
    tmp_path: Path, references: list[ImageReference], flush_bytes: int = FLUSH_BYTES, **limits: Any
) -> list[Receipt]:
    """The receipts of one bundle."""
    recipe = Recipe(METADATA.digest, k=2)
    fn = ScoreFn(FakeEngine, str(tmp_path / "table"), "run", recipe, limits=Limits(**limits), flush_bytes=flush_bytes)
    fn.setup()
    fn.start_bundle()
    reports = list(fn.process(pack(references)))
    reports += [windowed.value for windowed in fn.finish_bundle()]
    fn.teardown()
    return [report for report in reports if isinstance(report, Receipt)]


def test_images_that_were_cut_share_a_part(tmp_path: Path):
    """A file each would be a million files for a million photographs."""
    references = [save(tmp_path / f"i{n}.png", noise(n, 90, 120)) for n in range(3)]
    (tmp_path / "cut.png").write_bytes((tmp_path / "i0.png").read_bytes()[:20_000])
    [part] = bundle(tmp_path, [*references, ImageReference(str(tmp_path / "cut.png"))], tile_pixels=60 * 60)
    assert (part.scored, part.rejected) == (3, 1)
    assert part.rows > 4


@pytest.mark.parametrize("flush_bytes", [1, 3000, 5000, 9000])
def test_no_tile_is_lost_where_a_map_fills_more_than_a_part(tmp_path: Path, flush_bytes: int):
    references = [save(tmp_path / "big.png", noise(0, 300, 400)), save(tmp_path / "small.png", noise(1))]
    whole = bundle(tmp_path, references, tile_pixels=60 * 60)
    parts = bundle(tmp_path, references, flush_bytes, tile_pixels=60 * 60)
    assert len(parts) > 1
    assert sum(part.rows for part in parts) == sum(part.rows for part in whole) > 20
    assert sum(part.scored for part in parts) == 2


def test_of_a_large_image_that_fails_after_parts_were_written_nothing_counts(tmp_path: Path):
    reference = save(tmp_path / "big.png", noise(0, 300, 400))
    path = Path(reference.uri)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    [part] = bundle(tmp_path, [reference], flush_bytes=3000, tile_pixels=60 * 60, whole_pixels=1)
    assert (part.rows, part.scored, part.rejected) == (1, 0, 1)
    assert len(list((tmp_path / "table").iterdir())) > 1, "some tiles were written, and are nobody's"


def test_a_bundle_that_failed_leaves_nothing_to_the_next(tmp_path: Path):
    fn = ScoreFn(FakeEngine, str(tmp_path / "table"), "run", Recipe(METADATA.digest, k=2), limits=Limits())
    fn.setup()
    fn.start_bundle()
    list(fn.process(pack([save(tmp_path / "first.png", noise(0))])))
    fn.start_bundle()  # the runner gave the first up
    list(fn.process(pack([save(tmp_path / "second.png", noise(1))])))
    reports = [windowed.value for windowed in fn.finish_bundle()]
    fn.teardown()
    assert [report.rows for report in reports if isinstance(report, Receipt)] == [1]
