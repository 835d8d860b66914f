"""A runner may process a bundle twice, or twice at once, and keep the receipts of one attempt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.transforms.reports import in_global_window
from pipeline.transforms.score_fn import ScoreFn
from tests.faults.collection import Night, Settle, maps_left_behind, without_tensorflow

_MODES = {
    "twice": "a bundle processed twice",
    "at once": "a bundle processed twice at once",
    "half": "a bundle that fails halfway and is repeated",
}


class RepeatedFn(beam.DoFn):
    """`ScoreFn` on a runner that makes two attempts at every bundle and keeps the second's receipts."""

    def __init__(self, mode: str, *args: Any, **options: Any) -> None:
        self._mode, self._args, self._options = mode, args, options

    def open_ahead(self) -> None:
        """Each attempt opens an engine of its own."""

    def start_bundle(self) -> None:
        self._work: list[bytes] = []

    def process(self, work: bytes) -> None:
        self._work.append(work)

    def finish_bundle(self) -> Iterator[Any]:
        attempts: list[list[Any]] = [[], []]
        if self._mode == "at once":
            start = threading.Barrier(2)
            threads = [threading.Thread(target=self._attempt, args=(kept, start)) for kept in attempts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for kept in attempts:
                self._attempt(kept, half=self._mode == "half" and kept is attempts[0])
        yield from attempts[1]

    def _attempt(self, kept: list[Any], start: threading.Barrier | None = None, half: bool = False) -> None:
        fn = ScoreFn(*self._args, **self._options)
        fn.setup()
        if start is not None:
            start.wait(60)
        fn.start_bundle()
        for work in self._work[: len(self._work) // 2] if half else self._work:
            kept += map(in_global_window, fn.process(work))
        if half:  # a worker that is lost: what it wrote by size stays behind
            kept += fn._write(fn._scorer.flush()) if fn._scorer else ()
        else:
            kept += fn.finish_bundle()
        fn.teardown()


@pytest.mark.parametrize("mode", _MODES)
def test_a_repeated_bundle_gives_no_image_two_maps(mode: str, first_night: Night, tmp_path: Path, settle: Settle):
    output, images = tmp_path / "maps", first_night.images

    def score_fn(*args: Any, **options: Any) -> RepeatedFn:
        return RepeatedFn(mode, *args, **options)

    with without_tensorflow(score_fn=score_fn):
        summary = run_job(describe_job(**images.values(output))).summary
    assert (summary.scored, summary.rejected, summary.images["read"]) == (20, 4, 24)
    left = maps_left_behind(output)
    assert len(left) == 20 if mode != "half" else 0 < len(left) < 20
    again = images.run(output).summary.images
    assert (again["keep"], again.get("adopt", 0)) == (24, 0), "what an attempt left that did not count is not adopted"
    outcome = f"one attempt published; {len(left)} maps of the other ignored"
    settle(_MODES[mode], outcome, output, images.listed(), first_night.after)
