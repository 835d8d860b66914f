"""Which map `densecast show` draws, and what becomes of the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.errors import JobError, SettingError, TableError
from pipeline.table.reader import MapTable
from pipeline.tools.show import Picture, Shown, show
from tests.support.stored_rows import publish_rows, scored


def text(shown: Shown) -> str:
    console = Console(width=400, color_system=None)
    with console.capture() as capture:
        console.print(shown.renderable)
    return capture.get()


@pytest.fixture
def table(tmp_path: Path) -> str:
    """One image at two scales, with 4 x 4 and 2 x 2 cells."""
    image = tmp_path / "cat.png"
    Image.fromarray(np.full((96, 96, 3), 128, np.uint8)).save(image)
    rows = [scored(str(image), id_="cat", scale=scale, size=size) for scale, size in ((1.0, 4), (0.5, 2))]
    publish_rows(tmp_path / "maps", *rows)
    return str(tmp_path / "maps")


def rows_drawn(shown: str) -> int:
    return sum(line.strip()[:1].isdigit() for line in shown.splitlines()) - 1  # less the line of column numbers


@pytest.mark.parametrize(("options", "rows"), [({"scale": 1.0}, 4), ({"scale": 0.5}, 2), ({"fused": True}, 4)])
def test_the_map_that_is_asked_for_is_drawn(table: str, tmp_path: Path, options: dict[str, float], rows: int) -> None:
    target = tmp_path / "out.png"
    shown = text(show(table, "cat", Picture(path=target), **options))
    assert rows_drawn(shown) == rows
    with Image.open(target) as picture:
        assert picture.width >= 96


def test_a_map_is_drawn_by_its_key(table: str, tmp_path: Path) -> None:
    key = scored(str(tmp_path / "cat.png"), scale=0.5).key
    assert rows_drawn(text(show(table, "cat", Picture(path=tmp_path / "out.png"), key=key[:16]))) == 2


def test_several_maps_need_a_choice_and_only_one(table: str) -> None:
    with pytest.raises(TableError, match="has 2 maps"):
        show(table, "cat")
    for options in ({"scale": 1.0}, {"key": "ab"}):
        with pytest.raises(JobError, match="fused map covers all scales"):
            show(table, "cat", fused=True, **options)


def test_a_map_whose_image_is_gone_is_drawn_without_a_picture(table: str, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "cat.png")
    assert "is not the image that was scored" in text(show(table, "cat", Picture(path=target), fused=True))
    (tmp_path / "cat.png").unlink()
    assert "can no longer be read" in text(show(table, "cat", Picture(path=target), fused=True))
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "format_"), [("a.jpg", "JPEG"), ("a.WEBP", "WEBP"), ("a.tiff", "TIFF"), ("a.png", "PNG")]
)
def test_the_extension_names_the_format(table: str, tmp_path: Path, name: str, format_: str) -> None:
    show(table, "cat", Picture(path=tmp_path / name), fused=True)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == format_


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.png.txt"])
def test_an_unknown_format_is_refused_before_the_table_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="no format of pictures"):
        show("no table", "cat", Picture(path=tmp_path / name))


def test_nothing_is_overwritten_and_no_folder_is_made_without_a_flag(table: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.png"
    with pytest.raises(JobError, match="--parents"):
        show(table, "cat", Picture(path=target), fused=True)
    assert not target.parent.exists()
    assert not show(table, "cat", Picture(path=target, parents=True), fused=True).missing
    before = target.read_bytes()
    with pytest.raises(JobError, match="--overwrite"):
        show(table, "cat", Picture(path=target), scale=0.5)
    assert target.read_bytes() == before
    assert not show(table, "cat", Picture(path=target, overwrite=True), scale=0.5).missing
    assert target.read_bytes() != before


def test_the_picture_without_a_name_is_not_overwritten_either(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not show(table, "cat", fused=True).missing
    again = show(table, "cat", fused=True)
    assert "the picture exists" in again.missing
    assert rows_drawn(text(again)) == 4, "the map is shown all the same"


def test_a_name_that_only_one_image_has_is_enough(tmp_path: Path) -> None:
    rows = [scored(uri) for uri in ("/a/cat.png", "/a/concat.png", "/b.tar#x/dog.png", "/c/dog.png")]
    publish_rows(tmp_path / "maps", *rows)
    table = MapTable(str(tmp_path / "maps"))
    assert table.read("cat.png").uri == "/a/cat.png"
    assert table.read("x/dog.png").uri == "/b.tar#x/dog.png"
    with pytest.raises(TableError, match=r"2 images are called 'dog\.png': /b\.tar#x/dog\.png, /c/dog\.png"):
        table.read("dog.png")
    with pytest.raises(TableError, match="there is no image"):
        table.read("at.png")


def test_the_grid_has_no_more_lines_than_the_terminal(tmp_path: Path) -> None:
    publish_rows(tmp_path / "maps", scored("/a/cat.png", size=200))
    for height in (16, 24, 50):
        shown = show(str(tmp_path / "maps"), "cat.png", terminal=(80, height))
        assert len(text(shown).splitlines()) <= height


def test_it_is_said_that_the_classes_mean_nothing(table: str, tmp_path: Path) -> None:
    [path] = Path(table).glob("_densecast/models/*.json")

    def shown() -> str:
        return text(show(table, "cat", Picture(path=tmp_path / "a.png", overwrite=True), fused=True))

    assert "mean nothing" not in shown()
    path.write_text(json.dumps({**json.loads(path.read_text()), "random_weights": True}))
    assert "the weights of the model are random: these classes mean nothing" in shown()
