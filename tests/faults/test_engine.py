"""An engine that fails on some images costs those images; one that fails as a whole costs the run, not its work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion.errors import DensecastError
from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from tests.faults.collection import Images, Settle, maps_left_behind, rows_of, without_tensorflow
from tests.support.fakes import FakeEngine

_MARK = 251


def _marked(images: Images) -> set[str]:
    """One image in five, each of another shape, gets a first pixel that the engine cannot stand; PNG keeps it."""
    numbers = (0, 6, 12, 18)
    for number in numbers:
        images.put(f"{number:02}.png", number, mark=_MARK)
    return {f"{number:02}.png" for number in numbers}


def _run(images: Images, output: Path, engine: Callable[[], Any], **options: Any) -> Any:
    with without_tensorflow(engine=engine):
        return run_job(describe_job(**images.values(output, **options))).summary


def _small() -> FakeEngine:
    return FakeEngine(largest_batch=1)


def _picky() -> FakeEngine:
    return FakeEngine(broken=_MARK)


def _both() -> FakeEngine:
    return FakeEngine(largest_batch=1, broken=_MARK)


class _Nan(FakeEngine):
    """Gives NaN for images that it cannot stand."""

    def score(self, images: np.ndarray) -> Any:
        return [
            cells._replace(scores=np.full_like(cells.scores, np.nan)) if image[0, 0, 0] == _MARK else cells
            for image, cells in zip(images, super().score(images), strict=True)
        ]


class _Dying(FakeEngine):
    """Fails in a way that nobody foresaw, at its fourth batch."""

    def score(self, images: np.ndarray) -> Any:
        if len(self.batches) == 4:
            raise ZeroDivisionError("a bug in a kernel")
        return super().score(images)


@pytest.mark.parametrize(
    ("fault", "engine"),
    [
        ("an engine that fails on every fifth image", _picky),
        ("an engine that fails so, and holds one image", _both),
        ("an engine that gives NaN for every fifth image", _Nan),
    ],
)
def test_an_engine_that_fails_takes_no_neighbours_along(
    fault: str, engine: Callable[[], Any], images: Images, tmp_path: Path, settle: Settle
):
    marked, output = _marked(images), tmp_path / "maps"
    _run(images, output, engine)
    reasons = {Path(row["uri"]).name: row["reason"] for row in rows_of(output).to_pylist()}
    assert {name for name, reason in reasons.items() if reason == "engine-failed"} == marked
    settle(fault, "engine-failed: 4, the others scored", output, images.listed())
    if engine is _picky:
        images.run(output, retry_rejected=True)
        settle(f"{fault}, mended", "all scored", output, images.listed(), images.undisturbed(tmp_path / "u"))


def test_an_engine_without_memory_for_two_images(images: Images, tmp_path: Path, settle: Settle):
    output = tmp_path / "maps"
    summary = _run(images, output, _small)
    assert (summary.scored, summary.rejected) == (20, 4)
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    settle("out of memory on batches of 2 and more", "halved to 1", output, images.listed(), undisturbed)


def test_an_engine_that_dies_costs_the_run_but_not_its_work(images: Images, tmp_path: Path, settle: Settle):
    output = tmp_path / "maps"
    with pytest.raises(DensecastError, match="a bug in a kernel"):
        _run(images, output, _Dying)
    assert rows_of(output) is None
    left = len(maps_left_behind(output))
    assert left
    assert images.run(output).summary.images["adopt"] == left
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    outcome = f"run fails; {left} maps adopted"
    settle("an engine that raises what nobody foresaw", outcome, output, images.listed(), undisturbed)
