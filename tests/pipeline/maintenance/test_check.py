"""Every kind of damage is really made, and `check` says which it is; what is healthy is clean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from pipeline.cli.commands import maintenance
from pipeline.errors import TableError
from pipeline.maintenance import findings
from pipeline.maintenance.check import Report, check
from pipeline.maintenance.compact import compact
from pipeline.table.schema import SCHEMA
from tests.support.maintained import (
    MODEL,
    commit,
    files,
    mixed_rows,
    publish_rows,
    rejected,
    replace,
    scored,
    with_column,
    write,
)

EDIT = Callable[[Any], Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "maps é x"
    publish_rows(root, mixed_rows())
    return root


def kinds(report: Report) -> set[str]:
    return set(report.damage)


def damaged(root: Path) -> set[str]:
    report = check(str(root))
    assert not report.clean
    return kinds(report)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(maintenance.check, list(arguments))


def test_a_healthy_table_is_clean(root: Path) -> None:
    report = check(str(root))
    assert report.findings == ()
    assert report.clean
    assert report.rows == {"scored": 7, "rejected": 1, "deleted": 0}
    assert (report.version, report.images, report.files, report.notes) == (0, 5, 1, ())


def test_an_empty_table_is_clean(tmp_path: Path) -> None:
    publish_rows(tmp_path / "maps", [])
    report = check(str(tmp_path / "maps"))
    assert report.clean
    assert (report.images, report.files, sum(report.rows.values())) == (0, 0, 0)


def test_a_table_with_history_is_clean(root: Path) -> None:
    """Superseded and deleted rows, several runs, a compaction."""
    [old] = files(root)
    kept = pq.read_table(old)
    kept = kept.filter(pc.field("uri") != "a.jpg")
    gone = kept.schema.get_field_index("status")
    deleted = kept.filter(pc.field("uri") == "e.jpg")
    deleted = deleted.set_column(gone, SCHEMA.field("status"), [["deleted"]])
    for name in ("reason", "detail"):
        deleted = with_column(deleted, name, 0, None)
    deleted = with_column(deleted, "run_id", 0, "r2")
    keepers = root / f"part-r2-{'0' * 32}.parquet"
    pq.write_table(kept.filter(pc.field("uri") != "e.jpg"), keepers)
    stones = root / f"part-r2-{'1' * 32}.parquet"
    pq.write_table(deleted, stones)
    publish_rows(root, [scored("a.jpg", "r2", version=1), rejected("z.jpg", "r2")], "r2", removed=[old.name])
    actions: list[AddAction | RemoveAction] = [
        AddAction(path.name, path.stat().st_size, {}, 0, True, json.dumps({"numRecords": rows}))
        for path, rows in ((keepers, 6), (stones, 1))
    ]
    DeltaTable(str(root)).create_write_transaction(actions, "append", SCHEMA)
    report = check(str(root))
    assert report.findings == ()
    assert report.rows == {"scored": 7, "rejected": 1, "deleted": 1}
    assert any("belong to earlier versions" in note for note in report.notes)
    compact(str(root))
    report = check(str(root))
    assert report.findings == ()
    assert report.files == 1


def test_leftovers_are_notes_and_no_damage(root: Path) -> None:
    write(root, [scored("x.jpg", "dead")], "dead")
    (root / f".part-dead-{'0' * 32}.parquet.{'1' * 32}.partial").write_bytes(b"half")
    (root / "thesis.txt").write_text("mine")
    report = check(str(root))
    assert report.clean
    assert len(report.notes) == 3
    assert any("never published" in note for note in report.notes)
    assert any(note.startswith("1 files (4 bytes) are unfinished") for note in report.notes)
    assert any("not densecast's" in note for note in report.notes)


def test_a_missing_file(root: Path) -> None:
    files(root)[0].unlink()
    assert damaged(root) == {"missing-file"}


def test_a_truncated_file(root: Path) -> None:
    part = files(root)[0]
    part.write_bytes(part.read_bytes()[:-100])
    assert damaged(root) == {"wrong-size", "wrong-content", "unreadable"}


def test_a_file_that_is_no_parquet_at_all(root: Path) -> None:
    part = files(root)[0]
    part.write_bytes(b"\0" * part.stat().st_size)
    assert damaged(root) == {"wrong-content", "unreadable"}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_flipped_byte_anywhere_is_found(root: Path, *, recorded: bool) -> None:
    """With the run's record by the file's digest, wherever it is; without by the checksums of the pages."""
    part = files(root)[0]
    data = part.read_bytes()
    if recorded:
        positions = np.random.default_rng(0).integers(0, len(data), 12).tolist()
    else:
        shutil.rmtree(root / "_densecast" / "runs")
        with pq.ParquetFile(part) as file:
            group = file.metadata.row_group(0)
            # The last byte of a column chunk is data of its last page; a header is not covered by a checksum.
            chunks = [group.column(i) for i in range(group.num_columns) if group.column(i).total_compressed_size > 80]
            positions = [c.data_page_offset + c.total_compressed_size - 1 for c in chunks if not c.has_dictionary_page]
    assert positions
    for position in positions:
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        part.write_bytes(flipped)
        assert ("wrong-content" if recorded else "unreadable") in damaged(root), position
    part.write_bytes(data)
    assert check(str(root)).clean


def test_a_damaged_row_group_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.table.part_file.ROW_GROUP_BYTES", 1000)
    root = tmp_path / "maps"
    publish_rows(root, [scored(f"{i:02}.jpg") for i in range(8)])
    part = files(root)[0]
    with pq.ParquetFile(part) as file:
        assert file.num_row_groups > 4
        column = file.metadata.row_group(1).column(SCHEMA.get_field_index("uri"))
    data = bytearray(part.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    part.write_bytes(data)
    report = check(str(root))
    assert kinds(report) == {"wrong-content", "unreadable"}
    assert 0 < report.rows["scored"] < 8
    assert "row group 1" in next(f.what for f in report.findings if f.kind == "unreadable")
    assert any("could not be read" in note for note in report.notes)


def edit(name: str, uri: str, value: Any) -> EDIT:
    def change(table: Any) -> Any:
        return with_column(table, name, table.column("uri").to_pylist().index(uri), value)

    return change


def edit_list(name: str, uri: str, index: int, value: float) -> EDIT:
    def change(table: Any) -> Any:
        row = table.column("uri").to_pylist().index(uri)
        values = table.column(name)[row].as_py()
        values[index] = value
        return with_column(table, name, row, values)

    return change


def without(uri: str, tile: int) -> EDIT:
    return lambda table: table.filter(~((pc.field("uri") == uri) & (pc.field("tile_index") == tile)))


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        (edit_list("scores", "a.jpg", 0, 0.25), {"map-digest"}, "has the digest"),
        (edit_list("classes", "a.jpg", 0, 3), {"map-digest"}, "has the digest"),
        (edit_list("residual", "a.jpg", 8, 0.125), {"map-digest"}, "has the digest"),
        (edit_list("scores", "a.jpg", 0, 7.0), {"map-digest", "row"}, "between 0 and 1"),
        (edit_list("scores", "a.jpg", 0, float("nan")), {"map-digest", "row"}, "between 0 and 1"),
        (edit_list("classes", "a.jpg", 0, 4), {"map-digest", "row"}, "classes range"),
        (edit("map_digest", "a.jpg", "0" * 64), {"map-digest"}, "has the digest"),
        (edit("map_digest", "a.jpg", None), {"map-digest"}, "has no digest"),
        (edit("probabilities", "d.jpg", b"\0" * 72), {"map-digest"}, "has the digest"),
        (edit("probabilities", "d.jpg", b"\0" * 71), {"map-digest", "row"}, "do not make a map"),
        (edit("probabilities", "d.jpg", None), {"map-digest", "row"}, "do not make a map"),
        (edit("scores", "a.jpg", []), {"map-digest", "row"}, "scores are"),
        (edit("scores", "a.jpg", None), {"map-digest", "row"}, "cannot be computed"),
        (edit("map_height", "a.jpg", 4), {"map-digest", "row"}, "do not make a map"),
        (edit("map_height", "a.jpg", None), {"map-digest", "row"}, "has no map_height"),
        (edit("geometry", "a.jpg", None), {"row"}, "has no geometry"),
        (edit("form", "a.jpg", "float99"), {"row"}, "float99"),
        (edit("status", "a.jpg", "lost"), {"row", "counts"}, "'lost'"),
        (edit("status", "a.jpg", "rejected"), {"row", "counts"}, "unknown reason None"),
        (edit("reason", "e.jpg", "bad luck"), {"row"}, "'bad luck'"),
        (edit("reason", "a.jpg", "corrupt"), {"row"}, "has the reason"),
        (edit("detail", "e.jpg", None), {"row"}, "no detail"),
        (edit("classes", "e.jpg", [1]), {"row"}, "has classes"),
        (edit("scale", "a.jpg", -1.0), {"row"}, "scale is -1"),
        (edit("scale", "a.jpg", float("nan")), {"row"}, "scale is nan"),
        (edit("tile_index", "a.jpg", 1), {"row", "incomplete", "mixed", "counts"}, "tile 1 of 1"),
        (edit("tile_count", "c.tif", 4), {"incomplete", "mixed"}, "3 of 4 tiles"),
        (edit("key", "c.tif", "0" * 64), {"mixed"}, "2 keys"),
        (edit("recipe", "b.jpg", "0" * 64), {"mixed"}, "2 recipes"),
        (without("c.tif", 1), {"incomplete"}, "2 of 3 tiles at scale 1; missing: 1"),
        (without("c.tif", 2), {"incomplete"}, "missing: 2"),
        (without("a.jpg", 0), {"counts"}, "has 4 scored images"),
        (without("e.jpg", 0), {"counts"}, "has 0 rejected images"),
        (lambda table: table.drop_columns(["map_digest"]), {"columns"}, "no column map_digest"),
        (
            lambda table: table.set_column(0, "key", table.column("key").cast("binary")),
            {"columns"},
            "as binary instead of string",
        ),
        (edit("model_digest", "a.jpg", "cd" * 32), {"record"}, "is missing"),
    ],
)
def test_a_changed_row_is_found_though_the_file_is_in_order(
    root: Path, change: EDIT, expected: set[str], words: str
) -> None:
    [part] = files(root)
    replace(root, part, change(pq.read_table(part)))
    # As a compaction would: it is not the last word of another program that makes the counts unknowable.
    mark_as_ours(root)
    report = check(str(root))
    assert kinds(report) == expected
    assert any(words in finding.what for finding in report.findings), report.findings


def mark_as_ours(root: Path) -> None:
    log = max((root / "_delta_log").glob("*.json"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["densecast"] = {"compaction": "test"}
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_null_where_none_may_be(root: Path) -> None:
    [part] = files(root)
    table = pq.read_table(part)
    open_schema = table.schema.set(0, table.schema.field("key").with_nullable(True))
    replace(root, part, with_column(table.cast(open_schema), "key", 0, None))
    report = check(str(root))
    assert kinds(report) == {"columns"}
    assert report.findings[0].what == "1 rows have no key"


def test_a_row_group_that_is_there_twice(root: Path) -> None:
    """What a commit with deltalake's own retries would do."""
    part = files(root)[0]
    copy = root / f"part-r9-{'9' * 32}.parquet"
    shutil.copy(part, copy)
    commit(root, [copy], [], statistics={"numRecords": 8})
    report = check(str(root))
    assert kinds(report) == {"duplicate", "counts"}
    assert report.damage["duplicate"] == 6, "an image and scale each"
    assert any("2 rows at scale 0.5 instead of 1" in finding.what for finding in report.findings)


