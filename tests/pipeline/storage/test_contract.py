"""What every Store does, whatever is behind it; object stores on a real server: tests/cluster."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipeline.storage.beam import BeamStore
from pipeline.storage.errors import MissingFileError, StorageError, TooLargeError
from pipeline.storage.factory import open_store
from pipeline.storage.local import LocalStore
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.store import Store
from tests.support.remote import FakeRemote


class StoreContract:
    """The contract; a subclass gives `store` and an empty `folder` in it."""

    def test_a_file_is_read_as_it_was_written(self, store: Store, folder: str):
        path = f"{folder}/a b/ü #1.jpg"
        for data in (b"first", b"second, longer", b""):
            store.write_atomically(path, data)
            facts = store.facts(path)
            assert facts is not None
            assert facts.size_bytes == len(data)
            assert store.read_bytes(path) == data
            with store.open_stream(path) as stream, store.reading(path):
                assert stream.read() == data
        assert store.list_files(f"{folder}/a b") == [path]

    def test_a_stream_is_read_at_any_position(self, store: Store, folder: str):
        data = gzip.compress(b"0123456789")
        store.write_atomically(f"{folder}/a.gz", data)
        with store.open_stream(f"{folder}/a.gz") as stream:
            stream.seek(5)
            assert stream.read(3) == data[5:8], "nothing is decompressed"
            stream.seek(0)
            assert stream.read() == data

    def test_a_file_that_is_not_there(self, store: Store, folder: str):
        path = f"{folder}/none"
        assert store.facts(path) is None
        store.delete(path)
        for read in (store.read_bytes, store.open_stream):
            with pytest.raises(MissingFileError) as caught:
                read(path)
            assert caught.value.where == path
        assert store.list_files(path) == []
        assert store.list_entries(path) == []

    def test_a_file_that_is_deleted_is_gone(self, store: Store, folder: str):
        store.write_atomically(f"{folder}/a", b"1")
        store.delete(f"{folder}/a")
        store.delete(f"{folder}/a")
        assert store.facts(f"{folder}/a") is None
        assert store.list_entries(folder) == []

    def test_reading_stops_at_the_limit(self, store: Store, folder: str):
        store.write_atomically(f"{folder}/a", b"12345")
        assert store.read_bytes(f"{folder}/a", 5) == b"12345"
        with pytest.raises(TooLargeError, match="larger than 4 bytes"):
            store.read_bytes(f"{folder}/a", 4)

    def test_a_folder_is_listed_sorted_and_without_its_subfolders(self, store: Store, folder: str):
        for name in ("b.json", "a.json", ".c.json", "d.txt", "deep/e.json"):
            store.write_atomically(f"{folder}/{name}", b"1")
        assert store.list_files(folder, ".json") == [f"{folder}/a.json", f"{folder}/b.json"]
        entries = store.list_entries(folder)
        assert [entry.path for entry in entries] == [f"{folder}/{n}" for n in (".c.json", "a.json", "b.json", "d.txt")]
        for entry in entries:
            assert (entry.size_bytes, entry.version) == store.facts(entry.path)

    def test_all_below_a_folder_is_listed(self, store: Store, folder: str):
        names = ["a.jpg", "deep/b.jpg", "deep/deeper/c.jpg"]
        for name in names:
            store.write_atomically(f"{folder}/{name}", b"1")
        below = {entry.path for entry in store.list_below(f"{folder}/")}
        assert below == {f"{folder}/{name}" for name in names}

    def test_an_error_of_a_library_is_explained(self, store: Store, folder: str):
        error = store.explain(OSError("it is broken"), f"{folder}/a", "cannot be read", "the table is as it was")
        assert isinstance(error, StorageError)
        assert error.where == f"{folder}/a"
        assert error.why == "the table is as it was"
        assert "cannot be read" in error.what
        assert "it is broken" in error.what
        assert error.remedy


class SwapContract:
    """Compare-and-swap, of stores that have conditional writes."""

    def test_a_file_is_written_only_over_what_was_seen(self, store: Store, folder: str):
        path = f"{folder}/lease.json"
        assert store.read_state(path) is None
        first = store.swap(path, b"1", None)
        assert first is not None
        assert store.swap(path, b"2", None) is None, "there is one now"
        second = store.swap(path, b"2", first)
        assert second is not None
        assert store.swap(path, b"3", first) is None, "it is another now"
        present = store.read_state(path)
        assert present is not None
        assert (present.data, present.version) == (b"2", second.version)
        assert 0 <= store.now(path) - present.modified < 600

    def test_of_many_writers_one_wins(self, store: Store, folder: str):
        barrier, wins = threading.Barrier(8), []

        def contend(number: int) -> None:
            barrier.wait()
            wins.append(store.swap(f"{folder}/lease.json", b"%d" % number, None))

        threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([win for win in wins if win is not None]) == 1


class TestLocal(StoreContract, SwapContract):
    @pytest.fixture
    def store(self) -> Store:
        return LocalStore()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        return str(tmp_path / "folder")


class TestObjects(StoreContract, SwapContract):
    @pytest.fixture
    def store(self) -> Store:
        memory = MemoryStore()
        return ObjectStore(bucket_store=lambda *_: memory)

    @pytest.fixture
    def folder(self) -> str:
        return "s3://bucket/folder"


class TestBeam(StoreContract):
    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setattr(FakeRemote, "files", {})
        return BeamStore()

    @pytest.fixture
    def folder(self) -> str:
        return "fakeremote://bucket/folder"

    def test_it_has_no_conditional_writes(self, store: Store, folder: str):
        for call in (store.read_state, store.now, lambda path: store.swap(path, b"", None)):
            with pytest.raises(StorageError, match="conditional writes"):
                call(f"{folder}/lease.json")


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("photos/a.jpg", LocalStore),
        ("file:///photos/a.jpg", LocalStore),
        ("s3://bucket/a.jpg", ObjectStore),
        ("abfs://maps@account.dfs.core.windows.net/x", ObjectStore),
        ("hdfs://host/a.jpg", BeamStore),
    ],
)
def test_the_address_says_which_store_it_is_in(address: str, kind: type):
    assert type(open_store(address)) is kind
