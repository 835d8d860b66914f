"""Another program appends rows that are not densecast's: everything goes on without them, and names them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from pipeline.cli.commands.maintenance import check as check_command
from pipeline.cli.commands.maintenance import compact as compact_command
from pipeline.drift.measure import measure_drift
from pipeline.errors import TableError
from pipeline.jobs.run import check_folder
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.maintenance.vacuum import vacuum
from pipeline.table.commit import Changes, commit
from pipeline.table.reader import MapTable
from pipeline.table.rewrite import Action, Edit, rewrite
from pipeline.table.schema import SCHEMA
from pipeline.transforms.inventory import read_part, take_inventory
from tests.support.maintained import MODEL, NOW, mixed_rows, publish_rows, scored, write
from tests.support.maintained import commit as commit_files

URIS = {"a.jpg", "b.jpg", "c.tif", "d.jpg", "e.jpg", "z.jpg"}


def loosen(root: Path) -> None:
    """All columns may be null, as after an overwrite by Polars: only then delta-rs appends rows that lack some."""
    pl.read_delta(str(root)).write_delta(str(root), mode="overwrite", delta_write_options={"schema_mode": "overwrite"})


def append_notes(root: Path) -> None:
    loosen(root)
    notes = pa.table({"uri": ["a.jpg", "q.jpg"], "note": ["x", "y"]})
    write_deltalake(str(root), notes, mode="append", schema_mode="merge")


def append_other_columns(root: Path) -> None:
    path = root / "data-of-another.parquet"
    pq.write_table(pa.table({"uri": ["a.jpg"], "price": [3.5]}), path)
    commit_files(root, [path], [], statistics={"numRecords": 1})


def append_other_types(root: Path) -> None:
    path = root / "part-00001-of-another.c000.parquet"
    columns: dict[str, Any] = dict.fromkeys(SCHEMA.names, pa.array([1], pa.int64()))
    pq.write_table(pa.table(columns), path)
    commit_files(root, [path], [], statistics={"numRecords": 1})


APPENDS = [append_notes, append_other_columns, append_other_types]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "maps"
    publish_rows(root, mixed_rows())
    publish_rows(root, [scored("z.jpg", "r2")], "r2")
    return root


@pytest.fixture(params=APPENDS, ids=lambda append: append.__name__)
def appended(root: Path, request: pytest.FixtureRequest) -> tuple[Path, str, list[dict[str, Any]]]:
    """A table, the part that was appended, and the rows of before."""
    rows = read(root)
    before = {path.name for path in root.glob("*.parquet")}
    append: Callable[[Path], None] = request.param
    append(root)
    active = {row["path"] for row in pa.table(DeltaTable(root).get_add_actions()).to_pylist()}
    [part] = [name for name in active - before if pq.ParquetFile(root / name).metadata.num_rows < 3]
    return root, part, rows


def read(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = MapTable(str(root)).to_arrow(SCHEMA.names).to_pylist()
    return sorted(rows, key=lambda row: (row["uri"], row["scale"], row["tile_index"]))


def test_readers_leave_the_rows_out_and_a_warning_says_so(
    appended: tuple[Path, str, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    root, part, rows = appended
    with caplog.at_level(logging.WARNING):
        assert read(root) == rows
    assert [part in message for message in caplog.messages] == [True]
    table = MapTable(str(root))
    assert len(table) == 6
    assert {cells.uri for cells in table} == URIS - {"e.jpg"}
    assert table.counts().by_status == {"scored": 6, "rejected": 1, "deleted": 0}
    assert table.read("a.jpg").uri == "a.jpg"
    maps = table.dataset()
    with duckdb.connect() as connection:
        connection.register("maps", maps)
        found = connection.execute("SELECT count(*) FROM maps WHERE uri = 'a.jpg'").fetchall()
    assert found == [(1,)]


def test_a_check_names_the_part_and_checks_the_rest(appended: tuple[Path, str, list[dict[str, Any]]]) -> None:
    root, part, rows = appended
    report = check(str(root))
    assert report.clean
    assert [(finding.kind, finding.where) for finding in report.findings] == [("foreign-rows", part)]
    assert "another program has appended" in report.findings[0].what
    assert sum(report.rows.values()) == len(rows)
    assert not any("could not be read" in note for note in report.notes)
    printed = CliRunner().invoke(check_command, [str(root)])
    assert printed.exit_code == 0
    assert "foreign-rows" in printed.output
    assert "clean" in printed.output
    answer = json.loads(CliRunner().invoke(check_command, [str(root), "--json"]).output)
    assert (answer["damage"], answer["findings"][0]["kind"]) == ({}, "foreign-rows")


def test_damage_beside_the_part_is_found(appended: tuple[Path, str, list[dict[str, Any]]]) -> None:
    root, part, _ = appended
    active = {row["path"] for row in pa.table(DeltaTable(root).get_add_actions()).to_pylist()}
    for name in active - {part}:
        (root / name).unlink()
    assert check(str(root)).damage == {"missing-file": len(active) - 1}


def test_a_compaction_leaves_the_part_and_names_it(appended: tuple[Path, str, list[dict[str, Any]]]) -> None:
    root, part, rows = appended
    content = (root / part).read_bytes()
    publish_rows(root, [scored("y.jpg", "r3")], "r3")
    done = compact(str(root))
    assert (done.passes, done.files_after) == (1, 2)
    assert [left.path for left in done.left] == [part]
    assert (root / part).read_bytes() == content
    assert [row for row in read(root) if row["uri"] != "y.jpg"] == rows
    printed = CliRunner().invoke(compact_command, [str(root)])
    assert printed.exit_code == 0
    assert f"left as it is: {part}: another program has appended" in printed.output
    vacuum(str(root), 0, force=True)
    assert (root / part).exists()


def test_a_compaction_leaves_what_nobody_can_read(root: Path) -> None:
    path = root / "part-00000-of-another.parquet"
    path.write_bytes(b"PAR1 and nothing more PAR1")
    commit_files(root, [path], [], statistics={"numRecords": 1})
    done = compact(str(root))
    assert (done.passes, [left.path for left in done.left]) == (1, [path.name])
    assert check(str(root)).damage == {"unreadable": 1}


def test_a_run_goes_on(appended: tuple[Path, str, list[dict[str, Any]]]) -> None:
    root, part, rows = appended
    check_folder(str(root))
    inventory = take_inventory(str(root), "r3")
    known = [record for each in inventory.parts for record in read_part(str(root), each)]
    assert {record.uri for record in known} == URIS
    assert part not in {record.part for record in known}
    own = next(record.part for record in known if record.uri == "d.jpg")
    edit = Edit("d.jpg", own, Action.UPDATE, "new version")
    receipt = rewrite(str(root), own, [edit], orphan=False, run_id="r3", now=NOW)
    assert receipt is not None
    changes = Changes(inventory.version, [receipt], [own])
    commit(str(root), changes, run_id="r3", model_json={"digest": MODEL, "labels": []}, summary={})
    assert [row["uri"] for row in read(root)] == [row["uri"] for row in rows]
    assert check(str(root)).clean
    assert measure_drift(str(root), "r2", "r1").groups["all"].after.maps == 6


def test_a_part_that_comes_while_a_run_works_does_not_stop_it(root: Path) -> None:
    base = DeltaTable(root).version()
    receipts = write(root, [scored("y.jpg", "r3")], "r3")
    append_other_columns(root)
    commit(str(root), Changes(base, receipts), run_id="r3", model_json={"digest": MODEL, "labels": []}, summary={})
    assert {row["uri"] for row in read(root)} == URIS | {"y.jpg"}


def test_rows_that_were_merged_with_maps(root: Path) -> None:
    """Then one part has both: the maps are read; the part cannot be rewritten without losing the other rows."""
    rows = read(root)
    append_notes(root)
    DeltaTable(root).optimize.compact()
    [part] = DeltaTable(root).file_uris()
    name = Path(part).name
    assert read(root) == rows
    report = check(str(root))
    assert (report.clean, [finding.where for finding in report.findings]) == (True, [name])
    publish_rows(root, [scored("y.jpg", "r3")], "r3")
    assert [left.path for left in compact(str(root)).left] == [name]
    with pytest.raises(TableError, match=r"2 rows that are not densecast's") as caught:
        rewrite(str(root), name, [Edit("d.jpg", name, Action.DROP)], orphan=False, run_id="r3", now=NOW)
    assert "key IS NULL" in caught.value.remedy
    DeltaTable(root).delete("key IS NULL")
    assert [row for row in read(root) if row["uri"] != "y.jpg"] == rows
    assert check(str(root)).findings == ()


def test_a_part_of_ours_with_nulls_is_damage(root: Path) -> None:
    """Only what another program has written is left out."""
    path = root / f"part-r1-{'0' * 32}.parquet"
    pq.write_table(pa.table({"uri": ["a.jpg"]}), path)
    commit_files(root, [path], [], statistics={"numRecords": 1})
    assert "columns" in check(str(root)).damage
    with pytest.raises(TableError, match="has no column"):
        list(read_part(str(root), path.name))
