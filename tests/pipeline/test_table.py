import functools
import hashlib
import json
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from pipeline import parts, publishing, storage
from pipeline.errors import TableError
from pipeline.maps import Geometry, top_k
from pipeline.parts import PartWriter, Receipt
from pipeline.publishing import Published
from pipeline.recipe import Form, Recipe
from pipeline.rejection import Reason
from pipeline.rows import SCHEMA, ImageFacts, MapRow, Placement, rejected_row, scored_row
from pipeline.table import MapTable, Rejection

# Most tests here read tables that several runs wrote; by itself a run does not join another's.
publish = functools.partial(publishing.publish, append=True)

MODEL = "ab" * 32
MODEL_JSON = {"digest": MODEL, "labels": ["ant", "bee", "cat, feline", "dog"]}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_scored(
    uri: str, run_id: str = "r1", *, scale: float = 1, form: Form = Form.TOP_K, size: int = 3, id_: str | None = None
) -> MapRow:
    random = np.random.default_rng(len(uri))
    probabilities = random.dirichlet(np.ones(4), (size, size)).astype(np.float32)
    cells = top_k(probabilities, 2)
    if form is not Form.TOP_K:
        cells = cells._replace(probabilities=probabilities.astype(str(form)))
    image = ImageFacts(uri, id_, 100, hashlib.sha256(ascii(uri).encode()).hexdigest(), 96, 96)
    geometry = Geometry(32, 32, 16, 16, 32, 32, 32, 32)
    return scored_row(
        image,
        Recipe(MODEL, form),
        geometry,
        cells,
        class_count=4,
        run_id=run_id,
        scored_at=NOW,
        placement=Placement(scale, 96, 96),
    )


def make_rejected(uri: str, run_id: str = "r1", reason: Reason = Reason.CORRUPT) -> MapRow:
    return rejected_row(ImageFacts(uri), Recipe(MODEL), reason, "no end marker", run_id=run_id, scored_at=NOW)


def write(root: Path | str, *rows: MapRow, run_id: str = "r1") -> list[Receipt]:
    writer = PartWriter(str(root), run_id, MODEL)
    receipts = [writer.add(row) for row in rows]
    return [receipt for receipt in (*receipts, writer.flush()) if receipt is not None]


def publish_rows(root: Path | str, *rows: MapRow, run_id: str = "r1") -> Published:
    return publish(
        str(root), write(root, *rows, run_id=run_id), run_id=run_id, model_json=MODEL_JSON, summary={"note": run_id}
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Characters that a path and a URL spell differently, or that a glob would expand.
    return tmp_path / "maps [50% é]"


def test_parts_are_flushed_by_size_and_at_the_end(root: Path) -> None:
    names = iter("abc")
    row = make_scored("a.jpg")
    writer = PartWriter(str(root), "r1", MODEL, flush_bytes=2 * row.size_bytes, name_factory=lambda: next(names))
    assert writer.flush() is None
    assert writer.add(row) is None
    first = writer.add(make_rejected("b" * 9999))
    assert first is not None
    assert (first.path, first.rows, first.scored, first.rejected) == ("part-r1-a.parquet", 2, 1, 1)
    assert writer.add(row) is None
    second = writer.flush()
    assert second is not None
    assert (second.path, second.rows) == ("part-r1-b.parquet", 1)
    assert writer.flush() is None
    assert sorted(path.name for path in root.iterdir()) == ["part-r1-a.parquet", "part-r1-b.parquet"]


def test_a_receipt_vouches_for_its_file_and_stays_small(root: Path) -> None:
    rows = [make_scored(f"{i}.jpg", id_=None if i % 2 else f"id{i}") for i in range(50)]
    [receipt] = write(root, *rows)
    data = (root / receipt.path).read_bytes()
    assert receipt.size_bytes == len(data)
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    stats = json.loads(receipt.stats)
    assert stats["numRecords"] == 50
    assert (stats["minValues"]["uri"], stats["maxValues"]["uri"]) == ("0.jpg", "9.jpg")
    assert stats["nullCount"]["id"] == 25
    assert stats["nullCount"]["reason"] == 50
    assert "reason" not in stats["minValues"]
    pickled = pickle.dumps(receipt)
    assert pickle.loads(pickled) == receipt  # noqa: S301
    assert len(pickled) < 2000


def test_a_part_is_compressed_parquet_that_says_whose_it_is(root: Path) -> None:
    [receipt] = write(root, *(make_scored(f"{i}.jpg", size=60) for i in (2, 1, 3)))
    with pq.ParquetFile(root / receipt.path) as file:
        assert file.schema_arrow.remove_metadata() == SCHEMA
        assert file.schema_arrow.metadata[b"densecast"] == json.dumps({"run_id": "r1", "model_digest": MODEL}).encode()
        assert {file.metadata.row_group(0).column(i).compression for i in range(24)} == {"ZSTD"}
        assert file.read(columns=["uri"]).column(0).to_pylist() == ["1.jpg", "2.jpg", "3.jpg"]


def test_large_rows_get_row_groups_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 10_000)
    [receipt] = write(root, *(make_scored(f"{i}.jpg", size=20) for i in range(6)))
    with pq.ParquetFile(root / receipt.path) as file:
        assert file.metadata.num_row_groups == 6


