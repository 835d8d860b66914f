"""The floors of pipeline, and which of its modules may import Beam, rich, click and what of conversion.

The floors of conversion: `tests/conversion/test_floors.py`. The check itself: `tests/support/floors.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline
from tests.support.floors import check
from tests.test_packaging import imports, sources

ROOT = Path(pipeline.__file__).parent

# A package imports only from lower floors, and packages of one floor do not know each other.
FLOORS = {
    "pipeline": 10,  # the names that users import
    "pipeline.cli": 9,
    "pipeline.tools": 8,
    "pipeline.jobs": 7,
    "pipeline.transforms": 6,
    "pipeline.runners": 6,
    "pipeline.scoring": 5,
    "pipeline.maintenance": 5,
    "pipeline.drift": 5,
    "pipeline.exports": 5,
    "pipeline.table": 4,
    "pipeline.engines": 4,
    "pipeline.visualization": 4,
    "pipeline.maps": 3,
    "pipeline.sources": 3,
    "pipeline.credentials": 3,  # an old public name for what storage has now
    "pipeline.storage": 2,
    "pipeline.images": 2,
    "pipeline.beam_counters": 2,
    "pipeline.byte_budget": 2,
    "pipeline.counters": 1,
    "pipeline.exit_codes": 1,
    "pipeline.malloc_trim": 1,
    "pipeline.rejection": 1,
    "pipeline.settings": 1,
    "pipeline.stopping": 1,
    "pipeline.timing": 1,
    "pipeline.units": 1,
    "pipeline.errors": 0,
    "pipeline.own_packages": 0,
    "pipeline.quiet_beam": 0,
}

# Reading a table loads no Beam; only what talks to people draws on a terminal.
RESTRICTED = {
    "apache_beam": (
        *("pipeline.transforms", "pipeline.runners"),
        *("pipeline.jobs.submit", "pipeline.storage.beam", "pipeline.beam_counters", "pipeline.quiet_beam"),
    ),
    "rich": ("pipeline.cli", "pipeline.visualization", "pipeline.tools", "pipeline.jobs.progress"),
    "click": ("pipeline.cli",),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_no_import_points_up_and_none_goes_in_a_circle(record_property: Callable[[str, object], None]):
    report = check(ROOT, FLOORS)
    figures = {
        "packages": report.packages,
        "modules": report.modules,
        "imports": report.imports,
        "upward imports": len(report.upward),
        "sideways imports": len(report.sideways),
        "circles": len(report.cycles),
    }
    for name, figure in figures.items():
        record_property(name, figure)
    print("pipeline:", ", ".join(f"{name} {figure}" for name, figure in figures.items()))  # noqa: T201 - shown by -s
    assert report.problems() == []
    assert report.packages >= 18
    assert report.modules > 150
    assert report.imports > 600


@pytest.mark.parametrize("package", RESTRICTED)
def test_package_is_imported_only_where_named(package: str):
    importers = {module_name(path) for path in sources("pipeline") if is_in_any(imports(path), package)}
    assert sorted(module for module in importers if not is_in(module, RESTRICTED[package])) == []
    assert [room for room in RESTRICTED[package] if not any(is_in(module, (room,)) for module in importers)] == []


def is_in_any(names: set[str], package: str) -> bool:
    return any(is_in(name, (package,)) for name in names)


def test_pipeline_uses_the_public_names_of_conversion_alone():
    """What `conversion/__init__.pyi` exports, and `conversion.errors`, which loads nothing else of it."""
    public = set(re.findall(r" as (\w+)$", (ROOT.parent / "conversion" / "__init__.pyi").read_text(), re.MULTILINE))
    for path in sources("pipeline", "models"):
        names = {name for name in imports(path) if is_in(name, ("conversion",))}
        inner = {name for name in names if not is_in(name, ("conversion.errors",))} - {"conversion"}
        assert inner <= {f"conversion.{name}" for name in public}, path


@pytest.mark.parametrize(
    ("floors", "problem"),
    [
        (FLOORS | {"pipeline.maps": 5}, "upward: pipeline.table.rows -> pipeline.maps.classification_map"),
        (FLOORS | {"pipeline.maps": 4}, "sideways: pipeline.table.rows -> pipeline.maps.classification_map"),
        ({room: FLOORS[room] for room in FLOORS if room != "pipeline.timing"}, "no floor: pipeline.timing"),
        (FLOORS | {"pipeline.attic": 1}, "a room without modules: pipeline.attic"),
    ],
)
def test_wrong_floors_are_reported(floors: dict[str, int], problem: str):
    """The check can fail on this very package."""
    assert problem in check(ROOT, floors).problems()
