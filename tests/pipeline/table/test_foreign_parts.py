"""Tables that delta-rs, Polars and Spark have rewritten are read, checked, compacted and continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.drift.measure import measure_drift
from pipeline.errors import TableError
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.maintenance.vacuum import vacuum
from pipeline.table import plain_types
from pipeline.table.commit import Changes, commit
from pipeline.table.part_reader import open_part
from pipeline.table.reader import MapTable
from pipeline.table.rewrite import Action, Edit, rewrite
from pipeline.table.schema import SCHEMA, has_type_of, strings
from pipeline.transforms.inventory import read_part, take_inventory
from tests.support.maintained import MODEL, NOW, files, mixed_rows, publish_rows, rows_of, scored
from tests.support.maintained import commit as commit_files


def delete(root: Path) -> None:
    DeltaTable(root).delete("uri = 'a.jpg'")


def update(root: Path) -> None:
    DeltaTable(root).update(predicate="uri = 'b.jpg'", updates={"id": "'mine'"})


def optimize(root: Path) -> None:
    DeltaTable(root).optimize.compact()


def z_order(root: Path) -> None:
    DeltaTable(root).optimize.z_order(["status", "map_digest"])


def add_column(root: Path) -> None:
    frame = pl.read_delta(str(root)).with_columns(note=pl.lit("seen"))
    frame.write_delta(str(root), mode="overwrite", delta_write_options={"schema_mode": "overwrite"})


def filter_in_polars(root: Path) -> None:
    pl.read_delta(str(root)).filter(pl.col("uri") != "a.jpg").write_delta(str(root), mode="overwrite")


def rewrite_as_spark(root: Path) -> None:
    """As Spark 3 does: times in INT96, lists in its older form, all columns nullable, and its own names and bounds."""
    old = files(root)
    rows = pa.concat_tables([pq.read_table(path) for path in old])
    rows = rows.filter(pads.field("uri") != "a.jpg")
    rows = rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema]))
    new = root / "part-00000-0604e782-1636-4019-9145-77e857dd3393-c000.snappy.parquet"
    pq.write_table(
        rows,
        new,
        compression="snappy",
        store_schema=False,
        use_deprecated_int96_timestamps=True,
        use_compliant_nested_type=False,
    )
    keys = strings(rows.column("key"))
    statistics = {
        "numRecords": rows.num_rows,
        # Spark cuts texts to 32 characters, and times to milliseconds.
        "minValues": {"key": min(keys)[:32], "uri": "b.jpg", "scored_at": "2026-01-02T03:04:05.000Z"},
        "maxValues": {"key": max(keys)[:32] + "\ufffd", "uri": "z.jpg", "scored_at": "2026-01-02T03:04:05.000Z"},
        "nullCount": {"key": 0, "uri": 0, "geometry": {"stride_y": 1}},
    }
    commit_files(root, [new], old, statistics=statistics)


REWRITES = [delete, update, optimize, z_order, add_column, filter_in_polars, rewrite_as_spark]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "maps"  # Polars 2.1 does not find files below a folder with a space
    publish_rows(root, mixed_rows())
    publish_rows(root, [scored("z.jpg", "r2")], "r2")
    return root


@pytest.fixture(params=REWRITES, ids=lambda rewriting: rewriting.__name__)
def rewritten(root: Path, request: pytest.FixtureRequest) -> tuple[Path, list[dict[str, Any]]]:
    """A table that another program has rewritten, and the rows that it has now."""
    before = rows_of(root)
    rewriting: Callable[[Path], None] = request.param
    rewriting(root)
    gone = {"a.jpg"} if rewriting in (delete, filter_in_polars, rewrite_as_spark) else set()
    changed = {"b.jpg": "mine"} if rewriting is update else {}
    rows = [{**row, "id": changed.get(row["uri"], row["id"])} for row in before if row["uri"] not in gone]
    return root, rows


def read(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = MapTable(str(root)).to_arrow(SCHEMA.names).to_pylist()
    return sorted(rows, key=lambda row: (row["uri"], row["scale"], row["tile_index"]))


def test_the_rows_are_read(rewritten: tuple[Path, list[dict[str, Any]]]) -> None:
    root, rows = rewritten
    assert any("-c000" in path.name for path in files(root)), "another program has written it"
    assert read(root) == rows
    table = MapTable(str(root))
    whole = {row["uri"] for row in rows if row["status"] == "scored"}
    assert table.to_arrow(["uri", "scored_at"]).schema.field("scored_at").type == SCHEMA.field("scored_at").type
    assert {cells.uri for cells in table} == whole
    assert len(table) == len([row for row in rows if row["status"] == "scored" and row["tile_index"] == 0])
    assert table.counts().by_status == {"scored": len(table), "rejected": 1, "deleted": 0}
    assert [rejection.uri for rejection in table.rejections()] == ["e.jpg"]
    assert table.scales("b.jpg") == (0.5, 1.0)
    assert table.read("d.jpg").probabilities is not None
    assert table.read("c.tif").classes.shape == (3, 9, 2)
    with pytest.raises(TableError, match=r"no image 'b\.jpeg' among \d+\n.*did you mean b\.jpg"):
        table.read("b.jpeg")


def test_a_dataset_takes_filters(rewritten: tuple[Path, list[dict[str, Any]]]) -> None:
    root, rows = rewritten
    maps = MapTable(str(root)).dataset()
    assert maps.count_rows(filter=pads.field("uri") == "b.jpg") == 2
    with duckdb.connect() as connection:
        connection.register("maps", maps)
        found = connection.execute("SELECT uri FROM maps WHERE status = 'scored' AND tile_index = 0 ORDER BY 1")
        expected = [row["uri"] for row in rows if row["status"] == "scored" and row["tile_index"] == 0]
        assert [uri for (uri,) in found.fetchall()] == expected


def test_a_check_finds_no_damage_and_names_the_program(rewritten: tuple[Path, list[dict[str, Any]]]) -> None:
    root, rows = rewritten
    report = check(str(root))
    assert report.findings == ()
    assert sum(report.rows.values()) == len(rows)
    assert any("made by other programs, the last of them version 2 by delta-rs" in note for note in report.notes)


def test_a_compaction_keeps_the_rows(rewritten: tuple[Path, list[dict[str, Any]]]) -> None:
    root, rows = rewritten
    publish_rows(root, [scored("y.jpg", "r3")], "r3")
    compact(str(root))
    [part] = files(root)
    assert pq.read_schema(part).field("uri").type == pa.string()
    kept = read(root)
    assert [row for row in kept if row["uri"] != "y.jpg"] == rows
    assert check(str(root)).clean
    vacuum(str(root), 0, force=True)
    assert read(root) == kept


def test_a_run_goes_on(rewritten: tuple[Path, list[dict[str, Any]]]) -> None:
    """It sees the rows that are there, and changes one image without changing the others."""
    root, rows = rewritten
    inventory = take_inventory(str(root), "r3")
    assert inventory.orphans == []
    known = [record for part in inventory.parts for record in read_part(str(root), part)]
    assert {record.uri for record in known} == {row["uri"] for row in rows}
    part = next(record.part for record in known if record.uri == "d.jpg")
    edit = Edit("d.jpg", part, Action.UPDATE, "new version", "new id")
    receipt = rewrite(str(root), part, [edit], orphan=False, run_id="r3", now=NOW)
    assert receipt is not None
    changes = Changes(inventory.version, [receipt], [part])
    commit(str(root), changes, run_id="r3", model_json={"digest": MODEL, "labels": []}, summary={})
    expected = [
        {**row, "image_version": "new version", "id": "new id"} if row["uri"] == "d.jpg" else row for row in rows
    ]
    assert read(root) == expected
    assert check(str(root)).clean
    assert measure_drift(str(root), "r3", "r1").groups["all"].after.maps == len(
        [row for row in rows if row["status"] == "scored" and row["tile_index"] == 0]
    )


def test_a_column_of_another_program_outlives_runs_and_compactions(root: Path) -> None:
    add_column(root)
    [part] = files(root)
    edit = Edit("a.jpg", part.name, Action.DROP)
    receipt = rewrite(str(root), part.name, [edit], orphan=False, run_id="r3", now=NOW)
    assert receipt is not None
    changes = Changes(2, [receipt], [part.name])
    commit(str(root), changes, run_id="r3", model_json={"digest": MODEL, "labels": []}, summary={})
    publish_rows(root, [scored("y.jpg", "r4")], "r4")
    compact(str(root))
    notes = {row["uri"]: row["note"] for row in MapTable(str(root)).to_arrow(["uri", "note"]).to_pylist()}
    assert notes == {**dict.fromkeys(["b.jpg", "c.tif", "d.jpg", "e.jpg", "z.jpg"], "seen"), "y.jpg": None}
    assert {row["note"] for row in DeltaTable(root).to_pyarrow_table(columns=["note"]).to_pylist()} == {"seen", None}


def test_a_tile_that_someone_deleted_is_damage(root: Path) -> None:
    DeltaTable(root).delete("tile_index = 1")
    report = check(str(root))
    assert report.damage == {"incomplete": 1}
    assert any("(DELETE)" in note for note in report.notes)


def test_a_partitioned_table_is_refused(root: Path) -> None:
    frame = pl.read_delta(str(root))
    options = {"schema_mode": "overwrite", "partition_by": ["status"]}
    frame.write_delta(str(root), mode="overwrite", delta_write_options=options)
    with pytest.raises(TableError, match="partitioned by status"):
        MapTable(str(root))


@pytest.mark.parametrize("text", ["ARROW:schema", "\x18\x0cARROW:schema\x18"])
def test_only_the_key_is_renamed(tmp_path: Path, text: str) -> None:
    """Statistics may hold the same bytes; readers skip row groups by them."""
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"uri": pa.array([text, text], pa.string_view())}), path)
    with pa.OSFile(str(path), "r") as file:
        metadata = plain_types.plain_metadata(file)
    assert metadata is not None
    statistics = metadata.row_group(0).column(0).statistics
    assert statistics is not None
    assert (statistics.min, statistics.max) == (text, text)
    with pq.ParquetFile(path, metadata=metadata) as part:
        assert part.schema_arrow.field("uri").type == pa.string()
    again = pq.read_table(plain_types.plain_content(path))
    assert again.to_pydict() == {"uri": [text, text]}
    assert again.schema.field("uri").type == pa.string()
    assert pq.read_schema(path).field("uri").type == pa.string_view(), "the file is as it was"


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\xff" * 20 + b"PAR1", b"x" * 100])
def test_a_damaged_footer_is_left_to_the_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(content)
    assert plain_types.plain_metadata(pa.BufferReader(content)) is None
    with pytest.raises(pa.ArrowException):
        open_part(str(tmp_path), path.name)


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [
        (pa.dictionary(pa.int32(), pa.string_view()), pa.string(), True),
        (pa.large_binary(), pa.binary(), True),
        (pa.binary(), pa.string(), False),
        (pa.large_list(pa.field("item", pa.int32())), pa.list_(pa.field("element", pa.int32())), True),
        (pa.list_(pa.int64()), pa.list_(pa.int32()), False),
        (pa.struct({"b": pa.int32(), "a": pa.large_string()}), pa.struct({"a": pa.string(), "b": pa.int32()}), True),
        (pa.struct({"a": pa.string()}), pa.struct({"a": pa.string(), "b": pa.int32()}), False),
        (pa.timestamp("ns"), pa.timestamp("us", "UTC"), True),
        (pa.float64(), pa.float32(), False),
    ],
    ids=str,
)
def test_which_types_a_column_may_have(stored: pa.DataType, wanted: pa.DataType, *, fits: bool) -> None:
    assert has_type_of(stored, wanted) is fits


def test_a_remote_dataset_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delete(root)
    table = MapTable(str(root))
    _ = table.schema
    monkeypatch.setattr("pipeline.table.scan.is_remote", lambda _: True)
    with pytest.raises(TableError, match="another program has written the part") as caught:
        table.dataset()
    assert "densecast compact" in caught.value.remedy
    assert table.read("b.jpg", scale=1.0).uri == "b.jpg", "reading goes on"