def test_rows_of_another_run_or_model_are_refused(root: Path) -> None:
    writer = PartWriter(str(root), "r1", MODEL)
    with pytest.raises(TableError, match="a row of run r2"):
        writer.add(make_scored("a.jpg", "r2"))
    with pytest.raises(TableError, match="cannot be part of a file name"):
        PartWriter(str(root), "../r1", MODEL)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a\\b", "a\nb"])
def test_a_folder_that_delta_would_mistake_is_refused_before_the_work(root: Path, name: str) -> None:
    for bad in (str(root / name / "maps"), f"s3://bucket/{name}"):
        with pytest.raises(TableError, match="a table cannot lie in"):
            PartWriter(bad, "r1", MODEL)
        with pytest.raises(TableError, match="a table cannot lie in"):
            MapTable(bad)


def test_rows_survive_a_failed_flush(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PartWriter(str(root), "r1", MODEL)
    writer.add(make_scored("a.jpg"))

    def fail(path: str, data: bytes) -> None:
        raise storage.StorageError("disk full", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_atomically", fail)
        with pytest.raises(storage.StorageError):
            writer.flush()
    receipt = writer.flush()
    assert receipt is not None
    assert receipt.rows == 1


def test_what_is_published_is_read(root: Path) -> None:
    rows = [make_scored("x/a.jpg"), make_scored("x/b.jpg", form=Form.FLOAT16), make_rejected("x/c.jpg")]
    assert publish_rows(root, *rows) == Published(0, 3, 2, 1)
    assert publish_rows(root, make_scored("x/d.jpg", "r2"), run_id="r2") == Published(1, 1, 1, 0)

    table = MapTable(str(root))
    assert table.version == 1
    assert table.schema == SCHEMA
    assert len(table) == 3
    assert sorted(found.uri for found in table) == ["x/a.jpg", "x/b.jpg", "x/d.jpg"]
    assert list(table.rejections()) == [Rejection("x/c.jpg", "corrupt", "no end marker")]
    assert table.counts() == ({"scored": 3, "rejected": 1}, {"corrupt": 1})
    assert table.labels == {MODEL: ("ant", "bee", "cat, feline", "dog")}
    assert table.to_arrow().num_rows == 4
    assert table.to_arrow(["uri", "scale"]).column_names == ["uri", "scale"]
    assert [(run["run_id"], run["version"], run["rows"], run["note"]) for run in table.runs()] == [
        ("r1", 0, 3, "r1"),
        ("r2", 1, 1, "r2"),
    ]
    found = table.read("x/b.jpg")
    assert found.label(0, 0) in MODEL_JSON["labels"]
    assert found.probabilities is not None
    assert found.probabilities.dtype == np.float16


def test_an_older_version_is_as_it_was(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"))
    publish_rows(root, make_scored("b.jpg", "r2"), run_id="r2")
    table = MapTable(str(root), version=0)
    assert [found.uri for found in table] == ["a.jpg"]
    assert [run["run_id"] for run in table.runs()] == ["r1"]
    with pytest.raises(TableError, match="at version 7"):
        MapTable(str(root), version=7)
    with pytest.raises(TableError, match="at version -1"):
        MapTable(str(root), version=-1)


def test_one_commit_makes_the_table_and_fills_it(root: Path) -> None:
    """No version of a table is without the rows of the run that made it."""
    publish_rows(root, make_scored("a.jpg"))
    assert [path.name for path in (root / "_delta_log").glob("*.json")] == [f"{0:020}.json"]
    assert DeltaTable(root).transaction_version("r1") == 1


def test_publishing_again_changes_nothing(root: Path) -> None:
    receipts = write(root, make_scored("a.jpg"), make_rejected("b.jpg"))
    first = publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={"attempt": 1})
    publish_rows(root, make_scored("c.jpg", "r2"), run_id="r2")
    for repeated in (receipts, write(root, make_scored("a.jpg")), []):
        again = publish(str(root), repeated, run_id="r1", model_json=MODEL_JSON, summary={"attempt": 2})
        assert again == first == Published(0, 2, 1, 1)
    table = MapTable(str(root))
    assert table.version == 1
    assert table.to_arrow(["uri"]).num_rows == 3
    assert table.runs()[0]["attempt"] == 1


def test_a_run_killed_between_commit_and_summary_is_mended(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"), make_rejected("b.jpg"))
    publish_rows(root, make_scored("c.jpg", "r2"), run_id="r2")
    (root / "_densecast" / "runs" / "r1.json").unlink()
    again = publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={"attempt": 2})
    assert again == Published(0, 2, 1, 1)
    assert MapTable(str(root)).runs()[0]["attempt"] == 2


def test_a_run_without_images_is_published_too(root: Path) -> None:
    assert publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={}) == Published(0, 0, 0, 0)
    assert publish(str(root), [], run_id="r2", model_json=MODEL_JSON, summary={}) == Published(1, 0, 0, 0)
    table = MapTable(str(root))
    assert len(table) == 0
    assert list(table) == []
    assert table.counts() == ({"scored": 0, "rejected": 0}, {})
    with pytest.raises(TableError, match="among 0"):
        table.read("a.jpg")


def test_orphans_are_invisible(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"))
    write(root, make_scored("orphan.jpg"))
    assert [found.uri for found in MapTable(str(root))] == ["a.jpg"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"), [("unlink", "is missing"), ("cut", "has 10 bytes, where its receipt says")]
)
def test_a_missing_part_stops_the_whole_publication(root: Path, exists: bool, damage: str, message: str) -> None:
    if exists:
        publish_rows(root, make_scored("z.jpg", "r0"), run_id="r0")
    receipts = [*write(root, make_scored("a.jpg")), *write(root, make_scored("b.jpg"))]
    part = root / receipts[1].path
    if damage == "unlink":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(TableError, match=message) as caught:
        publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={})
    assert receipts[1].path in str(caught.value)
    assert not (root / "_densecast" / "runs" / "r1.json").exists()
    if exists:
        assert [found.uri for found in MapTable(str(root))] == ["z.jpg"]
    else:
        with pytest.raises(TableError, match="there is no table"):
            MapTable(str(root))


def test_receipts_given_twice_count_once_and_may_not_contradict(root: Path) -> None:
    receipts = write(root, make_scored("a.jpg"))
    with pytest.raises(TableError, match="contradict"):
        publish(
            str(root),
            [*receipts, receipts[0]._replace(rows=9)],
            run_id="r1",
            model_json=MODEL_JSON,
            summary={},
        )
    assert publish(str(root), receipts * 2, run_id="r1", model_json=MODEL_JSON, summary={}).rows == 1
    assert len(MapTable(str(root))) == 1


def test_a_file_in_place_of_the_table_is_told(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(storage.StorageError, match="is a file where a folder is needed"):
        publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={})


def test_the_version_of_a_run_whose_log_entry_is_gone_is_the_newest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(root, make_scored("a.jpg"))
    publish_rows(root, make_scored("b.jpg", "r2"), run_id="r2")
    (root / "_densecast" / "runs" / "r1.json").unlink()
    monkeypatch.setattr(DeltaTable, "history", lambda self: [])
    assert publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={}).version == 1


