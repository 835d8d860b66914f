"""Files that change between listing and reading: what is stored is true of one moment; the next run sees the other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.sources.reader import Reader
from pipeline.sources.reference import ImageReference
from pipeline.storage.local import LocalFile
from tests.faults.collection import Images, Settle, rows_of


def _replaced(path: Path) -> None:
    path.write_bytes((path.parent / "05.jpg").read_bytes())


def _replaced_at_the_same_time(path: Path) -> None:
    """Another content of another size, the time of the old one."""
    before = path.stat().st_mtime_ns
    _replaced(path)
    os.utime(path, ns=(before, before))


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


_CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "01.jpg": ("replaced", _replaced, ""),
    "02.jpg": ("replaced, its time kept", _replaced_at_the_same_time, ""),
    "04.jpg": ("truncated", _truncated, "truncated"),
    "06.png": ("emptied", _emptied, "empty"),
    "07.jpg": ("removed", Path.unlink, "missing"),
    "08.jpg": ("replaced by a folder", _a_folder, "not-a-file"),
}
"""By the image that it befalls: what happens, and the reason that it is to get."""
_RESTLESS = "10.jpg"


def test_files_that_change_after_they_were_listed(
    images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    output, folder, listed = tmp_path / "maps", images.folder, images.listed()
    kept = {name: (folder / name).read_bytes() for name in _CHANGES}
    changed: list[str] = []
    real = Reader.read

    def read(self: Reader, reference: ImageReference) -> Any:
        name = Path(reference.uri).name
        if name in _CHANGES and name not in changed:
            changed.append(name)
            _CHANGES[name][1](folder / name)
        return real(self, reference)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", read)
        images.run(output)
    assert sorted(changed) == sorted(_CHANGES)
    rows = {row["uri"]: row for row in rows_of(output).to_pylist()}
    others = listed - {str(folder / name) for name in _CHANGES}
    for name, (what, _, reason) in _CHANGES.items():
        path = folder / name
        row = rows[str(path)]
        assert (row["reason"] or "") == reason
        if path.is_file():
            data = path.read_bytes()
            assert row["image_digest"] == hashlib.sha256(data).hexdigest(), "the digest is of what was read"
            assert row["image_version"] == f"{len(data)}-{path.stat().st_mtime_ns}", "and so is the version"
        outcome = f"rejected: {reason}" if reason else "the new content scored"
        settle(f"{what} between listing and reading", outcome, output, others | {str(path)})
    again = images.run(output).summary.images
    assert (again["keep"], again["absent"]) == (22, 2), "so that the next run has nothing to do"
    for name, data in kept.items():
        if (folder / name).is_dir():
            (folder / name).rmdir()
        images.write(name, data)
    images.run(output)
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    settle("changed between listing and reading, then as they were", "scored again", output, listed, undisturbed)


def test_a_file_that_never_stays_as_it_is(
    images: Images, tmp_path: Path, settle: Settle, monkeypatch: pytest.MonkeyPatch
):
    """It is written to whenever it is read: no map can be said to be of it."""
    output, victim = tmp_path / "maps", images.folder / _RESTLESS
    real = Reader._all

    def read(self: Reader, stream: Any, expected: int) -> bytes:
        data = real(self, stream, expected)
        if isinstance(stream, LocalFile) and data.startswith(head):
            with victim.open("ab") as file:
                file.write(b"\0")
        return data

    head = victim.read_bytes()[:300]
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_all", read)
        images.run(output)
    [row] = [row for row in rows_of(output).to_pylist() if row["uri"] == str(victim)]
    assert row["reason"] == "unreadable"
    settle("written to whenever it is read", "rejected: unreadable", output, images.listed())
    images.run(output)
    undisturbed = images.undisturbed(tmp_path / "undisturbed")
    settle("written to, then left alone", "scored", output, images.listed(), undisturbed)
