"""Objects as files: on `obstore`'s store in memory; on a real server in tests/cluster."""

from __future__ import annotations

import io
from collections.abc import Iterator
from unittest import mock

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from pipeline.sources import Reader, globs, match
from pipeline.sources.reference import ImageReference
from pipeline.storage import object_store
from pipeline.storage.errors import MissingFileError, OutageError, StorageError, TooLargeError, UnavailableError
from pipeline.storage.factory import open_store
from pipeline.storage.object_store import ObjectStore


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    store = MemoryStore()
    with mock.patch.object(object_store.ObjectStore, "_bucket", return_value=store):
        yield store


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 50])
@pytest.mark.parametrize("name", ["a.jpg", "a b/ü#1%20?.jpg"])
def test_what_is_written_is_read(memory: MemoryStore, size: int, name: str):
    path, data = f"s3://bucket/{name}", bytes(range(size))
    open_store(path).write_atomically(path, data)
    assert open_store(path).read_bytes(path) == data
    facts = open_store(path).facts(path)
    assert facts is not None
    assert facts.size_bytes == size
    assert facts.version.startswith(f"{size}-")
    with open_store(path).open_stream(path) as stream:
        assert stream.read() == data
    assert open_store("s3://bucket/").list_files("s3://bucket/" + name.rpartition("/")[0]) == [path]
    if size:
        with pytest.raises(TooLargeError):
            open_store(path).read_bytes(path, max_bytes=size - 1)
    open_store(path).delete(path)
    open_store(path).delete(path)
    assert open_store(path).facts(path) is None
    with pytest.raises(MissingFileError):
        open_store(path).read_bytes(path)
    with pytest.raises(MissingFileError):
        open_store(path).open_stream(path)


def test_a_version_is_of_the_content(memory: MemoryStore):
    open_store("s3://bucket/a").write_atomically("s3://bucket/a", b"one")
    first = open_store("s3://bucket/a").facts("s3://bucket/a")
    open_store("s3://bucket/a").write_atomically("s3://bucket/a", b"two")
    assert open_store("s3://bucket/a").facts("s3://bucket/a") != first
    [entry] = open_store("s3://bucket/").list_entries("s3://bucket/")
    assert (entry.size_bytes, entry.version) == open_store("s3://bucket/a").facts("s3://bucket/a")


def test_nothing_is_stored_under_another_name(memory: MemoryStore):
    with mock.patch.object(obstore, "rename", side_effect=AssertionError):
        open_store("s3://bucket/maps/part-1.parquet").write_atomically("s3://bucket/maps/part-1.parquet", b"data")
    assert [about["path"] for chunk in obstore.list(memory) for about in chunk] == ["maps/part-1.parquet"]


def test_a_folder_is_its_own_files(memory: MemoryStore):
    for name in ("maps/b.json", "maps/a.json", "maps/deep/c.json", "maps2/d.json", "maps/.e.json"):
        open_store(f"s3://bucket/{name}").write_atomically(f"s3://bucket/{name}", b"1")
    assert open_store("s3://bucket/maps").list_files("s3://bucket/maps", ".json") == [
        "s3://bucket/maps/a.json",
        "s3://bucket/maps/b.json",
    ]
    entries = open_store("s3://bucket/maps/").list_entries("s3://bucket/maps/")
    assert [entry.path.rpartition("/")[2] for entry in entries] == [".e.json", "a.json", "b.json"]
    assert all(entry.modified > 0 for entry in entries)
    below = sorted(entry.path for entry in open_store("s3://bucket/").list_below("s3://bucket/maps/"))
    assert below == [f"s3://bucket/maps/{name}" for name in (".e.json", "a.json", "b.json", "deep/c.json")]
    assert open_store("s3://bucket/nothing").list_files("s3://bucket/nothing") == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 60)),
        st.tuples(st.just("seek"), st.integers(0, 60)),
        st.tuples(st.just("end"), st.integers(-60, 0)),
    ),
    max_size=12,
)


@given(st.binary(max_size=50), st.integers(1, 20), STEPS)
def test_an_object_is_read_as_a_file_is(data: bytes, buffer: int, steps: list[tuple[str, int]]):
    store = MemoryStore()
    obstore.put(store, "a", data)
    with (
        mock.patch.object(object_store.ObjectStore, "_bucket", return_value=store),
        mock.patch.object(object_store, "_BUFFER", buffer),
        open_store("s3://bucket/a").open_stream("s3://bucket/a") as stream,
    ):
        file = io.BytesIO(data)
        for step, number in steps:
            if step == "read":
                assert stream.read(number) == file.read(number)
            elif step == "seek":
                assert stream.seek(number) == file.seek(number)
            else:
                assert stream.seek(number, io.SEEK_END) == file.seek(max(number, -len(data)), io.SEEK_END)
            assert stream.tell() == file.tell()