def test_metadata_without_a_digest_are_refused(root: Path) -> None:
    for digest in (None, "", "../x"):
        with pytest.raises(TableError, match="digest"):
            publish(str(root), [], run_id="r1", model_json={"digest": digest}, summary={})
    assert not root.exists()


def test_foreign_tables_are_neither_read_nor_written(root: Path) -> None:
    DeltaTable.create(root, pa.schema([("uri", pa.string()), ("scale", pa.string())]))
    with pytest.raises(TableError, match="not one of densecast's"):
        publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={})
    with pytest.raises(TableError, match=r"key \(missing\)"):
        MapTable(str(root))
    assert DeltaTable(root).version() == 0


def test_a_run_that_loses_the_race_for_the_first_version_comes_second(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = write(root, make_scored("a.jpg"))
    create = publishing.create_table_with_add_actions

    def lose(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        publish_rows(root, make_scored("b.jpg", "r2"), run_id="r2")
        create(*args, **options)

    monkeypatch.setattr(publishing, "create_table_with_add_actions", lose)
    published = publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={})
    assert published == Published(1, 1, 1, 0)
    assert sorted(found.uri for found in MapTable(str(root))) == ["a.jpg", "b.jpg"]


def test_the_same_run_published_by_two_attempts_at_once_counts_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(root, make_scored("z.jpg", "r0"), run_id="r0")
    receipts = write(root, make_scored("a.jpg"))
    commit = publishing._commit

    def overtake(*args: Any) -> None:
        monkeypatch.undo()
        publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={"attempt": "fast"})
        commit(*args)

    monkeypatch.setattr(publishing, "_commit", overtake)
    published = publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={"attempt": "slow"})
    assert published == Published(1, 1, 1, 0)
    assert len(MapTable(str(root))) == 2
    assert MapTable(str(root)).runs()[-1]["attempt"] == "fast"


