"""Which map `densecast show` draws, and what becomes of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.errors import JobError, TableError
from pipeline.tools.show import show
from tests.support.stored_rows import publish_rows, scored


def text(renderable: object) -> str:
    console = Console(width=400, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
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
    shown = text(show(table, "cat", target, **options))
    assert rows_drawn(shown) == rows
    with Image.open(target) as picture:
        assert picture.width >= 96


def test_a_map_is_drawn_by_its_key(table: str, tmp_path: Path) -> None:
    key = scored(str(tmp_path / "cat.png"), scale=0.5).key
    assert rows_drawn(text(show(table, "cat", tmp_path / "out.png", key=key[:16]))) == 2


def test_several_maps_need_a_choice_and_only_one(table: str) -> None:
    with pytest.raises(TableError, match="has 2 maps"):
        show(table, "cat")
    for options in ({"scale": 1.0}, {"key": "ab"}):
        with pytest.raises(JobError, match="fused map covers all scales"):
            show(table, "cat", fused=True, **options)


def test_a_map_whose_image_is_gone_is_drawn_without_a_picture(table: str, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "cat.png")
    assert "is not the image that was scored" in text(show(table, "cat", target, fused=True))
    (tmp_path / "cat.png").unlink()
    assert "can no longer be read" in text(show(table, "cat", target, fused=True))
    assert not target.exists()