def test_an_object_that_is_replaced_is_not_read_on(memory: MemoryStore):
    open_store("s3://bucket/a").write_atomically("s3://bucket/a", bytes(50))
    with (
        mock.patch.object(object_store, "_BUFFER", 8),
        open_store("s3://bucket/a").open_stream("s3://bucket/a") as stream,
    ):
        assert stream.read(4) == bytes(4)
        open_store("s3://bucket/a").write_atomically("s3://bucket/a", b"x" * 50)
        stream.seek(30)
        with pytest.raises(StorageError, match="s3://bucket/a: cannot be read: "):
            stream.read(4)


# Images


NAMES = ("2020/f1.jpg", "2020/deep/g.webp", "2020/.h.jpg", "2020b/i.jpg", "a.jpg", "notes.txt")


@pytest.fixture
def bucket(memory: MemoryStore) -> str:
    for size, name in enumerate(NAMES, start=1):
        obstore.put(memory, f"photos/{name}", bytes(size))
    return "s3://bucket/photos/"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["2020/deep/g.webp", "2020/f1.jpg", "2020b/i.jpg", "a.jpg"]),
        ("2020", ["2020/deep/g.webp", "2020/f1.jpg"]),
        ("2020*/*.jpg", ["2020/f1.jpg", "2020b/i.jpg"]),
        ("a.jpg", ["a.jpg"]),
        ("**/*.jpg", ["2020/f1.jpg", "2020b/i.jpg", "a.jpg"]),
    ],
)
def test_images_are_listed_with_size_and_version(bucket: str, pattern: str, expected: list[str]):
    globs.check(bucket + pattern)
    found = list(match(bucket + pattern))
    assert sorted(reference.uri.removeprefix(bucket) for reference in found) == expected
    for reference in found:
        assert open_store(reference.uri).facts(reference.uri) == (reference.size_bytes, reference.version)


class CutOff:
    """`obstore.list`, whose first answers are cut off after some entries."""

    def __init__(self, *entries: int) -> None:
        self._entries, self._list = list(entries), obstore.list
        self.offsets: list[str | None] = []

    def __call__(self, store: MemoryStore, prefix: str | None, *, offset: str | None, chunk_size: int):
        self.offsets.append(offset)
        found = sorted(
            (meta for chunk in self._list(store, prefix, chunk_size=chunk_size) for meta in chunk),
            key=lambda meta: meta["path"].encode(),
        )
        rest = [meta for meta in found if meta["path"].encode() > (offset or "").encode()]
        if not self._entries:
            yield rest
            return
        yield rest[: self._entries.pop(0)]
        raise GenericError("Generic S3 error: HTTP error: request or response body error")


KEYS = ("a/0.jpg", "a/b c#1.jpg", "a/b c%231.jpg", "a/b.jpg", "a/ü.jpg", "b.jpg", "é.jpg")


def test_a_listing_that_is_cut_off_goes_on_where_it_ended(memory: MemoryStore):
    for name in KEYS:
        obstore.put(memory, f"photos/{name}", b"1")
    waits: list[float] = []
    cut = CutOff(3, 3)
    with mock.patch.object(obstore, "list", cut):
        found = [entry.path for entry in ObjectStore(sleep=waits.append).list_below("s3://bucket/photos/")]
    assert found == [f"s3://bucket/photos/{name}" for name in KEYS]
    assert cut.offsets == [None, "photos/a/b", "photos/a/b.jpg"]
    assert waits == [0.1, 0.1]


def test_a_listing_that_makes_no_progress_ends(memory: MemoryStore):
    obstore.put(memory, "photos/a.jpg", b"1")
    waits: list[float] = []
    with (
        mock.patch.object(obstore, "list", side_effect=GenericError("error decoding response body")),
        mock.patch.object(obstore, "list_with_delimiter", side_effect=GenericError("error decoding response body")),
        mock.patch("time.monotonic", side_effect=range(0, 1000, 7)),
    ):
        store = ObjectStore(sleep=waits.append)
        with pytest.raises(OutageError, match="the store does not answer"):
            list(store.list_below("s3://bucket/photos/"))
        assert waits == [0.1, 0.2, 0.4, 0.8]
        with pytest.raises(OutageError):
            store.list_entries("s3://bucket/photos/")
        assert len(waits) == 8


def test_refused_credentials_are_not_waited_out(memory: MemoryStore):
    refused = GenericError("<Code>InvalidAccessKeyId</Code>")
    with mock.patch.object(obstore, "list", side_effect=refused), pytest.raises(UnavailableError, match="refused"):
        list(ObjectStore(sleep=mock.Mock(side_effect=AssertionError)).list_below("s3://bucket/photos/"))


def test_an_image_that_was_listed_takes_one_request(bucket: str):
    reference = next(match(bucket + "a.jpg"))
    with mock.patch.object(obstore, "head", side_effect=AssertionError), Reader() as reader:
        assert reader.read(reference) == (bytes(5), reference.version)


def test_a_store_that_cannot_be_used_is_no_images_fault(bucket: str):
    def fail(*_: object, **__: object) -> None:
        raise UnavailableError("cannot be read: the store does not answer", where="s3://bucket/photos/a.jpg")

    with (
        mock.patch.object(object_store.ObjectStore, "_bucket", fail),
        Reader() as reader,
        pytest.raises(UnavailableError),
    ):
        reader.read(ImageReference(f"{bucket}a.jpg", size_bytes=5))
