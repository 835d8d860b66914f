"""Part files, and the one transaction in which a run's enter the table."""

import hashlib
import json
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import create_table_with_add_actions

from pipeline.errors import TableError
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStore
from pipeline.table import commit, part_file
from pipeline.table.commit import Changes, ConflictError
from pipeline.table.part_file import PartWriter, Receipt
from pipeline.table.reader import MapTable
from pipeline.table.rows import MapRow
from pipeline.table.schema import SCHEMA
from pipeline.table.summaries import RunSummary
from tests.support import stored_rows
from tests.support.stored_rows import MODEL, rejected, scored, write

MODEL_JSON = stored_rows.MODEL_JSON


def publish(root: str, receipts: Sequence[Receipt], **options: Any) -> RunSummary:
    given: dict[str, Any] = {"model_json": MODEL_JSON, "summary": {}, **options}
    return commit.commit(root, Changes(-1, receipts), **given)


def publish_rows(root: Path | str, *rows: MapRow, run_id: str = "r1") -> RunSummary:
    return publish(str(root), write(root, *rows, run_id=run_id), run_id=run_id, summary={"note": run_id})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Characters that a path and a URL spell differently, or that a glob would expand.
    return tmp_path / "maps [50% é]"


def test_parts_are_flushed_by_size_and_at_the_end(root: Path) -> None:
    row = scored("a.jpg")
    writer = PartWriter(str(root), "r1", MODEL, flush_bytes=2 * row.size_bytes)
    assert writer.flush() is None
    assert writer.add(row) is None
    first = writer.add(rejected("b" * 9999))
    assert first is not None
    assert (first.path, first.rows, first.scored) == (f"part-r1-{first.sha256[:32]}.parquet", 2, 1)
    assert writer.add(row) is None
    second = writer.flush()
    assert second is not None
    assert second.rows == 1
    assert writer.flush() is None
    assert sorted(path.name for path in root.iterdir()) == sorted([first.path, second.path])


def test_a_receipt_vouches_for_its_file_and_stays_small(root: Path) -> None:
    rows = [scored(f"{i}.jpg", id_=None if i % 2 else f"id{i}") for i in range(50)]
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
    [receipt] = write(root, *(scored(f"{i}.jpg", size=60) for i in (2, 1, 3)))
    with pq.ParquetFile(root / receipt.path) as file:
        assert file.schema_arrow.remove_metadata() == SCHEMA
        assert json.loads(file.schema_arrow.metadata[b"densecast"]) == {"run_id": "r1", "rounding": "bounded"}
        assert {file.metadata.row_group(0).column(i).compression for i in range(30)} == {"ZSTD"}
        assert file.read(columns=["uri"]).column(0).to_pylist() == ["1.jpg", "2.jpg", "3.jpg"]


def test_large_rows_get_row_groups_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "ROW_GROUP_BYTES", 10_000)
    [receipt] = write(root, *(scored(f"{i}.jpg", size=20) for i in range(6)))
    with pq.ParquetFile(root / receipt.path) as file:
        assert file.metadata.num_row_groups == 6


def test_rows_of_another_run_or_model_are_refused(root: Path) -> None:
    writer = PartWriter(str(root), "r1", MODEL)
    with pytest.raises(TableError, match="a row of run r2"):
        writer.add(scored("a.jpg", "r2"))
    with pytest.raises(TableError, match="cannot be part of a file name"):
        PartWriter(str(root), "../r1", MODEL)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a\\b", "a\nb"])
def test_a_folder_that_delta_would_mistake_is_refused_before_the_work(root: Path, name: str) -> None:
    for bad in (str(root / name / "maps"), f"s3://bucket/{name}"):
        with pytest.raises(TableError, match="a table cannot be in"):
            PartWriter(bad, "r1", MODEL)
        with pytest.raises(TableError, match="a table cannot be in"):
            MapTable(bad)


