"""Reading files: what is there, whole, or why not; and containers by many threads at once."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.rejection import Reason, Rejected
from pipeline.sources import Fetched, ImageReference, Reader, match, streamed
from pipeline.sources import reader as opening_module
from pipeline.sources.streams import FileStream, Unpacked
from pipeline.storage.factory import open_store
from pipeline.storage.local import LocalFile
from tests.support.listing import fate, members
from tests.support.remote import FakeRemote


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def reader(waits: list[float]):
    with Reader(100, sleep=waits.append) as opened:
        yield opened


def written(path: Path, data: bytes) -> ImageReference:
    path.write_bytes(data)
    return next(match(str(path)))


def test_a_file(tmp_path: Path, reader: Reader) -> None:
    reference = written(tmp_path / "a.jpg", b"1")
    assert reader.read(reference) == Fetched(b"1", reference.version)
    assert reader.probe(reference, "") == reference.version
    assert reader.read(ImageReference(reference.uri)) == Fetched(b"1", reference.version)
    assert reader.read(written(tmp_path / "empty.jpg", b"")).data == b""


def test_a_file_that_changed_since_it_was_listed_is_read_as_it_is(tmp_path: Path, reader: Reader) -> None:
    before = written(tmp_path / "a.jpg", b"1")
    now = written(tmp_path / "a.jpg", b"22")
    assert reader.read(before) == Fetched(b"22", now.version)
    assert reader.probe(before, before.version) == now.version != before.version


def test_what_cannot_be_read(tmp_path: Path, reader: Reader) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nope")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "a.jpg").write_bytes(bytes(101))
    for name, reason in {
        "nope.jpg": "missing",
        "link.jpg": "missing",
        "loop.jpg": "unreadable",
        "a.jpg": "too-many-bytes",
        "a.jpg/b.jpg": "unreadable",
        "pipe.jpg": "not-a-file",
        ".": "not-a-file",
        "../../../../../../../../../../dev/zero": "not-a-file",
        "x" * 300: "unreadable",
    }.items():
        assert fate(reader, ImageReference(str(tmp_path / name))) == reason, name
        if reason != "too-many-bytes":
            assert reader.probe(ImageReference(str(tmp_path / name)), "") == ""


def test_a_fault_found_while_listing_is_the_fate(reader: Reader) -> None:
    fault = Rejected(Reason.UNSAFE_NAME, "its name: leads out")
    with pytest.raises(Rejected) as caught:
        reader.read(ImageReference("/nowhere.tar#..", fault=str(fault)))
    assert caught.value.args == fault.args


def changing(monkeypatch: pytest.MonkeyPatch, path: Path, contents: list[bytes]) -> None:
    """Whenever the file has been read, somebody writes the next content."""
    read = LocalFile.read

    def then_change(self: LocalFile, size: int) -> bytes:
        data = read(self, size)
        if contents:
            path.write_bytes(contents.pop(0))
        return data

    monkeypatch.setattr(LocalFile, "read", then_change)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, reader: Reader, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = written(tmp_path / "a.jpg", b"1")
    changing(monkeypatch, tmp_path / "a.jpg", [b"22", b"333"])
    fetched = reader.read(reference)
    assert fetched == Fetched(b"333", next(match(reference.uri)).version)
    assert waits == [0.05, 0.1]


def test_a_file_that_never_stays_is_rejected(
    tmp_path: Path, reader: Reader, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = written(tmp_path / "a.jpg", b"1")
    changing(monkeypatch, tmp_path / "a.jpg", [bytes(size) for size in range(2, 20)])
    with pytest.raises(Rejected, match="unreadable: it changed during each of 4 reads"):
        reader.read(reference)
    assert len(waits) == 3


# Remote files


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[FakeRemote]:
    monkeypatch.setattr(FakeRemote, "files", {"fakeremote://b/a.jpg": b"12"})
    return FakeRemote


def test_a_remote_file(store: type[FakeRemote], reader: Reader) -> None:
    reference = ImageReference("fakeremote://b/a.jpg", size_bytes=2, version="2-5")
    assert reader.read(reference) == Fetched(b"12", "2-5")
    assert reader.read(reference._replace(size_bytes=-1, version="")) == Fetched(b"12", "")
    assert fate(reader, ImageReference("fakeremote://b/nope.jpg")) == "missing"
    assert fate(reader, ImageReference("fakeremote://b/a.jpg", size_bytes=101)) == "too-many-bytes"
    assert fate(reader, ImageReference("nosuch://b/a.jpg")) == "unreadable"
    store.files["fakeremote://b/large.jpg"] = bytes(101)
    assert fate(reader, ImageReference("fakeremote://b/large.jpg")) == "too-many-bytes"


@pytest.mark.parametrize("stays", [True, False])
def test_a_large_remote_file_that_is_replaced_while_it_is_read(
    store: type[FakeRemote], reader: Reader, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    sizes = iter([3, 4, 5] if stays else range(3, 90))

    def opened(self: FakeRemote, path: str, *_: object, **__: object) -> io.BytesIO:
        data = self.files[path]
        self.files[path] = bytes(next(sizes, 5))
        return io.BytesIO(data)

    monkeypatch.setattr(store, "open", opened)
    monkeypatch.setattr(opening_module, "_ONE_REQUEST", 0)
    reference = ImageReference("fakeremote://b/a.jpg", size_bytes=2, version="2-5")
    if stays:
        assert reader.read(reference) == Fetched(bytes(5), "")
    else:
        assert fate(reader, reference) == "unreadable"


# Containers


def shard(path: Path, images: dict[str, bytes]) -> Path:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in images.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(file.getvalue()) if path.suffix == ".tgz" else file.getvalue())
    return path


IMAGES = {f"{number}.jpg": bytes([number]) * (number + 1) for number in range(40)}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_an_archive_that_was_replaced_after_it_was_listed(tmp_path: Path, reader: Reader, name: str) -> None:
    path = shard(tmp_path / name, IMAGES)
    old = members(path)
    shard(path, {"other.jpg": b"x", **IMAGES})
    with pytest.raises(Rejected, match="unreadable: the archive changed after it was listed"):
        reader.read(old[3])
    new = members(path)
    assert reader.read(new[0]).data == b"x"
    path.unlink()
    with Reader(100) as another:
        assert fate(another, new[0]) == "missing"


def test_an_archive_that_is_overwritten_while_it_is_open(tmp_path: Path, reader: Reader) -> None:
    path = shard(tmp_path / "a.tar", IMAGES)
    old = members(path)
    assert reader.read(old[0]).data == IMAGES["0.jpg"]
    shard(path, {"other.jpg": b"x", **IMAGES})
    assert fate(reader, old[1]) == "unreadable"
    assert reader.read(members(path)[0]).data == b"x"


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_many_threads_and_few_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    references = [
        reference for folder in range(4) for reference in members(shard(tmp_path / f"{folder}{name}", IMAGES))
    ]
    handles: set[FileStream] = set()
    most = 0
    close, start = FileStream.close, FileStream.__init__

    def opened(self: FileStream, *arguments: Any) -> None:
        nonlocal most
        start(self, *arguments)
        handles.add(self)
        most = max(most, len(handles))

    def closed(self: FileStream) -> None:
        close(self)
        handles.discard(self)

    monkeypatch.setattr(FileStream, "__init__", opened)
    monkeypatch.setattr(FileStream, "close", closed)
    found: dict[str, bytes | str] = {}
    with Reader(100, max_open=2) as reader:
        todo = iter(references[::3] + references[1::3] + references[2::3])
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    reference = next(todo, None)
                if reference is None:
                    return
                found[reference.uri] = fate(reader, reference)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {reference.uri: IMAGES[reference.uri.partition("#")[2]] for reference in references}
    assert not handles, "all are closed with the reader"
    assert most <= 2 + 4, "those that are kept, and one that a thread opens while another is closed"


def test_what_is_read_in_order_is_inflated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = members(shard(tmp_path / "a.tgz", IMAGES))
    starts = []
    start_over = Unpacked._start_over

    def counted(self: Unpacked) -> None:
        starts.append(self)
        start_over(self)

    monkeypatch.setattr(Unpacked, "_start_over", counted)
    with Reader(100) as reader:
        for index in (1, 0, 3, 2, 5, 4, *range(6, 40)):
            assert reader.read(references[index]).data == IMAGES[f"{index}.jpg"]
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("container", "kind", "expected"),
    [("a.tar", "tar", False), ("a.tar.gz", "tar", True), ("a.zip", "zip", False), ("a.tfrecord.gz", "tfrecord", True)],
)
def test_which_containers_are_streamed(container: str, kind: str, expected: bool) -> None:
    assert streamed(ImageReference(f"{container}#x", container=container, kind=kind)) is expected


def test_a_container_in_a_store(store: type[FakeRemote], tmp_path: Path, reader: Reader) -> None:
    for name in ("a.tar", "a.tgz"):
        store.files[f"fakeremote://b/{name}"] = shard(tmp_path / name, IMAGES).read_bytes()
        found = list(match(f"fakeremote://b/{name}"))
        assert [reader.read(reference).data for reference in found] == list(IMAGES.values())
    assert {reference.container for reference in match("fakeremote://b/*.t[ag]*")} == {
        "fakeremote://b/a.tar", "fakeremote://b/a.tgz",
    }  # fmt: skip


def test_a_disk_that_fails(tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    found = members(shard(tmp_path / "a.tar", IMAGES))

    def fail(self: FileStream | LocalFile, size: int | None = -1) -> bytes:
        with open_store(self.path).reading(self.path):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(FileStream, "read", fail)
    monkeypatch.setattr(LocalFile, "read", fail)
    assert fate(reader, found[0]) == "unreadable"
    assert fate(reader, written(tmp_path / "b.jpg", b"1")) == "unreadable"
    assert [reference.fault for reference in members(tmp_path / "a.tar")] == [
        "unreadable: cannot be read: Input/output error"
    ]
    monkeypatch.undo()
    assert reader.read(found[0]).data == IMAGES["0.jpg"], "the next attempt opens it anew"


def parquet(path: Path) -> Path:
    pq.write_table(pa.table({"image": list(IMAGES.values())}), path)
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in IMAGES.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(("name", "write"), [("a.parquet", parquet), ("a.zip", zipped)])
def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], Path]
) -> None:
    found = members(write(tmp_path / name))
    assert reader.read(found[2]).data == IMAGES["2.jpg"]
    read = FileStream.read

    def fail(self: FileStream, size: int | None = -1) -> bytes:
        with open_store(self.path).reading(self.path):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(FileStream, "read", fail)
    with Reader(100) as another:
        assert fate(another, found[2]) == "unreadable"
    assert [reference.fault for reference in members(tmp_path / name)] == [
        "unreadable: cannot be read: Input/output error"
    ]
    monkeypatch.setattr(FileStream, "read", read)
    with Reader(100) as another:
        assert another.read(found[2]).data == IMAGES["2.jpg"]
