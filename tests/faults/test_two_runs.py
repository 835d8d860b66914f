"""Runs at once into one table, in processes of their own that meet at the commit: no image gets two maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conversion.errors import DensecastError
from pipeline.table.summaries import read_summary
from tests.faults import points
from tests.faults.collection import Night, Settle
from tests.faults.driver import Child, Ended
from tests.faults.points import Point


def _at_once(meet: Path, *jobs: dict[str, Any]) -> list[Ended]:
    meet.mkdir()
    ended = [child.end() for child in [Child(values, "before the commit", meet, len(jobs)) for values in jobs]]
    assert all(end.reached for end in ended), [end.about for end in ended]
    assert {end.status for end in ended} <= {0, 1}, [end.about for end in ended]
    return ended


@pytest.mark.parametrize("which", ["first_night", pytest.param("second_night", marks=pytest.mark.large)])
def test_two_runs_over_the_same_images(which: str, tmp_path: Path, settle: Settle, request: pytest.FixtureRequest):
    night: Night = request.getfixturevalue(which)
    output = night.start(tmp_path / "maps")
    jobs = [night.images.values(output, run_id=f"run{n}", **night.options) for n in range(2)]
    ended = _at_once(tmp_path / "meet", *jobs)
    assert sorted(end.error for end in ended) == ["", "ConflictError"]
    assert "run again" in next(end.about for end in ended if end.error)
    assert night.check_readable(output) == "new version"
    assert night.run(output).summary.images["keep"] >= 24
    prefix = "second run: " if night.before else ""
    outcome = "one publishes, ConflictError for the other"
    settle(f"{prefix}two runs over the same images at once", outcome, output, night.images.listed(), night.after)


@pytest.mark.large
def test_two_runs_over_different_images(first_night: Night, tmp_path: Path, settle: Settle):
    """On a table that neither has made: both publish, one after the other."""
    output, images = tmp_path / "maps", first_night.images
    halves = [(str(images.folder / "0*"),), (str(images.folder / "[1b]*"),)]
    jobs = [images.values(output, run_id=f"run{n}") | {"images": half} for n, half in enumerate(halves)]
    ended = _at_once(tmp_path / "meet", *jobs)
    assert [end.error for end in ended] == ["", ""], [end.about for end in ended]
    assert sorted(read_summary(str(output), f"run{n}").version for n in range(2)) == [0, 1]
    settle("two runs over different images at once", "both publish", output, images.listed(), first_night.after)


def test_one_run_started_twice(first_night: Night, tmp_path: Path, settle: Settle):
    """A scheduler that believes the first to be dead: the same run id, the same work, at the same time."""
    output, images = tmp_path / "maps", first_night.images
    ended = _at_once(tmp_path / "meet", *[images.values(output, run_id="nightly")] * 2)
    assert [end.error for end in ended] == ["", ""], [end.about for end in ended]
    assert [(end.about["version"], end.about["scored"], end.about["rejected"]) for end in ended] == [(0, 20, 4)] * 2
    outcome = "published once; both report it"
    settle("one run id started twice at once", outcome, output, images.listed(), first_night.after)


def test_a_run_takes_over_what_a_living_one_has_written(
    first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """The first is slow, not dead: the second adopts its maps and publishes, and the first must not any more."""
    output, taken = tmp_path / "maps", []

    def overtake() -> None:
        taken.append(first_night.run(output).summary.images["adopt"])

    with monkeypatch.context() as patch:
        points.install("before the commit", overtake, patch.setattr)
        with pytest.raises(DensecastError, match="run again"):
            first_night.run(output)
    assert taken == [20]
    assert first_night.check_readable(output) == "new version"
    outcome = "the second adopts 20 maps; the first is refused"
    settle("a run overtakes one that is slow", outcome, output, first_night.images.listed(), first_night.after)


def test_parts_that_are_deleted_before_the_commit(
    first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """By somebody who tidies up: a table with a hole would lie to its readers."""
    output = tmp_path / "maps"
    with monkeypatch.context() as patch:
        points.install(
            Point("pipeline.transforms.publish_fn:commit"),
            lambda: sorted(output.glob("part-*"))[0].unlink(),
            patch.setattr,
        )
        with pytest.raises(DensecastError, match="is missing"):
            first_night.run(output)
    assert first_night.check_readable(output) == "no table"
    adopted = first_night.run(output).summary.images["adopt"]
    outcome = f"typed error, no table readable; {adopted} maps adopted"
    settle("a part deleted before the commit", outcome, output, first_night.images.listed(), first_night.after)
