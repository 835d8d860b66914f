"""What the extras install on every platform, what goes together, and that messages and pages name them rightly.

Markers are evaluated as pip does; nothing is installed, and no network is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from conversion.errors import MissingExtraError
from tests.docs.markdown import table
from tests.test_packaging import PROJECT, ROOT, normalised, tracked

PLATFORMS = {
    "Linux, x86-64": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "Linux, Arm": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "macOS, Apple": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    "macOS, Intel": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "x86_64"},
    "Windows, x86-64": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
}
"""What markers are evaluated with, as Python gives it on these systems (PEP 508)."""

PYTHONS = ("3.11", "3.12", "3.13")
WITH_TENSORFLOW_CPU = {"Linux, x86-64", "Windows, x86-64"}  # the wheels of 2.21
EXTRAS = sorted(PROJECT["project"]["optional-dependencies"])
ENGINE_EXTRAS = ("cpu", "gpu", "native", "onnx", "openvino", "tensorflow", "gpu-tensorflow")


def named(cell: str) -> set[str]:
    """What stands between backticks in a cell."""
    return set(re.findall(r"`([\w-]+)`", cell))


def resolved(extra: str, platform: str = "Linux, x86-64", python: str = "3.11") -> set[str]:
    """The distributions that an extra names on a platform; extras of densecast's own are followed."""
    environment = {**PLATFORMS[platform], "python_version": python, "python_full_version": f"{python}.0"}
    names: set[str] = set()
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        if normalised(requirement.name) == "densecast":
            names.update(*(resolved(other, platform, python) for other in requirement.extras))
        else:
            names.add(normalised(requirement.name))
    return names


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_platform_gets_the_tensorflow_that_has_wheels_for_it(platform: str, python: str):
    build = "tensorflow-cpu" if platform in WITH_TENSORFLOW_CPU else "tensorflow"
    assert resolved("tensorflow", platform, python) == {build}
    assert resolved("cpu", platform, python) == {"onnx", "onnxruntime", build}


def overwritten(names: set[str]) -> set[str]:
    """The modules that two of these distributions write: the later one overwrites the other."""
    return {
        module
        for module in ("onnxruntime", "tensorflow")
        if len({name for name in names if re.fullmatch(rf"{module}(-.*)?", name)}) > 1
    }


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_installs_two_distributions_of_one_module(extra: str):
    for platform in PLATFORMS:
        for python in PYTHONS:
            assert not overwritten(resolved(extra, platform, python)), (platform, python)


def test_without_the_extras_of_tensorflow_there_is_none():
    """A worker whose engine is ONNX Runtime or OpenVINO needs none."""
    assert {extra for extra in EXTRAS if any(name.startswith("tensorflow") for name in resolved(extra))} == {
        *("cpu", "tensorflow", "gpu-tensorflow")
    }


def test_pythons_are_those_that_densecast_declares():
    declared = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if " 3." in line]
    assert tuple(declared) == PYTHONS
    inside = [
        f"3.{minor}" for minor in range(9, 17) if f"3.{minor}.0" in SpecifierSet(PROJECT["project"]["requires-python"])
    ]
    assert tuple(inside) == PYTHONS


def test_every_extra_is_in_the_table_of_the_page():
    listed = [name for row in table(ROOT / "docs/start.md", "extra") for name in named(row[0])]
    assert sorted(listed) == EXTRAS


def test_the_page_of_engines_says_what_extras_install():
    rows = table(ROOT / "docs/engines.md", "extra")
    assert {row[0].strip("`"): named(row[1]) for row in rows} == {extra: resolved(extra) for extra in ENGINE_EXTRAS}


def test_the_page_of_engines_says_what_goes_together():
    for beside, possible, impossible in table(ROOT / "docs/engines.md", "beside"):
        (extra,) = named(beside)
        assert named(possible) | named(impossible) == {*ENGINE_EXTRAS} - {extra}
        for other in named(possible):
            assert not overwritten(resolved(extra) | resolved(other)), (extra, other)
        for other in named(impossible):
            assert overwritten(resolved(extra) | resolved(other)), (extra, other)


def test_every_extra_that_is_named_exists():
    """In messages, pages, the image and the scripts: a name that is gone costs its reader an installation."""
    pattern = re.compile(r"(?:\.|densecast|\$1|\$wheel)\[([a-z][a-z,-]*)\]|extras? `([a-z-]+)`|EXTRAS=([a-z][a-z,-]*)")
    found: dict[str, str] = {}
    for name in tracked():
        if re.search(r"\.(py|md|toml|sh)$|^infra/|^\.ci/|^Makefile$", name) and name != "CHANGELOG.md":
            for match in pattern.finditer((ROOT / name).read_text(encoding="utf-8", errors="ignore")):
                found.update((extra, name) for extra in next(filter(None, match.groups())).split(","))
    assert {*ENGINE_EXTRAS} <= set(found)
    assert {extra: name for extra, name in found.items() if extra not in EXTRAS} == {}


@pytest.mark.parametrize(
    ("raiser", "module", "distribution"),
    [
        ("conversion.layers.layout:import_tensorflow", "tensorflow", "tensorflow-cpu"),
        ("conversion.layers.onnx_value:import_onnx", "onnx", "onnx"),
        ("conversion.export.onnx_session:import_onnxruntime", "onnxruntime", "onnxruntime"),
        ("pipeline.engines.load_openvino:import_openvino", "openvino", "openvino"),
    ],
)
def test_the_message_about_a_missing_library_names_an_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, raiser: str, module: str, distribution: str
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    holder, _, function = raiser.partition(":")
    with pytest.raises(MissingExtraError) as caught:
        getattr(importlib.import_module(holder), function)()
    extra, *of_gpus = re.findall(r"`([\w-]+)`", caught.value.remedy)
    assert f"'.[{extra}]'" in caught.value.remedy
    assert distribution in resolved(extra)
    assert all(any(name.startswith(module) for name in resolved(other)) for other in of_gpus)
