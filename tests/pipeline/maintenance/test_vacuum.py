from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from pipeline.cli.commands import maintenance
from pipeline.errors import TableError
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.maintenance.untracked_files import Kind
from pipeline.maintenance.vacuum import parse_retention, vacuum
from pipeline.table.reader import MapTable
from pipeline.table.run_history import run_lines
from tests.support.maintained import MODEL, files, mixed_rows, publish_rows, rejected, rows_of, scored, write

HOUR = 3600.0
PARTIAL = f".part-dead-{'0' * 32}.parquet.{'1' * 32}.partial"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "maps é x"
    publish_rows(root, mixed_rows())
    return root


def age(path: Path, hours: float) -> Path:
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))
    return path


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_file()}


def test_a_table_with_nothing_left_over_is_left_alone(root: Path) -> None:
    before = names(root)
    done = vacuum(str(root), 0, force=True)
    assert (done.deleted, done.kept, done.foreign) == ((), (), ())
    assert names(root) == before


def test_orphans_of_dead_runs_go_once_they_are_old(root: Path) -> None:
    [receipt] = write(root, [scored("x.jpg", "dead")], "dead")
    orphan = root / receipt.path
    age(orphan, 11)
    assert vacuum(str(root), 12).deleted == ()
    age(orphan, 13)
    done = vacuum(str(root), 12, dry_run=True)
    assert [(file.path, file.kind, file.size_bytes) for file in done.deleted] == [
        (receipt.path, Kind.ORPHAN, receipt.size_bytes)
    ]
    assert orphan.exists()
    assert vacuum(str(root), 12).deleted == done.deleted
    assert not orphan.exists()
    assert check(str(root)).notes == ()


def test_a_run_at_work_keeps_all_its_parts_however_old_the_first_is(root: Path) -> None:
    """A run of three days, vacuumed every night."""
    first, second = (root / write(root, [scored(name, "long")], "long")[0].path for name in ("x", "y"))
    age(first, 60)
    age(second, 0.5)
    assert vacuum(str(root), 12).deleted == ()
    age(second, 60)
    partial = root / PARTIAL.replace("dead", "long")
    partial.write_bytes(b"half")
    assert vacuum(str(root), 12).deleted == (), "it is writing"
    age(partial, 13)
    assert len(vacuum(str(root), 12).deleted) == 3


def test_superseded_files_are_kept_as_long_as_versions_within_the_retention_read_them(root: Path) -> None:
    [old] = files(root)
    publish_rows(root, mixed_rows("r2"), "r2", removed=[old.name])
    age(old, 1000)
    done = vacuum(str(root), 1)
    assert done.deleted == ()
    assert [(file.path, file.kind) for file in done.kept] == [(old.name, Kind.SUPERSEDED)]
    assert len(MapTable(str(root), version=0)) == 5
    # Two hours later, by the clock of this test: deltalake's own says that it was removed just now.
    done = vacuum(str(root), 1, clock=lambda: time.time() + 2 * HOUR)
    assert done.deleted == ()
    done = vacuum(str(root), 0, force=True)
    assert [file.path for file in done.deleted] == [old.name]
    assert len(rows_of(root)) == 8
    assert check(str(root)).clean


def test_a_file_that_the_log_has_forgotten_is_kept_for_the_version_that_reads_it(root: Path) -> None:
    """A checkpoint drops removals after a week; to deltalake one without a time is as good as dropped."""
    [old] = files(root)
    publish_rows(root, mixed_rows("r2"), "r2", removed=[old.name])
    log = root / "_delta_log" / f"{1:020}.json"
    kept = [line for line in log.read_text().splitlines() if '"remove"' not in line]
    log.write_text("\n".join([*kept, json.dumps({"remove": {"path": old.name, "dataChange": True}})]) + "\n")
    age(old, 1000)
    done = vacuum(str(root), 24 * 30)
    assert old.exists()
    assert done.deleted == ()


def test_what_a_compaction_leaves(root: Path) -> None:
    publish_rows(root, [scored("z.jpg", "r2")], "r2")
    merged = files(root)
    compact(str(root))
    dead = root / f"part-compaction-{'a' * 32}-00000.parquet"
    dead.write_bytes(b"killed")
    age(dead, 30)
    assert [file.path for file in vacuum(str(root), 24).deleted] == [dead.name]
    assert {file.path for file in vacuum(str(root), 0, force=True).deleted} == {path.name for path in merged}
    assert check(str(root)).notes == ()


def test_unfinished_files_go_and_foreign_ones_stay(root: Path) -> None:
    mine = {"thesis.txt", "part-of-it.parquet", "part-00000-0a1b2c3d-c000.snappy.parquet", ".hidden", "data.parquet"}
    for name in mine:
        (root / name).write_text("mine")
        age(root / name, 10_000)
    (root / "folder").mkdir()
    (root / "folder" / f"part-dead-{'0' * 32}.parquet").write_text("mine")
    records = root / "_densecast" / "runs"
    (records / "notes.md").write_text("mine")
    link = root / f"part-dead-{'2' * 32}.parquet"
    link.symlink_to(root / "thesis.txt")
    ours = [root / PARTIAL, records / f".r7.json.{'1' * 32}.partial"]
    for path in ours:
        path.write_bytes(b"half")
        age(path, 10_000)
    before = names(root)
    done = vacuum(str(root), 24)
    assert {file.path for file in done.deleted} == {PARTIAL, f"_densecast/runs/{ours[1].name}"}
    assert {file.path for file in done.foreign} == mine
    assert names(root) == before - {PARTIAL}
    assert (root / "folder").exists()
    assert link.is_symlink()
    assert {path.name for path in records.iterdir()} == {"r1.json", "notes.md"}
    assert (root / "_densecast" / "models" / f"{MODEL}.json").exists()
    assert check(str(root)).clean


