"""The check of floors itself, on a package made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.floors import check


@pytest.fixture
def root(tmp_path: Path) -> Path:
    package = tmp_path / "house"
    files = {
        "__init__.py": "",
        "__init__.pyi": "from .top.roof import tiles as tiles\n",
        "top/__init__.py": "",
        "top/roof.py": "from house.left import door\nfrom house.cellar import wine\n",
        "left/__init__.py": "",
        "left/door.py": "import house.cellar\n",
        "right/__init__.py": "",
        "right/door.py": "",
        "cellar.py": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


FLOORS = {"house": 4, "house.top": 3, "house.left": 2, "house.right": 2, "house.cellar": 1}


def test_floors_that_hold(root: Path):
    report = check(root, FLOORS)
    assert report.problems() == []
    assert (report.packages, report.modules, report.imports) == (4, 8, 4)


def test_upward_import_under_type_checking(root: Path):
    (root / "cellar.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.top.roof import tiles\n"
    )
    report = check(root, FLOORS)
    assert report.upward == ("house.cellar -> house.top.roof",)
    assert report.cycles == (("house.cellar", "house.left.door", "house.top.roof"),)


def test_sideways_import_inside_a_function(root: Path):
    (root / "right" / "door.py").write_text("def open():\n    from ..left.door import knob\n")
    assert check(root, FLOORS).sideways == ("house.right.door -> house.left.door",)


def test_module_without_floor_and_floor_without_module(root: Path):
    (root / "attic.py").write_text("")
    report = check(root, FLOORS | {"house.garage": 1})
    assert report.problems() == ["no floor: house.attic", "a room without modules: house.garage"]