def test_rows_survive_a_failed_flush(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PartWriter(str(root), "r1", MODEL)
    writer.add(scored("a.jpg"))

    def fail(_: LocalStore, path: str, data: bytes) -> None:
        raise StorageError("disk full", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write_atomically", fail)
        with pytest.raises(StorageError):
            writer.flush()
    receipt = writer.flush()
    assert receipt is not None
    assert receipt.rows == 1


def test_one_commit_makes_the_table_and_fills_it(root: Path) -> None:
    """No version of a table is without the rows of the run that made it."""
    publish_rows(root, scored("a.jpg"))
    assert [path.name for path in (root / "_delta_log").glob("*.json")] == [f"{0:020}.json"]
    assert DeltaTable(root).transaction_version("r1") == 1


def test_publishing_again_changes_nothing(root: Path) -> None:
    receipts = write(root, scored("a.jpg"), rejected("b.jpg"))
    first = publish(str(root), receipts, run_id="r1", summary={"attempt": 1})
    publish_rows(root, scored("c.jpg", "r2"), run_id="r2")
    for repeated in (receipts, write(root, scored("a.jpg")), []):
        again = publish(str(root), repeated, run_id="r1", summary={"attempt": 2})
        assert again == first
        assert again[:4] == ("r1", 0, 1, 1)
    table = MapTable(str(root))
    assert table.version == 1
    assert table.to_arrow(["uri"]).num_rows == 3
    assert table.runs()[0]["attempt"] == 1


def test_a_run_killed_between_commit_and_summary_is_mended(root: Path) -> None:
    publish_rows(root, scored("a.jpg"), rejected("b.jpg"))
    publish_rows(root, scored("c.jpg", "r2"), run_id="r2")
    (root / "_densecast" / "runs" / "r1.json").unlink()
    again = publish(str(root), [], run_id="r1", summary={"attempt": 2})
    assert again[:4] == ("r1", 0, 1, 1)
    assert MapTable(str(root)).runs()[0]["attempt"] == 2


def test_a_run_without_images_is_published_too(root: Path) -> None:
    assert publish(str(root), [], run_id="r1")[:4] == ("r1", 0, 0, 0)
    assert publish(str(root), [], run_id="r2")[:4] == ("r2", 1, 0, 0)
    table = MapTable(str(root))
    assert len(table) == 0
    assert list(table) == []
    assert table.counts() == ({"scored": 0, "rejected": 0, "deleted": 0}, {})
    with pytest.raises(TableError, match="among 0"):
        table.read("a.jpg")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"), [("unlink", "is missing"), ("cut", "has 10 bytes, where its receipt says")]
)
def test_a_missing_part_stops_the_whole_publication(root: Path, exists: bool, damage: str, message: str) -> None:
    if exists:
        publish_rows(root, scored("z.jpg", "r0"), run_id="r0")
    receipts = [*write(root, scored("a.jpg")), *write(root, scored("b.jpg"))]
    part = root / receipts[1].path
    if damage == "unlink":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:10])
    with pytest.raises(TableError, match=message) as caught:
        publish(str(root), receipts, run_id="r1")
    assert receipts[1].path in str(caught.value)
    assert not (root / "_densecast" / "runs" / "r1.json").exists()
    if exists:
        assert [found.uri for found in MapTable(str(root))] == ["z.jpg"]
    else:
        with pytest.raises(TableError, match="there is no table"):
            MapTable(str(root))


def test_receipts_given_twice_count_once_and_may_not_contradict(root: Path) -> None:
    receipts = write(root, scored("a.jpg"))
    with pytest.raises(TableError, match="contradict"):
        publish(
            str(root),
            [*receipts, receipts[0]._replace(rows=9)],
            run_id="r1",
        )
    assert publish(str(root), receipts * 2, run_id="r1").scored == 1
    assert len(MapTable(str(root))) == 1


def test_a_file_in_place_of_the_table_is_told(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StorageError, match="is a file where a folder is needed"):
        publish(str(root), [], run_id="r1")


def test_the_version_of_a_run_whose_log_entry_is_gone_is_the_newest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(root, scored("a.jpg"))
    publish_rows(root, scored("b.jpg", "r2"), run_id="r2")
    (root / "_densecast" / "runs" / "r1.json").unlink()
    monkeypatch.setattr(DeltaTable, "history", lambda self: [])
    assert publish(str(root), [], run_id="r1").version == 1


def test_metadata_without_a_digest_are_refused(root: Path) -> None:
    for digest in (None, "", "../x"):
        with pytest.raises(TableError, match="digest"):
            publish(str(root), [], run_id="r1", model_json={"digest": digest})
    assert not root.exists()


