"""A run that is killed at any point loses nothing, and nothing that was finished is computed twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.collection import Images, Night, Settle, maps_to_adopt
from tests.faults.driver import Child

_POINTS = [
    "listing",
    "decode",
    "infer",
    "the writing of a part",
    "before the rename of a part",
    "after the rename of a part",
    "before the commit",
    "after the commit",
    "the writing of the summary",
]
_COMMITTED = {"after the commit", "the writing of the summary"}


def _killed(night: Night, output: Path, point: str) -> None:
    ended = Child(night.images.values(output, **night.options), point).end()
    assert (ended.status, ended.reached) == (-signal.SIGKILL, True), ended.about


def _phrase(point: str) -> str:
    return f"SIGKILL {point}" if point.startswith(("before", "after")) else f"SIGKILL during {point}"


@pytest.mark.parametrize("point", _POINTS)
def test_a_killed_run_loses_and_repeats_no_image(point: str, first_night: Night, tmp_path: Path, settle: Settle):
    output = first_night.start(tmp_path / "maps")
    _killed(first_night, output, point)
    readable = first_night.check_readable(output)
    assert readable == ("new version" if point in _COMMITTED else "no table")
    left = maps_to_adopt(output)
    assert bool(left) == (point in _POINTS[2:7])
    images = first_night.run(output).summary.images
    if point in _COMMITTED:
        assert (images["keep"], images.get("read", 0)) == (24, 0)
    else:
        assert images.get("adopt", 0) == len(left)
        assert images["read"] == 24 - len(left)
    outcome = f"{readable} readable; {len(left)} maps adopted"
    settle(_phrase(point), outcome, output, first_night.images.listed(), first_night.after)


@pytest.mark.parametrize("point", [*_POINTS[:3], "a probe", "a copy-on-write", *_POINTS[3:]])
def test_a_killed_run_leaves_the_old_table_or_the_new_one(
    point: str, second_night: Night, tmp_path: Path, settle: Settle
):
    output = second_night.start(tmp_path / "maps")
    _killed(second_night, output, point)
    readable = second_night.check_readable(output)
    assert readable == ("new version" if point in _COMMITTED else "old version")
    touched = str(second_night.images.folder / "02.jpg")
    finished = maps_to_adopt(output) - {touched}
    images = second_night.run(output).summary.images
    outcome = f"{readable} readable; {images.get('adopt', 0)} maps adopted"
    settle(f"second run: {_phrase(point)}", outcome, output, second_night.images.listed(), second_night.after)
    if point in _COMMITTED:
        assert (images["keep"], images.get("read", 0), images["absent"]) == (25, 0, 1)
    else:
        # Three images changed, one broke, one was mended, two are new.
        assert images["score"] == 7 - len(finished)
        assert len(finished) == 6 or point != "before the commit"


def test_a_run_that_died_after_its_commit_can_be_repeated_under_its_name(
    first_night: Night, tmp_path: Path, settle: Settle
):
    """A scheduler repeats a task with the same arguments: what was published stays, and gets its summary."""
    output = tmp_path / "maps"
    values = first_night.images.values(output, run_id="nightly")
    assert Child(values, "after the commit").end().status == -signal.SIGKILL
    assert not (output / "_densecast" / "runs" / "nightly.json").exists()
    summary = first_night.run(output, run_id="nightly").summary
    assert (summary.version, summary.scored, summary.rejected) == (0, 20, 4)
    outcome = "published once; summary written"
    settle("SIGKILL after the commit, same run id", outcome, output, first_night.images.listed(), first_night.after)


def test_a_run_that_is_killed_again_and_again_gets_done(images: Images, tmp_path: Path, settle: Settle):
    """From outside, at moments that nobody chose; the last run finds what all of them left."""
    output = tmp_path / "maps"
    night = Night(images, None, images.undisturbed(tmp_path / "undisturbed"), {})
    moments, killed = random.Random(4), 0
    for _ in range(3):
        child = Child(images.values(output))
        child.wait_until_started()
        time.sleep(moments.uniform(0.0, 1.2))
        child.process.kill()
        killed += child.end().status == -signal.SIGKILL
        night.check_readable(output)
    images.run(output)
    settle("SIGKILL at 3 random moments, one run after another", f"{killed} died", output, images.listed(), night.after)
