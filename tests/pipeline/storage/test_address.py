"""Addresses mean what the operating system means by them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.sources.reference import resolve
from pipeline.storage.address import absolute
from pipeline.table.paths import delta_location
from pipeline.table.reader import MapTable
from tests.support.maintained import publish_rows, scored


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`here/link` leads to `far/deep`, and is the way to things beside `deep`."""
    (tmp_path / "here").mkdir()
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to("../far/deep")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("link/../maps", "far/maps"),
        ("./link/.././maps/", "far/maps"),
        ("link/../../here/link/x", "here/link/x"),
        ("../here/link", "here/link"),
        ("link/x/../y", "here/link/y"),
        ("nowhere/../maps", "here/maps"),
        (".", "here"),
        ("", "here"),
    ],
)
def test_a_path_means_what_the_system_means(folder: Path, path: str, expected: str) -> None:
    assert absolute(path) == str(folder / expected)
    assert os.path.realpath(absolute(path)) == os.path.realpath(path)
    if path:
        assert resolve(path) == delta_location(path) == str(folder / expected)


def test_the_root_has_no_parent() -> None:
    assert absolute("/../..") == "/"
    assert absolute("//a//b/") == "/a/b"


def test_a_manifest_beside_what_a_link_leads_to(folder: Path) -> None:
    assert resolve("../a.jpg", str(folder / "here" / "link")) == str(folder / "far" / "a.jpg")


def test_a_table_is_written_and_read_through_a_link(folder: Path) -> None:
    publish_rows(Path("link/../maps"), [scored("a.jpg")])
    assert (folder / "far" / "maps" / "_delta_log").is_dir()
    assert [path.name for path in (folder / "here").iterdir()] == ["link"]
    assert len(MapTable("link/../maps")) == len(MapTable(folder / "far" / "maps")) == 1