def test_foreign_tables_are_neither_read_nor_written(root: Path) -> None:
    DeltaTable.create(root, pa.schema([("uri", pa.string()), ("scale", pa.string())]))
    with pytest.raises(TableError, match="not one of densecast's"):
        publish(str(root), [], run_id="r1")
    with pytest.raises(TableError, match=r"key \(missing\)"):
        MapTable(str(root))
    assert DeltaTable(root).version() == 0


def test_a_run_that_loses_the_race_for_the_first_version_comes_second(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = write(root, scored("a.jpg"))
    create = create_table_with_add_actions

    def lose(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        publish_rows(root, scored("b.jpg", "r2"), run_id="r2")
        create(*args, **options)

    monkeypatch.setattr(commit, "create_table_with_add_actions", lose)
    published = publish(str(root), receipts, run_id="r1")
    assert published[:4] == ("r1", 1, 1, 0)
    assert sorted(found.uri for found in MapTable(str(root))) == ["a.jpg", "b.jpg"]


def test_the_same_run_published_by_two_attempts_at_once_counts_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_rows(root, scored("z.jpg", "r0"), run_id="r0")
    receipts = write(root, scored("a.jpg"))
    original = commit._commit_transaction

    def overtake(*args: Any) -> None:
        monkeypatch.undo()
        publish(str(root), receipts, run_id="r1", summary={"attempt": "fast"})
        original(*args)

    monkeypatch.setattr(commit, "_commit_transaction", overtake)
    published = publish(str(root), receipts, run_id="r1", summary={"attempt": "slow"})
    assert published[:4] == ("r1", 1, 1, 0)
    assert len(MapTable(str(root))) == 2
    assert MapTable(str(root)).runs()[-1]["attempt"] == "fast"


def test_several_runs_publish_at_once(root: Path) -> None:
    """Each gets its own version, and knows which."""
    prepared = [write(root, scored(f"{i}.jpg", f"r{i}"), run_id=f"r{i}") for i in range(6)]
    published: dict[str, RunSummary] = {}

    def run(i: int) -> None:
        published[f"r{i}"] = publish(str(root), prepared[i], run_id=f"r{i}", summary={"note": i})

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
    receipts = write(root, scored("a.jpg"))

    def fail(*args: Any) -> None:
        raise CommitFailedError("the store refuses")

    monkeypatch.setattr(commit, "_commit_transaction", fail)
    with pytest.raises(TableError, match="the store refuses") as caught:
        publish(str(root), receipts, run_id="r1")
    assert isinstance(caught.value.__cause__, DeltaError)


def test_of_two_runs_at_once_that_scored_one_image_one_publishes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other makes the table between our look and our commit."""
    receipts = {run: write(root, scored("a.jpg", run), run_id=run) for run in ("r1", "r2")}
    original = commit._commit_transaction

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(commit, "_commit_transaction", original)
        publish(str(root), receipts["r2"], run_id="r2")
        original(*arguments)

    monkeypatch.setattr(commit, "_commit_transaction", late)
    with pytest.raises(ConflictError, match="same images"):
        publish(str(root), receipts["r1"], run_id="r1")
    assert MapTable(str(root)).to_arrow(["run_id"])["run_id"].to_pylist() == ["r2"]


def test_a_full_disk_at_the_commit_is_told_with_its_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta's library raises an OSError without a number, with colours in its text."""
    receipts = write(root, scored("a.jpg"))

    def fail(*_: Any) -> None:
        raise OSError("Generic \x1b[31mLocalFileSystem\x1b[0m error\n  No space left on device (os error 28)")

    monkeypatch.setattr(commit, "_commit_transaction", fail)
    with pytest.raises(StorageError, match="the transaction cannot be written: No space left") as caught:
        publish(str(root), receipts, run_id="r1")
    assert "free space" in caught.value.remedy
    assert "the next run adopts them" in caught.value.why


def test_slow_rows_are_written_before_they_grow_old(root: Path) -> None:
    """Else hours of inference wait in memory for a crash."""
    now = iter([0.0, 59.0, 60.0, 100.0, 159.0])
    writer = PartWriter(str(root), "r1", MODEL, flush_seconds=60, clock=lambda: next(now))
    found = [writer.add(scored(f"{i}.jpg")) for i in range(5)]
    assert [receipt.rows if receipt else 0 for receipt in found] == [0, 0, 3, 0, 0]