def test_several_runs_publish_at_once(root: Path) -> None:
    """Each gets its own version, and knows which."""
    prepared = [write(root, make_scored(f"{i}.jpg", f"r{i}"), run_id=f"r{i}") for i in range(6)]
    published: dict[str, Published] = {}

    def run(i: int) -> None:
        published[f"r{i}"] = publish(str(root), prepared[i], run_id=f"r{i}", model_json=MODEL_JSON, summary={"note": i})

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.version for result in published.values()) == list(range(6))
    for run_id, result in published.items():
        assert DeltaTable(root, version=result.version).transaction_version(run_id) == 1
        if result.version:
            assert DeltaTable(root, version=result.version - 1).transaction_version(run_id) is None
    assert len(MapTable(str(root))) == 6


def test_a_transaction_that_keeps_failing_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = write(root, make_scored("a.jpg"))

    def fail(*args: Any) -> None:
        raise CommitFailedError("the store refuses")

    monkeypatch.setattr(publishing, "_commit", fail)
    with pytest.raises(TableError, match="the store refuses") as caught:
        publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={})
    assert isinstance(caught.value.__cause__, DeltaError)


def make_nothing(path: Path) -> None:
    """Leave the path empty."""


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (make_nothing, "does not exist"),
        (lambda path: path.write_bytes(b""), "is a file"),
        (lambda path: path.mkdir(), "is an empty folder"),
        (lambda path: (path / "images").mkdir(parents=True), "is a folder of 1 entries"),
        (lambda path: storage.write_atomically(str(path / "densecast.json"), b"{}"), "is a model"),
    ],
)
def test_no_table_says_what_was_found(root: Path, make: Callable[[Path], object], found: str) -> None:
    make(root)
    with pytest.raises(TableError, match=found) as caught:
        MapTable(str(root))
    assert "densecast score" in caught.value.remedy


def test_an_image_is_found_however_it_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = str(tmp_path / "photos" / "a cat.jpg")
    other = (tmp_path / "photos" / "b é.jpg").as_uri()
    publish_rows(
        root,
        make_scored(absolute, id_="cat-1"),
        make_scored(other),
        make_scored("s3://bucket/c.jpg"),
        make_scored("it's.jpg"),
        make_scored("caf\udce9.jpg"),
    )
    table = MapTable(str(root))
    monkeypatch.chdir(tmp_path)
    key = table.read(absolute).key
    for name in (absolute, "photos/a cat.jpg", "./photos/../photos/a cat.jpg", "cat-1", key, f"file://{absolute}"):
        assert table.read(name).uri == absolute
    for name in (other, "photos/b é.jpg"):
        assert table.read(name).uri == other
    assert table.read("s3://bucket/c.jpg").uri == "s3://bucket/c.jpg"
    assert table.read("it's.jpg").uri == "it's.jpg"
    assert table.read("caf\udce9.jpg").uri == r"caf\udce9.jpg"


