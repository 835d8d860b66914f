import errno
import gzip
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.io.filesystem import FileMetadata

from pipeline.storage import beam
from pipeline.storage.address import join, local_path
from pipeline.storage.errors import MissingFileError, NotAFileError, StorageError, TooLargeError
from pipeline.storage.factory import open_store
from pipeline.storage.local import LocalFile, LocalStore
from tests.support.remote import FakeRemote


def size_of(path: str) -> int | None:
    facts = open_store(path).facts(path)
    return facts.size_bytes if facts else None


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> type[FakeRemote]:
    monkeypatch.setattr(FakeRemote, "files", {})
    monkeypatch.setattr(FakeRemote, "rename_does", "work")
    return FakeRemote


def test_what_is_written_is_read_and_no_partial_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "part.parquet"
    open_store(str(path)).write_atomically(str(path), b"first")
    open_store(str(path)).write_atomically(str(path), b"second, longer")
    assert open_store(str(path)).read_bytes(str(path)) == b"second, longer"
    assert [entry.name for entry in path.parent.iterdir()] == ["part.parquet"]


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fails, fail)
    with pytest.raises(StorageError, match="free space") as caught:
        open_store(str(path)).write_atomically(str(path), b"new")
    assert caught.value.where == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.json"]


def test_an_interrupted_write_leaves_no_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_store(str(tmp_path / "x")).write_atomically(str(tmp_path / "x"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_the_partial_file_lies_beside_its_target_under_a_hidden_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def look(self: Path, target: Path) -> None:
        seen.append(self)

    monkeypatch.setattr(Path, "replace", look)
    for _ in range(2):
        open_store(str(tmp_path / "x.json")).write_atomically(str(tmp_path / "x.json"), b"data")
    assert all(p.parent == tmp_path and p.name.startswith(".") and p.name.endswith(".partial") for p in seen)
    assert len(set(seen)) == 2


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"is a file where a folder is needed|File exists"):
        open_store(str(tmp_path / "file" / "x")).write_atomically(str(tmp_path / "file" / "x"), b"data")


@pytest.mark.parametrize("path", ["s3x://bucket/x", "photos/nul\0.jpg"])
def test_a_path_that_nothing_can_hold_is_told(path: str) -> None:
    with pytest.raises(StorageError, match="what to do"):
        open_store(path).read_bytes(path)


def test_compressed_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "images.tar.gz"
    path.write_bytes(gzip.compress(b"content"))
    assert gzip.decompress(open_store(str(path)).read_bytes(str(path))) == b"content"


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert open_store(str(path)).read_bytes(str(path), 5) == b"12345"
    with pytest.raises(TooLargeError, match="larger than 4 bytes"):
        open_store(str(path)).read_bytes(str(path), 4)
    with pytest.raises(TooLargeError):
        open_store("/dev/zero").read_bytes("/dev/zero", 1000)


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        open_store(str(tmp_path / "x")).read_bytes(str(tmp_path / "x"))
    with pytest.raises(StorageError, match="is a folder"):
        open_store(str(tmp_path)).read_bytes(str(tmp_path))
    assert size_of(str(tmp_path / "x")) is None
    assert size_of(str(tmp_path)) is None


def test_file_uris_are_local(tmp_path: Path) -> None:
    path = tmp_path / "a cat #1?.jpg"
    open_store(path.as_uri()).write_atomically(path.as_uri(), b"data")
    assert path.read_bytes() == b"data"
    assert open_store(path.as_uri()).read_bytes(path.as_uri()) == b"data"
    assert local_path(f"file://localhost{tmp_path}") == tmp_path
    assert size_of(path.as_uri()) == 4
    with pytest.raises(StorageError, match="names the host 'server'"):
        local_path("file://server/share")
    with pytest.raises(StorageError, match="a local path is needed"):
        local_path("s3://bucket/x")


def test_listing_leaves_out_partial_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", ".c.json", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "e.json").mkdir()
    assert open_store(str(tmp_path)).list_files(str(tmp_path), ".json") == [
        str(tmp_path / "a.json"),
        str(tmp_path / "b.json"),
    ]
    assert open_store(str(tmp_path / "none")).list_files(str(tmp_path / "none")) == []


def test_a_remote_file_is_written_under_another_name_and_renamed(remote: type[FakeRemote]) -> None:
    root = "fakeremote://bucket/maps/"
    path = join(root, "_densecast", "runs", "r.json")
    assert path == "fakeremote://bucket/maps/_densecast/runs/r.json"
    open_store(path).write_atomically(path, b"data")
    assert remote.files == {path: b"data"}
    assert size_of(path) == 4
    assert open_store(path).read_bytes(path) == b"data"
    assert open_store("fakeremote://bucket/maps/_densecast/runs").list_files(
        "fakeremote://bucket/maps/_densecast/runs", ".json"
    ) == [path]


@pytest.mark.parametrize("outcome", ["raise", "swallow"])
@pytest.mark.parametrize("old", [None, b"olde"])
def test_a_failed_remote_rename_is_never_swallowed(
    remote: type[FakeRemote], monkeypatch: pytest.MonkeyPatch, outcome: str, old: bytes | None
) -> None:
    path = "fakeremote://bucket/x"
    if old is not None:
        remote.files[path] = old
    monkeypatch.setattr(remote, "rename_does", outcome)
    with pytest.raises(StorageError, match="what to do"):
        open_store(path).write_atomically(path, b"data")
    assert remote.files == ({} if old is None else {path: old}), "the partial is removed, the old file is not"


def test_a_missing_remote_file_is_told(remote: type[FakeRemote]) -> None:
    with pytest.raises(MissingFileError):
        open_store("fakeremote://bucket/x").read_bytes("fakeremote://bucket/x")
    assert size_of("fakeremote://bucket/x") is None
    assert open_store("fakeremote://bucket/none").list_files("fakeremote://bucket/none") == []


def test_errors_of_client_libraries_become_ours(remote: type[FakeRemote], monkeypatch: pytest.MonkeyPatch) -> None:
    class HdfsError(Exception):
        """As the library has it: no OSError."""

    def fail(self: FakeRemote, path: str, *args: object, **options: object) -> None:
        raise HdfsError("denied")

    monkeypatch.setitem(sys.modules, "hdfs.util", SimpleNamespace(HdfsError=HdfsError))
    monkeypatch.setattr(remote, "open", fail)
    with pytest.raises(StorageError, match=r"(?s)denied.*credentials"):
        open_store("fakeremote://bucket/x").read_bytes("fakeremote://bucket/x")


def test_facts_of_files(remote: type[FakeRemote], tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12")
    os.utime(file, ns=(1, 2_000_000_001))
    assert open_store(str(file)).facts(str(file)) == (2, "2-2000000001")
    for name in ("nope", "a/b", "."):
        assert open_store(str(tmp_path / name)).facts(str(tmp_path / name)) is None
    remote.files["fakeremote://b/a"] = b"123"
    assert open_store("fakeremote://b/a").facts("fakeremote://b/a") == (3, ""), "it keeps no time"
    assert open_store("fakeremote://b/nope").facts("fakeremote://b/nope") is None
    assert beam._facts(FileMetadata("a", 3, 1.5)) == (3, "3-1500000000")


def test_streams(remote: type[FakeRemote], tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"12"))
    remote.files["fakeremote://b/a.gz"] = gzip.compress(b"12")
    for path in (str(tmp_path / "a.gz"), "fakeremote://b/a.gz"):
        with open_store(path).open_stream(path) as file:
            file.seek(1)
            assert file.read(1) == b"\x8b", "nothing is unpacked"
        with pytest.raises(MissingFileError):
            open_store(path).open_stream(path + "x")


def test_no_stream_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(NotAFileError):
            open_store(str(path)).open_stream(str(path))


def test_errors_while_a_stream_is_read_are_typed() -> None:
    with pytest.raises(StorageError, match="a/b: cannot be read: Input/output error"), open_store("a/b").reading("a/b"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_files_of_the_kernel_are_not_opened(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists(path):  # noqa: PTH110
        pytest.skip("no such file here")
    (tmp_path / "a.jpg").write_bytes(b"12")
    with LocalFile(str(tmp_path / "a.jpg")) as file:  # on another device, which counts as a disk from now on
        assert (file.read(9), file.facts_now()) == (b"12", file.facts)
    monkeypatch.setattr("pipeline.storage.local._without_waiting", None)  # would fail at an attempt to open
    for opened in (LocalStore().open_stream, LocalFile):
        with pytest.raises(NotAFileError, match="a file of the kernel"):
            opened(path)


def test_a_device_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.local._without_waiting", None)
    for opened in (LocalStore().open_stream, LocalFile):
        with pytest.raises(NotAFileError, match="a pipe or a device"):
            opened("/dev/zero")


def test_the_path_of_a_second_image_of_a_disk_is_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"1")
    with LocalFile(str(tmp_path / "a")):
        pass
    monkeypatch.setattr(os.path, "realpath", None)
    with LocalFile(f"file://{tmp_path}/b") as file:
        assert file.read(2) == b"1"
