"""A compaction at the same time as a run: one of them is refused, or both succeed; the rows are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion.errors import DensecastError
from pipeline.maintenance.compact import compact
from pipeline.table.commit import ConflictError
from tests.faults import points
from tests.faults.collection import Images, Night, Settle
from tests.faults.driver import Child


def test_a_compaction_while_a_run_adds_images(
    images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """What the run adds is elsewhere than what was compacted: both succeed."""
    output = tmp_path / "maps"
    images.run(output)
    images.put("new-a.png", 50)
    images.put("new-b.jpg", 51)
    with monkeypatch.context() as patch:
        points.install("before the commit", lambda: _compact(output), patch.setattr)
        assert images.run(output).summary.version == 2
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    settle("compaction while a run adds images", "both succeed", output, images.listed(), undisturbed)


def test_a_compaction_while_a_run_replaces_maps(
    second_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = second_night.start(tmp_path / "maps")
    with monkeypatch.context() as patch:
        points.install("before the commit", lambda: _compact(output), patch.setattr)
        with pytest.raises(DensecastError, match="rewritten while it ran"):
            second_night.run(output)
    assert second_night.check_readable(output) == "old version"
    images = second_night.run(output).summary.images
    outcome = f"the run is refused; {images['adopt']} maps adopted"
    listed = second_night.images.listed()
    settle("compaction while a run replaces maps", outcome, output, listed, second_night.after)


def test_a_run_while_a_compaction_merges(
    second_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = second_night.start(tmp_path / "maps")
    with monkeypatch.context() as patch:
        points.install("before the commit of a compaction", lambda: _run(second_night, output), patch.setattr)
        with pytest.raises(ConflictError, match="run again"):
            compact(str(output))
    assert second_night.check_readable(output) == "new version"
    assert compact(str(output)).files_after == 1
    listed = second_night.images.listed()
    settle("a run while a compaction merges", "the compaction is refused", output, listed, second_night.after)


def test_a_compaction_and_a_run_that_commit_at_once(second_night: Night, tmp_path: Path, settle: Settle):
    """In processes of their own, that meet at the commit."""
    output, meet = second_night.start(tmp_path / "maps"), tmp_path / "meet"
    meet.mkdir()
    values = second_night.images.values(output, **second_night.options)
    children = [
        Child(values, "before the commit", meet),
        Child(values, "before the commit of a compaction", meet, command="compact"),
    ]
    ended = [child.end() for child in children]
    assert all(end.reached for end in ended), [end.about for end in ended]
    assert sorted(end.error for end in ended) == ["", "ConflictError"], [end.about for end in ended]
    assert second_night.check_readable(output) == ("old version" if ended[0].error else "new version")
    second_night.run(output)
    compact(str(output))
    listed, outcome = second_night.images.listed(), "one publishes, ConflictError for the other"
    settle("a compaction and a run commit at once", outcome, output, listed, second_night.after)


def _compact(output: Path) -> None:
    assert compact(str(output)).passes == 1


def _run(night: Night, output: Path) -> None:
    assert night.run(output).summary.version == 1