def test_an_unknown_image_brings_near_names(root: Path) -> None:
    publish_rows(root, *(make_scored(f"s3://bucket/{name}.jpg") for name in ("cat", "dog", "horse")))
    table = MapTable(str(root))
    with pytest.raises(TableError, match=r"among 3") as caught:
        table.read("photos/cta.jpg")
    assert "did you mean s3://bucket/cat.jpg?" in caught.value.remedy
    with pytest.raises(TableError, match="did you mean s3://bucket/dog"):
        table.read("elsewhere/DOG.jpg")
    with pytest.raises(TableError) as caught:
        table.read("zzzzzzzz")
    assert "did you mean" not in caught.value.remedy


def test_a_rejected_image_says_why(root: Path) -> None:
    publish_rows(root, make_rejected("a.jpg"), make_scored("b.jpg"))
    with pytest.raises(TableError, match="rejected as corrupt") as caught:
        MapTable(str(root)).read("a.jpg")
    assert caught.value.why == "no end marker"


def test_an_image_rejected_once_and_scored_later_has_a_map(root: Path) -> None:
    publish_rows(root, make_rejected("a.jpg"))
    publish_rows(root, make_scored("a.jpg", "r2"), run_id="r2")
    assert MapTable(str(root)).read("a.jpg").run_id == "r2"