def test_two_maps_of_one_image_by_two_runs(root: Path) -> None:
    receipts = write(root, [scored("a.jpg", "r2", version=1)], "r2")
    commit(root, [root / receipts[0].path], [], statistics={"numRecords": 1})
    report = check(str(root))
    assert kinds(report) == {"duplicate", "mixed"}
    assert {finding.where for finding in report.findings} == {"a.jpg"}


@pytest.mark.parametrize(
    ("statistics", "words"),
    [
        ({"numRecords": 7}, "8 rows, where the log says 7"),
        ({"numRecords": 8, "minValues": {"uri": "b"}, "maxValues": {"uri": "z"}}, "uri is as low as 'a.jpg'"),
        ({"numRecords": 8, "minValues": {"uri": "a"}, "maxValues": {"uri": "b"}}, "uri is as high as 'e.jpg'"),
        ({"numRecords": 8, "nullCount": {"reason": 8}}, "7 rows have no reason, where the log says 8"),
    ],
)
def test_statistics_by_which_readers_would_skip_rows(root: Path, statistics: dict[str, Any], words: str) -> None:
    [part] = files(root)
    replace(root, part, pq.read_table(part), statistics=statistics)
    report = check(str(root))
    assert kinds(report) == {"statistics"}
    assert words in report.findings[0].what


