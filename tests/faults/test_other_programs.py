"""Other programs write to the table between and during runs; a run meets what another version of densecast has left."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from conversion.errors import DensecastError
from pipeline.images import decoding_rules
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.settings import Rounding
from tests.faults import points
from tests.faults.collection import Night, Settle, maps_left_behind
from tests.faults.disks import raising
from tests.support.maintained import commit as commit_files

_CHANGES: dict[str, Callable[[DeltaTable], object]] = {
    "deletes every row": lambda table: table.delete(),
    "deletes the maps": lambda table: table.delete("status = 'scored'"),
    "optimizes": lambda table: table.optimize.compact(),
    "sorts (z-order)": lambda table: table.optimize.z_order(["uri"]),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_another_program_changes_the_table_between_two_runs(
    what: str, first_night: Night, tmp_path: Path, settle: Settle
):
    output = tmp_path / "maps"
    first_night.run(output)
    _CHANGES[what](DeltaTable(str(output)))
    images = first_night.run(output).summary.images
    outcome = f"{images.get('score', 0)} images scored again"
    settle(f"delta-rs {what} between two runs", outcome, output, first_night.images.listed(), first_night.after)


def test_another_program_deletes_rows_while_a_run_is_at_work(
    second_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = second_night.start(tmp_path / "maps")
    with monkeypatch.context() as patch:
        points.install("before the commit", lambda: DeltaTable(str(output)).delete(), patch.setattr)
        with pytest.raises(DensecastError, match="rewritten while it ran"):
            second_night.run(output)
    second_night.run(output)
    listed = second_night.images.listed()
    # Rows of images that are no longer listed were deleted before this run could mark them.
    settle("delta-rs deletes every row during a run", "the run is refused", output, listed)


def test_an_exact_run_after_a_bounded_one_that_died(
    first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "maps"
    with monkeypatch.context() as patch:
        points.install("before the commit", raising(errno.EIO), patch.setattr)
        with pytest.raises(DensecastError, match="Input/output error"):
            first_night.run(output, rounding=Rounding.BOUNDED)
    assert maps_left_behind(output)
    images = first_night.run(output).summary.images
    assert not images.get("adopt")
    fault = "an exact run after a bounded one that died"
    settle(fault, "no maps adopted", output, first_night.images.listed(), first_night.after)


def test_decoding_is_mended_after_a_run_that_died(
    first_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """What an older version decoded otherwise is not adopted."""
    output = tmp_path / "maps"
    with monkeypatch.context() as patch:
        older = {**decoding_rules.rules(), "PNG": decoding_rules.Rules(version=0, pixels=0)}
        patch.setattr(decoding_rules, "_RULES", older)
        points.install("before the commit", raising(errno.EIO), patch.setattr)
        with pytest.raises(DensecastError, match="Input/output error"):
            first_night.run(output)
    adopted = first_night.run(output).summary.images.get("adopt", 0)
    assert 0 < adopted < 20
    fault = "decoding of PNG mended after a run that died"
    settle(fault, f"{adopted} maps adopted, none of a PNG", output, first_night.images.listed(), first_night.after)


@pytest.mark.parametrize("when", ["between two runs", "during a run"])
def test_another_program_appends_rows_that_are_not_ours(
    when: str, second_night: Night, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """The run goes on, and leaves the part as it is; but for that part the table is an undisturbed one."""
    output = second_night.start(tmp_path / "maps")
    with monkeypatch.context() as patch:
        if when == "during a run":
            points.install("before the commit", lambda: _append(output), patch.setattr)
        else:
            _append(output)
        second_night.run(output)
    report = check(str(output))
    assert [(finding.kind, finding.where) for finding in report.findings] == [("foreign-rows", _PART)]
    assert [left.path for left in compact(str(output)).left] == [_PART]
    assert (output / _PART).exists()
    # For the counts by other readers: the rows of the other program leave the table.
    commit_files(output, [], [output / _PART], statistics={})
    listed = second_night.images.listed()
    settle(f"delta-rs appends rows of its own {when}", "left out, and named", output, listed, second_night.after)


_PART = "part-00000-of-another.c000.parquet"


def _append(output: Path) -> None:
    """As a program does that does not ask for the columns of the table."""
    pq.write_table(pa.table({"uri": ["elsewhere.jpg"], "price": [3.5]}), output / _PART)
    commit_files(output, [output / _PART], [], statistics={"numRecords": 1})
