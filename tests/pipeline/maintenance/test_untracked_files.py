"""What lies in a table's folder, as the file systems tell it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.io.filesystem import FileMetadata

from pipeline.maintenance.current_table import current_table
from pipeline.maintenance.untracked_files import Kind, leftovers, list_table
from pipeline.storage import beam
from pipeline.storage.errors import StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.store import Entry
from tests.support.maintained import publish_rows, scored

HEX = "0" * 32


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, float]]:
    """Size and time of remote files, behind as much of Beam's `FileSystems` as is needed."""
    files: dict[str, tuple[int, float]] = {}

    def match(patterns: list[str]) -> list[SimpleNamespace]:
        [folder] = [pattern.removesuffix("*") for pattern in patterns]
        found = [
            FileMetadata(path, size, changed)
            for path, (size, changed) in files.items()
            if path.startswith(folder) and "/" not in path.removeprefix(folder)
        ]
        return [SimpleNamespace(metadata_list=found)]

    def delete(paths: list[str]) -> None:
        for path in paths:
            del files[path]

    fake = SimpleNamespace(match=match, delete=delete, exists=files.__contains__)
    monkeypatch.setattr(beam, "FileSystems", fake)
    return files


def test_remote_folders_are_listed_with_times(remote: dict[str, tuple[int, float]]) -> None:
    remote["fake://b/maps/part-x.parquet"] = (7, 1000.5)
    remote["fake://b/maps/_densecast/runs/.r.json.partial"] = (3, 0.0)
    remote["fake://b/maps/_delta_log/0.json"] = (5, 1.0)
    assert open_store("fake://b/maps").list_entries("fake://b/maps") == [
        Entry("fake://b/maps/part-x.parquet", 7, 1000.5, "7-1000500000000")
    ]
    assert list_table("fake://b/maps/") == [
        Entry("part-x.parquet", 7, 1000.5, "7-1000500000000"),
        Entry("_densecast/runs/.r.json.partial", 3, 0.0),
    ]
    open_store("fake://b/maps/part-x.parquet").delete("fake://b/maps/part-x.parquet")
    open_store("fake://b/maps/part-x.parquet").delete("fake://b/maps/part-x.parquet")
    assert open_store("fake://b/maps").list_entries("fake://b/maps") == []


def test_local_folders_are_listed_with_hidden_files_and_without_links(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").write_bytes(b"12")
    (tmp_path / "é x").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "é x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    found = open_store(str(tmp_path)).list_entries(str(tmp_path))
    assert [(Path(entry.path).name, entry.size_bytes) for entry in found] == [(".hidden", 2), ("é x", 3)]
    assert found[0].modified == (tmp_path / ".hidden").stat().st_mtime
    assert open_store(str(tmp_path / "nothing")).list_entries(str(tmp_path / "nothing")) == []
    open_store(str(tmp_path / ".hidden")).delete(str(tmp_path / ".hidden"))
    open_store(str(tmp_path / ".hidden")).delete(str(tmp_path / ".hidden"))
    assert len(open_store(str(tmp_path)).list_entries(str(tmp_path))) == 1


def test_a_file_that_cannot_be_deleted_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be deleted"):
        open_store(str(tmp_path / "folder")).delete(str(tmp_path / "folder"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (f"part-20260102-a-b-{HEX}.parquet", Kind.ORPHAN),
        (f"part-compaction-{HEX}-00012.parquet", Kind.ORPHAN),
        (f".part-dead-{HEX}.parquet.{HEX}.partial", Kind.PARTIAL),
        (f".anything.{HEX}.partial", Kind.PARTIAL),
        (f"_densecast/runs/.r1.json.{HEX}.partial", Kind.PARTIAL),
        ("_densecast/runs/r1.json", None),
        ("_densecast/models/whatever", None),
        (f"part-r1-{HEX[:31]}.parquet", Kind.FOREIGN),
        (f"part-r1-{HEX[:31]}G.parquet", Kind.FOREIGN),
        (f"part-r1-{HEX}.parquet.bak", Kind.FOREIGN),
        (f"part-{HEX}.parquet", Kind.FOREIGN),
        (f"{HEX}.partial", Kind.FOREIGN),
        (".partial", Kind.FOREIGN),
    ],
)
def test_whose_a_file_is(tmp_path: Path, path: str, kind: Kind | None) -> None:
    root = tmp_path / "maps"
    publish_rows(root, [scored("a.jpg")])
    found = leftovers([*list_table(str(root)), Entry(path, 5, 77.0)], current_table(str(root)))
    assert [(file.path, file.kind, file.since) for file in found] == ([(path, kind, 77.0)] if kind else [])