def test_statistics_that_are_wide_are_no_damage(root: Path) -> None:
    [part] = files(root)
    wide = {"numRecords": 8, "minValues": {"uri": ""}, "maxValues": {"uri": "zz"}, "nullCount": {"uri": 0}}
    replace(root, part, pq.read_table(part), statistics=wide)
    assert check(str(root)).clean


@pytest.mark.parametrize("content", ["{", "[]", '{"parts": 3}', '{"parts": [{"path": 1}]}'])
def test_a_damaged_summary(root: Path, content: str) -> None:
    (root / "_densecast" / "runs" / "r1.json").write_text(content)
    assert damaged(root) == {"record"}


def test_a_run_that_died_between_commit_and_summary_is_no_damage(root: Path) -> None:
    (root / "_densecast" / "runs" / "r1.json").unlink()
    report = check(str(root))
    assert report.clean
    assert report.notes == ("1 runs have no summary, since they died after they published: r1",)


@pytest.mark.parametrize("content", [None, "{", '{"digest": "another"}'])
def test_a_models_metadata(root: Path, content: str | None) -> None:
    path = root / "_densecast" / "models" / f"{MODEL}.json"
    path.unlink() if content is None else path.write_text(content)
    assert damaged(root) == {"record"}


def test_many_findings_are_counted_and_few_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "LISTED", 3)
    monkeypatch.setattr("pipeline.maintenance.check.LISTED", 1)
    root = tmp_path / "maps"
    publish_rows(root, [scored(f"{i:02}.jpg") for i in range(20)])
    [part] = files(root)
    table = pq.read_table(part)
    stale = table.set_column(table.schema.get_field_index("map_digest"), SCHEMA.field("map_digest"), [["0" * 64] * 20])
    replace(root, part, stale)
    report = check(str(root))
    assert report.damage == {"map-digest": 20}
    assert len(report.findings) == 3
    copy = root / f"part-r9-{'9' * 32}.parquet"
    shutil.copy(files(root)[0], copy)
    commit(root, [copy], [], statistics={"numRecords": 20})
    report = check(str(root))
    assert any("10 more images have wrong rows" in note for note in report.notes)
    result = invoke(str(root))
    assert "more\n" in result.output


