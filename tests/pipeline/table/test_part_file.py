"""Rows on their way into part files: held compactly, written in order, kept where a write fails."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStore
from pipeline.table import part_file
from pipeline.table.part_file import PartWriter
from tests.support.stored_rows import MODEL, rejected, scored


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "_CONDENSED_ROWS", 3)
    monkeypatch.setattr(part_file, "FLUSH_ROWS", 10)
    monkeypatch.setattr(part_file, "ROW_GROUP_BYTES", 4 * scored("00.jpg").size_bytes)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("condensed_bytes", [part_file._CONDENSED_BYTES, 0], ids=["small maps", "large maps"])
def test_a_part_has_a_most_of_rows_and_is_sorted_across_its_groups(
    condensed_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "_CONDENSED_BYTES", condensed_bytes)
    writer = PartWriter(str(tmp_path), "r1", MODEL)
    rows = [
        scored(f"{number * 7 % 10:02d}.jpg") if number % 3 else rejected(f"{number:02d}.png") for number in range(9)
    ]
    assert [writer.add(row) for row in rows] == [None] * 9
    receipt = writer.add(scored("tiled.jpg", tile=(1, 2)))
    assert receipt is not None
    assert (receipt.rows, receipt.scored, receipt.rejected) == (10, 6, 3)  # an image counts once, with its first tile
    file = pq.ParquetFile(tmp_path / receipt.path)
    assert file.num_row_groups > 1
    found = file.read(columns=["uri", "key"]).to_pydict()
    assert found["uri"] == sorted([*(row.uri for row in rows), "tiled.jpg"])
    assert dict(zip(found["uri"], found["key"], strict=True)).items() >= {row.uri: row.key for row in rows}.items()
    assert writer.flush() is None


@pytest.mark.usefixtures("few")
def test_maps_of_large_rows_are_not_gathered_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Arrow's `take` of lists copies 300 MB a second.
    monkeypatch.setattr(part_file, "_CONDENSED_BYTES", 0)
    writer = PartWriter(str(tmp_path), "r1", MODEL)
    for number in range(9):
        writer.add(scored(f"{number * 7 % 9}.jpg"))
    assert not writer._tables
    receipt = writer.flush()
    assert receipt is not None
    found = pq.read_table(tmp_path / receipt.path, columns=["uri"])["uri"].to_pylist()
    assert found == [f"{number}.jpg" for number in range(9)]


@pytest.mark.usefixtures("few")
def test_rows_are_still_held_where_a_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PartWriter(str(tmp_path), "r1", MODEL)
    for number in range(5):
        writer.add(scored(f"{number}.jpg"))

    def full(*_: object) -> None:
        raise StorageError("cannot be written: no space left", where="x")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "write_atomically", full)
        with pytest.raises(StorageError):
            writer.flush()
    receipt = writer.flush()
    assert receipt is not None
    assert (receipt.rows, receipt.scored) == (5, 5)
