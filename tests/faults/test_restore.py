"""A restore dies, or meets a run; and a run goes on after it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from conversion.errors import DensecastError
from pipeline.maintenance.check import check
from pipeline.maintenance.restore import restore
from pipeline.table.reader import MapTable
from tests.faults import points
from tests.faults.collection import Night, Settle, rows_of, same
from tests.faults.driver import Child


@pytest.mark.parametrize("point", ["before the commit of a restore", "after the commit of a restore"])
def test_a_restore_is_killed(point: str, second_night: Night, tmp_path: Path, settle: Settle):
    """Version 0 is brought back over the second night; the same command again, and then the night once more."""
    output = second_night.start(tmp_path / "maps")
    assert second_night.before is not None
    second_night.run(output)
    after, before = rows_of(output), rows_of(second_night.before)
    ended = Child({"output": str(output), "version": 0}, point, command="restore").end()
    assert (ended.status, ended.reached) == (-signal.SIGKILL, True), ended.about
    readable = "new version" if point.startswith("after") else "old version"
    assert same(rows_of(output), before if readable == "new version" else after)
    assert check(str(output)).clean
    # The lease of a process that died on this machine is broken at once.
    assert restore(str(output), 0).needed is (readable == "old version")
    assert same(rows_of(output), before)
    assert [run["restored"] for run in MapTable(output).runs() if "restored" in run] == [0], "the history reports it"
    images = second_night.run(output).summary.images
    outcome = f"{readable} readable; the next run scores {images['score']} images"
    listed = second_night.images.listed()
    settle(f"restore: SIGKILL {point}".removesuffix(" of a restore"), outcome, output, listed, second_night.after)


def test_a_restore_while_a_run_is_at_work(
    second_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """The run has kept images whose maps the restore takes out: it publishes nothing, and the next run is right."""
    output = second_night.start(tmp_path / "maps")
    second_night.run(output)
    second_night.images.put("later.png", 60)
    try:
        with monkeypatch.context() as patch:
            points.install("before the commit", lambda: _restore(output), patch.setattr)
            with pytest.raises(DensecastError, match="version 0 of the table was restored while this run worked"):
                second_night.run(output)
        images = second_night.run(output).summary.images
        outcome = f"the run is refused; the next adopts {images['adopt']} and scores {images['score']}"
        settle("a restore while a run is at work", outcome, output, second_night.images.listed())
    finally:
        (second_night.images.folder / "later.png").unlink()


def _restore(output: Path) -> None:
    assert restore(str(output), 0).version == 2