def test_the_command_says_what_is_damaged_and_exits_with_4(root: Path) -> None:
    result = invoke(str(root))
    assert result.exit_code == 0, result.output
    assert "clean" in result.output
    assert "5 images" in result.output
    files(root)[0].unlink()
    result = invoke(str(root))
    assert result.exit_code == 4
    assert "missing-file" in result.output
    assert "DAMAGED: 1 missing-file" in result.output
    result = invoke(str(root), "--json")
    assert result.exit_code == 4
    report = json.loads(result.output)
    assert (report["clean"], report["damage"], report["version"]) == (False, {"missing-file": 1}, 0)
    assert report["findings"][0]["kind"] == "missing-file"


def test_no_table_is_an_error_of_its_own(tmp_path: Path, root: Path) -> None:
    with pytest.raises(TableError, match="no table"):
        check(str(tmp_path / "nothing"))
    log = root / "_delta_log" / f"{0:020}.json"
    log.write_text("{")
    with pytest.raises(TableError):
        check(str(root))


def test_progress_reaches_the_end(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    publish_rows(root, [scored("f.jpg", "r2")], "r2")
    check(str(root), lambda done, total: seen.append((done, total)))
    assert len(seen) == 2
    assert seen[-1][0] == seen[-1][1] > seen[0][0]
