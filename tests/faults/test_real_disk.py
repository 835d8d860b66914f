"""Disks that really are full, or read-only, from one moment of a run on; only where the user may mount file systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import disks, points
from tests.faults.collection import Night, Settle
from tests.faults.disks import WRITING, fails, finish
from tests.faults.points import Point

_MOMENTS = [WRITING, "before the commit", "after the commit"]


@pytest.mark.parametrize("point", _MOMENTS)
def test_a_disk_that_is_really_full(
    point: str, first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    with disks.small_disk(tmp_path / "disk") as disk:
        output, ballast = disk / "maps", disk / "ballast"
        with monkeypatch.context() as patch:
            points.install(point, _filling(ballast), patch.setattr)
            readable = fails(first_night, output, "free space")
        assert readable == ("new version" if point == "after the commit" else "no table")
        ballast.unlink()
        finish(first_night, output, f"disk full {_when(point)} (real)", readable, settle)


@pytest.mark.parametrize(
    ("night", "point"),
    [*(("first_night", point) for point in _MOMENTS), *(("second_night", point) for point in _MOMENTS[1:2])],
)
def test_a_disk_that_really_becomes_read_only(
    point: str,
    night: str,
    tmp_path: Path,
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    disturbed: Night = request.getfixturevalue(night)
    with disks.small_disk(tmp_path / "disk") as disk:
        output = disturbed.start(disk / "maps")
        point_ = Point("conversion.files:partial_name", call=3) if point == WRITING else points.POINTS[point]
        with monkeypatch.context() as patch:
            points.install(point_, lambda: disks.write_protect(disk), patch.setattr)
            readable = fails(disturbed, output, "mounted writable")
        disks.write_protect(disk, on=False)
        prefix = "second run: " if disturbed.before else ""
        finish(disturbed, output, f"{prefix}disk read-only {_when(point)} (real)", readable, settle)


def _filling(ballast: Path) -> Callable[[], None]:
    return lambda: disks.fill(ballast)


def _when(point: str) -> str:
    return point if point.startswith(("before", "after")) else f"during {point}"
