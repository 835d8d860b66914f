"""A disk that is full, read-only or failing costs a run, never a table: the error says what to do, a re-run completes.

Here the operating system's errors are raised where it would raise them; in test_real_disk.py disks really are so.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults import disks, points
from tests.faults.collection import Night, Settle
from tests.faults.disks import WRITING, fails, finish
from tests.faults.points import Point

_WRITES = [WRITING, "the writing of a model's metadata", "the writing of the summary"]


@pytest.mark.parametrize("point", _WRITES)
def test_no_space_left_halfway_through_a_file(
    point: str, first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "maps"
    with monkeypatch.context() as patch:
        points.install(point, disks.raising(errno.ENOSPC), patch.setattr)
        readable = fails(first_night, output, "free space on that disk")
    finish(first_night, output, f"ENOSPC during {point} (patched)", readable, settle)


_CALLS = {
    "rename of a part": (Point("pathlib:Path.replace", call=3, counts=points.POINTS[WRITING].counts), errno.EIO),
    "fsync of a part": (Point("conversion.files:os.fsync", call=5), errno.EIO),
    "fsync of the folder": (Point("conversion.files:os.fsync", call=6), errno.EIO),
    "fsync for lack of space": (Point("conversion.files:os.fsync", call=5), errno.ENOSPC),
}


@pytest.mark.parametrize(
    ("night", "call"), [*(("first_night", call) for call in _CALLS), ("second_night", "rename of a part")]
)
def test_a_failing_call_of_the_operating_system(
    call: str,
    night: str,
    tmp_path: Path,
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    disturbed: Night = request.getfixturevalue(night)
    output = disturbed.start(tmp_path / "maps")
    point, number = _CALLS[call]
    with monkeypatch.context() as patch:
        points.install(point, disks.raising(number), patch.setattr)
        readable = fails(disturbed, output, "what to do")
    prefix = "second run: " if disturbed.before else ""
    finish(disturbed, output, f"{prefix}{errno.errorcode[number]} from {call} (patched)", readable, settle)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(
    number: int, first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "maps"
    with monkeypatch.context() as patch:
        points.install(Point("conversion.files:partial_name"), disks.raising(number), patch.setattr)
        readable = fails(first_night, output, "choose")
    assert readable == "no table"
    finish(first_night, output, f"{errno.errorcode[number]} from the output folder (patched)", readable, settle)