def test_several_maps_of_an_image_are_told_apart_by_key(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"), make_scored("a.jpg", scale=2))
    table = MapTable(str(root))
    with pytest.raises(TableError, match=r"has 2 maps") as caught:
        table.read("a.jpg")
    assert "scale 2" in str(caught.value)
    key = make_scored("a.jpg", scale=2).key
    assert table.read("a.jpg", key=key[:12]).scale == 2
    assert table.read(key).scale == 2
    with pytest.raises(TableError, match="has a key that begins with 'x'"):
        table.read("a.jpg", key="x")


def test_an_unknown_column_is_told(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"))
    with pytest.raises(TableError, match="there is no column 'url'") as caught:
        MapTable(str(root)).to_arrow(["url"])
    assert "uri" in caught.value.remedy


def test_a_lost_or_damaged_part_is_told(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"))
    table = MapTable(str(root))
    part = Path(table.files()[0])
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TableError, match="cannot be read"):
        list(table)
    part.unlink()
    with pytest.raises(TableError, match="cannot be read"):
        MapTable(str(root)).read("a.jpg")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_metadata_are_told(root: Path, text: str) -> None:
    publish_rows(root, make_scored("a.jpg"))
    for folder, name in (("models", MODEL), ("runs", "r1")):
        (root / "_densecast" / folder / f"{name}.json").write_text(text)
    table = MapTable(str(root))
    with pytest.raises(TableError, match="JSON"):
        _ = table.labels
    with pytest.raises(TableError, match="JSON"):
        table.runs()


def test_maps_without_metadata_have_numbers_for_labels(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"))
    (root / "_densecast" / "models" / f"{MODEL}.json").unlink()
    assert MapTable(str(root)).read("a.jpg").label(0, 0).startswith("class ")


def test_iterating_opens_one_part_after_the_other(root: Path) -> None:
    receipts = [receipt for i in range(8) for receipt in write(root, make_scored(f"{i}.jpg"))]
    publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={})
    table = MapTable(str(root))
    iterator = iter(table)
    next(iterator)
    # The last part has not been opened yet: it can go, and that shows when its turn comes.
    Path(table.files()[-1]).unlink()
    with pytest.raises(TableError):
        list(iterator)


def test_reading_one_image_opens_only_the_parts_that_may_hold_it(root: Path) -> None:
    receipts = [receipt for name in "abc" for receipt in write(root, make_scored(f"{name}.jpg"))]
    publish(str(root), receipts, run_id="r1", model_json=MODEL_JSON, summary={})
    table = MapTable(str(root))
    for receipt in (receipts[0], receipts[2]):
        (root / receipt.path).unlink()
    assert table.read("b.jpg").uri == "b.jpg"


def test_compaction_and_vacuum_by_other_tools_keep_the_maps(root: Path) -> None:
    before = {}
    for i in range(3):
        publish_rows(root, make_scored(f"{i}.jpg", f"r{i}", form=Form.FLOAT32), run_id=f"r{i}")
        before[f"{i}.jpg"] = MapTable(str(root)).read(f"{i}.jpg")
    delta = DeltaTable(root)
    delta.optimize.compact()
    delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    table = MapTable(str(root))
    assert len(table.files()) == 1
    assert table.labels
    assert len(table.runs()) == 3
    for found in table:
        assert found.probabilities is not None
        assert np.array_equal(found.probabilities, before[found.uri].probabilities)  # type: ignore[arg-type]
        assert np.array_equal(found.scores, before[found.uri].scores)
    again = publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={})
    assert again == Published(1, 1, 1, 0)


def test_duckdb_reads_the_table_offline(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"), make_scored("b.jpg", size=5), make_rejected("c.jpg"))
    table = MapTable(str(root))
    maps = table.dataset()
    with duckdb.connect() as connection:
        connection.register("maps", maps)
        query = "SELECT uri, map_height, len(scores), geometry.stride_y FROM {} WHERE status = 'scored' ORDER BY uri"
        expected = [("a.jpg", 3, 18, 32.0), ("b.jpg", 5, 50, 32.0)]
        assert connection.execute(query.format("maps")).fetchall() == expected
        assert connection.execute(query.format("read_parquet(?)"), [table.files()]).fetchall() == expected
        # Cells by best class, over the whole table: lists are row-major [h, w, k], so every k-th is a best one.
        [(cells,)] = connection.execute("SELECT sum(len(residual)) FROM maps").fetchall()
        assert cells == 9 + 25


def test_pandas_reads_the_table(root: Path) -> None:
    publish_rows(root, make_scored("a.jpg"), make_rejected("c.jpg"))
    frame = DeltaTable(root).to_pandas(columns=["uri", "status", "scores", "scored_at"])
    assert sorted(frame["uri"]) == ["a.jpg", "c.jpg"]
    frame = MapTable(str(root)).to_arrow(["uri", "scores"]).to_pandas()
    assert len(frame.set_index("uri").loc["a.jpg", "scores"]) == 18


def test_a_table_opens_by_relative_path_and_file_uri(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish_rows(root.name, make_scored("a.jpg"))
    assert len(MapTable(root.name)) == 1
    assert len(MapTable(root.as_uri())) == 1
    assert publish_rows(root.as_uri(), make_scored("b.jpg", "r2"), run_id="r2").version == 1
    assert len(MapTable(str(root))) == 2


def test_a_run_does_not_join_another_runs_table(root: Path) -> None:
    """Else an image scored twice would have two maps: README's script run twice, or two runs at once."""
    publishing.publish(str(root), write(root, make_scored("a.jpg")), run_id="r1", model_json=MODEL_JSON, summary={})
    receipts = write(root, make_scored("a.jpg", "r2"), run_id="r2")
    with pytest.raises(TableError, match="there already"):
        publishing.publish(str(root), receipts, run_id="r2", model_json=MODEL_JSON, summary={})
    again = publishing.publish(str(root), [], run_id="r1", model_json=MODEL_JSON, summary={})
    assert (again.version, again.rows) == (0, 1)


def test_of_two_runs_at_once_one_publishes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other makes the table between our look and our commit."""
    receipts = {run: write(root, make_scored("a.jpg", run), run_id=run) for run in ("r1", "r2")}
    commit = publishing._commit

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(publishing, "_commit", commit)
        publishing.publish(str(root), receipts["r2"], run_id="r2", model_json=MODEL_JSON, summary={})
        commit(*arguments)

    monkeypatch.setattr(publishing, "_commit", late)
    with pytest.raises(TableError, match="there already"):
        publishing.publish(str(root), receipts["r1"], run_id="r1", model_json=MODEL_JSON, summary={})
    assert MapTable(str(root)).to_arrow(["run_id"])["run_id"].to_pylist() == ["r2"]
