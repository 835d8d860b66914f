"""The demo: what it reports is computed from the table it wrote, and it destroys nothing that is not its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import JobError
from pipeline.table.reader import MapTable
from pipeline.tools.demo import run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    lines: list[str] = []
    run_demo(folder, 3, 0, lines.append)
    return folder, "\n".join(lines)


def test_demo_names_digits_and_draws_a_page(demo: tuple[Path, str]):
    folder, text = demo
    found = re.search(r"(\d+) of (\d+) digits \(", text)
    assert found is not None
    assert int(found[1]) / int(found[2]) >= 0.97
    assert len(MapTable(str(folder / "maps"))) == 3
    with Image.open(folder / "demo.png") as picture:
        assert min(picture.size) > 300


def test_figures_come_from_the_table(demo: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With maps that name every cell background, the demo must fail, not repeat a figure."""
    monkeypatch.setattr("pipeline.maps.classification_map.ClassificationMap.label", lambda self, y, x: "background")
    with pytest.raises(JobError, match=r"only 0\.0%"):
        run_demo(tmp_path / "out", 1, 0, lambda _: None)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(JobError, match="other files"):
        run_demo(tmp_path, 1, 0, lambda _: None)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
