"""Files are hashed once a process, ahead of their use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from conversion import hash_ahead, hashing
from conversion.hashing import ChangedFileError, file_sha256


@pytest.fixture(autouse=True)
def nothing_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_hashed", {})


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 3500])
def test_the_digest_does_not_depend_on_the_pieces(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashing, "_PIECE", 1000)
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_folder_is_hashed_ahead_if_it_is_a_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    class Thread:
        def __init__(self, target: object, **_: object) -> None:
            self.start = target
            started.append(1)

    monkeypatch.setattr("threading.Thread", Thread)
    (tmp_path / "model" / "variables").mkdir(parents=True)
    files = [tmp_path / "model" / "graph", tmp_path / "model" / "variables" / "weights"]
    for file in files:
        file.write_bytes(file.name.encode())
    (tmp_path / "model" / "dangling").symlink_to(tmp_path / "nowhere")
    hash_ahead(str(tmp_path / "model"), "description")
    assert not started
    (tmp_path / "model" / "description").write_text("{}")
    hash_ahead(str(tmp_path / "model"), "description")
    assert started
    digests = [hashlib.sha256(file.name.encode()).hexdigest() for file in files]
    assert set(digests) < set(hashing._hashed.values())
    monkeypatch.setattr("hashlib.sha256", None)  # nothing is hashed again
    assert [file_sha256(file) for file in files] == digests


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_bytes(b"before")

    class Sha256:
        def update(self, _: memoryview) -> None:
            file.write_bytes(b"after it")

        def hexdigest(self) -> str:
            raise AssertionError

    monkeypatch.setattr("hashlib.sha256", Sha256)
    with pytest.raises(ChangedFileError):
        file_sha256(file)
    assert not hashing._hashed


def test_a_missing_file_is_the_systems_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "missing")
