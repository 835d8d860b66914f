"""A version is brought back whole, as a new version; what is done next goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from pipeline.cli.commands.maintenance import restore as restore_command
from pipeline.cli.commands.maintenance import runs as runs_command
from pipeline.drift.measure import measure_drift
from pipeline.errors import TableError
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.maintenance.restore import plan_restore, restore
from pipeline.maintenance.vacuum import vacuum
from pipeline.table.commit import Changes, ConflictError, commit
from pipeline.table.lease import Lease, LeaseHeldError
from pipeline.table.reader import MapTable
from pipeline.transforms.inventory import read_part, take_inventory
from tests.support.maintained import MODEL, files, mixed_rows, publish_rows, rows_of, scored, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A night, and one with a wrong model that replaced a map and added one."""
    root = tmp_path / "maps"
    publish_rows(root, mixed_rows())
    publish_rows(root, [scored("y.jpg", "r2")], "r2")
    old = [path.name for path in files(root) if "-r2-" in path.name]
    publish_rows(root, [scored("y.jpg", "r3", version=1), scored("z.jpg", "r3")], "r3", removed=old)
    return root


def test_the_rows_are_those_of_the_version(root: Path) -> None:
    before = MapTable(str(root), 1).to_arrow().sort_by("key").to_pylist()
    done = restore(str(root), 1)
    assert (done.before.version, done.target.version, done.version) == (2, 1, 3)
    assert (done.added, done.removed, done.undone) == (1, 1, ("r3",))
    table = MapTable(str(root))
    assert table.version == 3
    assert table.to_arrow().sort_by("key").to_pylist() == before
    report = check(str(root))
    assert (report.findings, report.rows["scored"]) == ((), 8)
    assert not any("other programs" in note for note in report.notes)


def test_the_history_of_the_runs_reports_it(root: Path) -> None:
    done = restore(str(root), 0)
    assert done.undone == ("r2", "r3")
    last = MapTable(str(root)).runs()[-1]
    assert (last["run_id"], last["version"], last["restored"]) == (done.run_id, 3, 0)
    assert last["published_at"]
    assert "version 0 restored" in CliRunner().invoke(runs_command, [str(root)], env={"COLUMNS": "300"}).output
    lines = json.loads(CliRunner().invoke(runs_command, [str(root), "--json"]).output)
    assert [line["restored"] for line in lines] == [None, None, None, 0]


def test_a_restore_is_undone_by_another(root: Path) -> None:
    before = rows_of(root)
    restore(str(root), 0)
    done = restore(str(root), 2)
    assert done.undone == ()
    assert rows_of(root) == before
    assert plan_restore(str(root), 3).undone == ("r2", "r3"), "a restored version can be restored too"
    assert check(str(root)).clean


def test_the_next_run_goes_on_from_there(root: Path) -> None:
    """What it finds is the version that was restored; the parts of the runs that were undone are not adopted."""
    done = restore(str(root), 1)
    inventory = take_inventory(str(root), "r4")
    assert (inventory.version, inventory.orphans) == (3, [])
    known = {record.uri for part in inventory.parts for record in read_part(str(root), part)}
    assert "z.jpg" not in known
    assert "y.jpg" in known
    publish_rows(root, [scored("z.jpg", "r4")], "r4")
    assert check(str(root)).clean
    drift = measure_drift(str(root), "r4")
    assert drift.against.run_id == done.run_id, "not the maps that were undone"
    assert drift.groups["all"].before.maps == 6
    compact(str(root))
    vacuum(str(root), 0, force=True)
    assert {row["uri"] for row in rows_of(root)} == {"a.jpg", "b.jpg", "c.tif", "d.jpg", "e.jpg", "y.jpg", "z.jpg"}
    assert check(str(root)).clean


def test_vacuum_keeps_what_came_back(root: Path) -> None:
    restore(str(root), 1)
    before = rows_of(root)
    deleted = {file.path for file in vacuum(str(root), 0, force=True).deleted}
    assert all("-r3-" in path for path in deleted)
    assert rows_of(root) == before
    assert check(str(root)).clean


def test_a_version_whose_parts_were_vacuumed_is_refused_by_name(root: Path) -> None:
    [gone] = [path.name for path in root.glob("part-r2-*")]
    vacuum(str(root), 0, force=True)
    with pytest.raises(TableError, match=f"version 1 cannot be restored: 1 of its 2 parts .* {gone}"):
        restore(str(root), 1)
    assert DeltaTable(root).version() == 2
    assert not (root / "_densecast" / "runs").joinpath("restore").exists()


@pytest.mark.parametrize("version", [3, 10**6, 10**30])
def test_a_version_that_never_was_is_refused(root: Path, version: int) -> None:
    with pytest.raises(TableError, match=r"version"):
        restore(str(root), version)
    assert DeltaTable(root).version() == 2


def test_the_version_that_is_there_needs_no_restore(root: Path) -> None:
    done = restore(str(root), 2)
    assert (done.needed, done.version, done.run_id) == (False, 2, "")
    assert DeltaTable(root).version() == 2


def test_a_run_at_work_holds_the_lease(root: Path) -> None:
    with Lease(str(root), "night"), pytest.raises(LeaseHeldError, match="run night"):
        restore(str(root), 0)
    assert DeltaTable(root).version() == 2
    restore(str(root), 0)


def test_a_run_that_began_before_publishes_nothing(root: Path) -> None:
    """It may have kept images whose maps have left the table."""
    receipts = write(root, [scored("new.jpg", "r4")], "r4")
    restore(str(root), 1)
    with pytest.raises(ConflictError, match="version 1 of the table was restored"):
        commit(str(root), Changes(2, receipts), run_id="r4", model_json={"digest": MODEL}, summary={})
    assert DeltaTable(root).version() == 3


def test_another_writer_comes_between(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DeltaTable.restore

    def late(table: DeltaTable, *arguments: object, **options: object) -> object:
        publish_rows(root, [scored("late.jpg", "r4")], "r4")
        return real(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "restore", late)
    with pytest.raises(ConflictError, match="another writer"):
        restore(str(root), 0)
    assert MapTable(str(root)).version == 3
    assert "late.jpg" in {row["uri"] for row in rows_of(root)}
    assert check(str(root)).clean


def test_the_command_plans_and_acts(root: Path) -> None:
    planned = CliRunner().invoke(restore_command, [str(root), "--version", "1", "--dry-run"])
    assert planned.exit_code == 0
    assert planned.output.splitlines()[0].startswith("now: version 2: 7 maps, 1 rejected, 0 deleted; 2 files")
    assert "would undo run r3" in planned.output
    assert DeltaTable(root).version() == 2
    assert not (root / "_densecast" / "lease.json").exists()
    done = json.loads(CliRunner().invoke(restore_command, [str(root), "--version", "1", "--json"]).output)
    assert (done["version"], done["undone"], done["dry_run"]) == (3, ["r3"], False)
    again = CliRunner().invoke(restore_command, [str(root), "--version", "1"])
    assert "nothing to do" in again.output
