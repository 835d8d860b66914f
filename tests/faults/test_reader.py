"""Who reads a table while it is written sees the old version or the new one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.collection import Night, Settle
from tests.faults.driver import Child


def test_a_reader_who_looks_all_the_time(second_night: Night, tmp_path: Path, settle: Settle):
    output = second_night.start(tmp_path / "maps")
    child = Child(second_night.images.values(output, **second_night.options))
    seen = []
    while child.process.is_alive():
        seen.append(second_night.check_readable(output))
    assert child.end().status == 0
    seen.append(second_night.check_readable(output))
    turn = seen.index("new version")
    assert turn
    assert seen == ["old version"] * turn + ["new version"] * (len(seen) - turn)
    outcome = "the old version, then the new one"
    settle("a reader all the while", outcome, output, second_night.images.listed(), second_night.after)
