"""A clock that moves backwards between two runs: what counts is what changed, not what is newer."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.maintenance.vacuum import vacuum
from pipeline.table.run_history import run_lines
from tests.faults.collection import Images, Settle, rows_of

_AHEAD = timedelta(days=3)


class _Ahead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + _AHEAD


def _run_ahead(images: Images, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a machine whose clock is three days ahead, and its files and its log as they would be then."""
    clock = SimpleNamespace(time=lambda: time.time() + _AHEAD.total_seconds())
    with monkeypatch.context() as patch:
        for module in ("scoring.scorer", "table.commit", "table.part_file", "transforms.rewrite_fn"):
            patch.setattr(f"pipeline.{module}.datetime", _Ahead)
        patch.setattr("pipeline.table.commit.time", clock)
        images.run(output)
    seconds = _AHEAD.total_seconds()
    for log in output.glob("_delta_log/*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] += int(seconds * 1000)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    for path in output.rglob("*"):
        later = path.stat().st_mtime_ns + int(seconds * 1e9)
        os.utime(path, ns=(later, later))


def test_a_clock_that_was_set_back(images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch):
    """Changed images are older now than their maps, and than they were themselves."""
    output = tmp_path / "maps"
    for path in images.folder.iterdir():
        later = path.stat().st_mtime_ns + int(_AHEAD.total_seconds() * 1e9)
        os.utime(path, ns=(later, later))
    _run_ahead(images, output, monkeypatch)
    images.change()
    same_size = images.folder / "bad-format.jpg"
    same_size.write_bytes(b"now image")
    summary = images.run(output, prune=True).summary
    assert summary.images["probed"] == 7
    assert summary.scored == 3 + 2 + 1
    assert summary.rejected == 2, "04.jpg broke, and bad-format.jpg is bad in another way, at the same size"
    undisturbed = images.undisturbed(tmp_path / "once")
    gone = str(images.folder / "03.png")
    found = rows_of(output).to_pylist()
    assert [row["status"] for row in found if row["uri"] == gone] == ["deleted"]
    kept = [row for row in found if row["uri"] != gone]
    for row, other in zip(kept, undisturbed.to_pylist(), strict=True):
        free = {"run_id", "scored_at"}
        assert {k: v for k, v in row.items() if k not in free} == {k: v for k, v in other.items() if k not in free}
    assert [line.version for line in run_lines(str(output))] == [0, 1], "history is in the order of versions"
    assert not vacuum(str(output)).deleted
    settle("clock set back by 3 days between two runs", "all changes noticed", output, images.listed())
