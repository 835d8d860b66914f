"""Addresses relative to a root: a collection that is moved is not scored again."""

from __future__ import annotations

import functools
import tarfile
from pathlib import Path

import apache_beam as beam
import pytest
from PIL import Image
from rich.console import Console

from pipeline import MapTable, ScoreImages
from pipeline.errors import TableError
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.runners.options import SharedViews
from pipeline.runners.registry import open_runner
from pipeline.sources import Reader, locate
from pipeline.tools.show import Picture, show
from pipeline.transforms.list_images import ListImages
from tests.support.fakes import FakeEngine, write_model


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.jobs.submit.ScoreImages", functools.partial(ScoreImages, open_engine=FakeEngine))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images in folders, and one in an archive."""
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    for number, name in enumerate(("a.png", "cats/b.png", "c.png")):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / name)
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(folder / "c.png", "c.png")
    (folder / "c.png").unlink()
    return folder


def score(tmp_path: Path, *images: Path, **settings: object) -> JobResult:
    model = tmp_path / "model"
    arguments = [str(path) for path in images]
    return run_job(
        describe_job(
            model=str(model if model.exists() else write_model(model)),
            images=arguments,
            output=str(tmp_path / "maps"),
            **settings,
        )
    )


def uris(tmp_path: Path) -> list[str]:
    return sorted(MapTable(tmp_path / "maps").to_arrow(["uri"])["uri"].to_pylist())


def test_a_collection_that_is_moved_is_not_scored_again(tmp_path: Path, photos: Path):
    first = score(tmp_path, photos, photos / "x.tar", root=str(photos))
    assert (first.summary.scored, first.outside_root) == (3, 0)
    assert uris(tmp_path) == ["a.png", "cats/b.png", "x.tar#c.png"]
    moved = photos.rename(tmp_path / "elsewhere")
    second = score(tmp_path, moved, moved / "x.tar", root=f"{moved}/")
    assert (second.summary.scored, second.summary.images["keep"]) == (0, 3)
    assert uris(tmp_path) == ["a.png", "cats/b.png", "x.tar#c.png"]
    table = MapTable(tmp_path / "maps")
    assert table.image_root == str(moved)
    with Reader() as reader:
        assert all(reader.read(locate(uri, root=table.image_root)).data for uri in uris(tmp_path))
    assert table.read(str(moved / "cats" / "b.png")).uri == table.read("cats/b.png").uri == "cats/b.png"
    assert check(str(tmp_path / "maps")).clean


def test_show_finds_the_image_below_the_root_that_is_named(tmp_path: Path, photos: Path):
    score(tmp_path, photos, root=str(photos))
    moved = photos.rename(tmp_path / "elsewhere")

    def shown(**root: str) -> str:
        console = Console(width=300)
        with console.capture() as capture:
            picture = Picture(path=tmp_path / "b-map.png")
            console.print(show(str(tmp_path / "maps"), "cats/b.png", picture, **root).renderable)
        return capture.get()

    assert "can no longer be read" in shown()
    assert "b-map.png" in shown(root=str(moved))


def test_a_file_outside_the_root_keeps_its_address_and_is_counted(tmp_path: Path, photos: Path):
    result = score(tmp_path, photos, root=str(photos / "cats"))
    assert result.outside_root == 1
    assert uris(tmp_path) == [f"{photos}/a.png", "cats/b.png".removeprefix("cats/")]


def test_the_first_root_of_a_table_is_said_and_not_silently_scored(tmp_path: Path, photos: Path):
    score(tmp_path, photos)
    with pytest.raises(TableError, match=r"(?s)its addresses are absolute.*scored again.*--rescore --prune"):
        score(tmp_path, photos, root=str(photos))
    with (
        pytest.raises(RuntimeError, match="its addresses are absolute"),
        beam.Pipeline(runner=open_runner("local"), options=SharedViews([])) as pipeline,
    ):
        _ = (
            pipeline
            | ListImages([str(photos)], root=str(photos))
            | ScoreImages(tmp_path / "model", tmp_path / "maps", root=str(photos), open_engine=FakeEngine)
        )
    assert MapTable(tmp_path / "maps").version == 0
    score(tmp_path, photos, root=str(photos), rescore=True, prune=True, max_pruned=1.0)
    assert {found.uri for found in MapTable(tmp_path / "maps")} == {"a.png", "cats/b.png"}
    with pytest.raises(TableError, match=r"(?s)relative to a root, which was .*photos.*give --root"):
        score(tmp_path, photos)