def test_clocks_that_went_back_delete_nothing(root: Path) -> None:
    orphan = root / write(root, [scored("x.jpg", "dead")], "dead")[0].path
    age(orphan, -100)
    assert vacuum(str(root), 1).deleted == ()
    age(orphan, 100)
    assert vacuum(str(root), 1, clock=lambda: time.time() - 200 * HOUR).deleted == ()
    os.utime(orphan, (0, 0))
    assert vacuum(str(root), 1).deleted == (), "of unknown age"


def test_a_short_retention_has_to_be_forced(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="--force"):
        vacuum(str(root), 0)
    with pytest.raises(TableError, match="--force"):
        vacuum(str(root), 0, dry_run=True)
    with pytest.raises(TableError, match="no table"):
        vacuum(str(tmp_path / "nothing"))


def test_checkpoints_do_not_matter(root: Path) -> None:
    [old] = files(root)
    publish_rows(root, mixed_rows("r2"), "r2", removed=[old.name])
    DeltaTable(str(root)).create_checkpoint()
    publish_rows(root, [rejected("q.jpg", "r3")], "r3")
    age(old, 1000)
    assert vacuum(str(root), 2).deleted == ()
    assert [file.path for file in vacuum(str(root), 0, force=True).deleted] == [old.name]
    assert check(str(root)).clean


@pytest.mark.parametrize("text", ["", "7", "d", "1.5h", "-1h", "30m", "3600s", "1y"])
def test_no_retention(text: str) -> None:
    with pytest.raises(ValueError, match="not a retention"):
        parse_retention(text)


def test_the_command(root: Path) -> None:
    runner = CliRunner()
    orphan = age(root / write(root, [scored("x.jpg", "dead")], "dead")[0].path, 200)
    write(root, [scored("y.jpg", "alive")], "alive")
    (root / "mine.txt").write_text("mine")
    result = runner.invoke(maintenance.vacuum, [str(root), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert f"{orphan.name}\torphan" in result.output
    assert "would delete 1 files" in result.output
    assert orphan.exists()
    result = runner.invoke(maintenance.vacuum, [str(root), "--retention", "8d", "--json"])
    found = json.loads(result.output)
    assert (found["retention_hours"], found["dry_run"], len(found["deleted"])) == (192, False, 1)
    result = runner.invoke(maintenance.vacuum, [str(root)])
    assert "deleted 0 files" in result.output
    assert "kept 1 files" in result.output
    assert "younger than 7d" in result.output
    assert "did not touch 1 files, 4 bytes that are not densecast's: mine.txt" in result.output
    assert runner.invoke(maintenance.vacuum, [str(root), "--retention", "soon"]).exit_code == 2


def test_runs_are_listed_the_newest_last(root: Path, tmp_path: Path) -> None:
    publish_rows(root, [scored("z.jpg", "r2"), rejected("y.jpg", "r2")], "r2")
    record = root / "_densecast" / "runs" / "r2.json"
    summary = json.loads(record.read_text())
    images = {"listed": 7, "score": 2, "keep": 2, "update": 1, "delete": 1, "adopt": 1}
    record.write_text(json.dumps({**summary, "images": images}))
    first, second = run_lines(str(root))
    assert (first.run_id, first.version, first.listed, first.scored, first.rejected) == ("r1", 0, 8, 5, 1)
    assert (second.run_id, second.version, second.kept, second.adopted, second.deleted) == ("r2", 1, 3, 1, 1)
    assert (first.model_digest, first.seconds) == (MODEL, 1.5)
    result = CliRunner().invoke(maintenance.runs, [str(root)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "r1", "r2"]
    assert lines[2].split()[2:] == ["1", "7", "3", "1", "1", "1", "1", "1.5", MODEL[:12]]
    result = CliRunner().invoke(maintenance.runs, [str(root), "--json"])
    assert [line["run_id"] for line in json.loads(result.output)] == ["r1", "r2"]


def test_summaries_of_older_versions_are_shown_as_far_as_they_go(root: Path) -> None:
    record = root / "_densecast" / "runs" / "r1.json"
    record.write_text(json.dumps({"run_id": "r1", "version": 0, "seconds": "long", "images": {}, "scored": None}))
    [line] = run_lines(str(root))
    assert (line.run_id, line.version, line.listed, line.seconds, line.scored) == ("r1", 0, None, None, None)
    result = CliRunner().invoke(maintenance.runs, [str(root)])
    assert result.output.splitlines()[1].split() == ["r1", "-", "0", *["-"] * 8]
    record.unlink()
    assert "no run" in CliRunner().invoke(maintenance.runs, [str(root)]).output
    record.write_text("{")
    with pytest.raises(TableError, match="JSON"):
        run_lines(str(root))
