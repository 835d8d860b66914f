"""What users import: whatever a public signature takes or returns is exported, and imports print nothing."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import conversion
import pipeline

PACKAGES = ("conversion", "models", "pipeline")
PUBLIC = {package: [name for name in dir(package) if not name.startswith("_")] for package in (pipeline, conversion)}
EXPORTED = {id(getattr(package, name)) for package, names in PUBLIC.items() for name in names}

NOT_FOR_USERS = {
    *("pipeline.scoring.loader.Loader", "pipeline.maps.classification_map.Cut", "pipeline.images.resize.Scaling"),
    *("pipeline.images.decoding_rules.Decoding", "pipeline.images.decoding_rules.Rules"),  # not a user's choice
    *("conversion.caffe.caffe_pb2.LayerParameter", "conversion.layers.base.Step"),  # layers are made by load_network
    *("conversion.layers.onnx_graph.OnnxGraph", "conversion.layers.onnx_value.Value"),
    "conversion.layers.windows.Windows",  # of plain operations, which `plain_network` returns
    "conversion.export.savedmodel.Signature",  # of a SavedModel, which `load_savedmodel` returns
}
"""Types of methods that other modules of densecast call."""


def classes(hint: object) -> Iterator[type]:
    """Yields the classes in a type hint."""
    if isinstance(hint, list):
        for part in hint:
            yield from classes(part)
    elif arguments := typing.get_args(hint):
        for argument in arguments:
            yield from classes(argument)
    elif isinstance(hint, type):
        yield hint


def signatures(name: str, public: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the type hints of a function; or of a class: of its constructor, its public methods and its fields."""
    if not isinstance(public, type):
        if inspect.isfunction(public):
            yield name, typing.get_type_hints(public)
        return
    if not public.__module__.startswith(PACKAGES):
        return
    if not issubclass(public, requests.Session):  # whose own hints are for checkers of types only
        yield name, typing.get_type_hints(public)
    for attribute, value in vars(public).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and (attribute == "__init__" or not attribute.startswith("_")):
            yield f"{name}.{attribute}", typing.get_type_hints(function)


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_what_a_public_signature_takes_or_returns_is_exported(package: types.ModuleType):
    missing = {
        (where, parameter, f"{found.__module__}.{found.__qualname__}")
        for name in PUBLIC[package]
        for where, hints in signatures(name, getattr(package, name))
        for parameter, hint in hints.items()
        # What conversion only returns is made by it, and its errors are public as `conversion.errors`.
        if package is pipeline or parameter != "return"
        for found in classes(hint)
        if found.__module__.startswith(PACKAGES) and not issubclass(found, conversion.DensecastError)
        if id(found) not in EXPORTED
    }
    assert {line for line in missing if line[2] not in NOT_FOR_USERS | {"conversion.passes.rounding.Misfit"}} == set()


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that lies in a folder, as a user does."""
    (folder / "script.py").write_text(code)
    return subprocess.run(
        [sys.executable, folder / "script.py"], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_importing_pipeline_and_all_its_names_prints_nothing(tmp_path: Path):
    done = run(
        tmp_path,
        "import logging\n"
        "import pipeline\n"
        "for name in dir(pipeline):\n"
        "    getattr(pipeline, name)\n"
        "assert logging.getLogger().handlers == logging.getLogger().filters == []\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["models", "conversion"])
def test_a_plain_folder_beside_the_script_hides_nothing(tmp_path: Path, name: str):
    (tmp_path / name / "my-classifier").mkdir(parents=True)
    code = "import pipeline, conversion\npipeline.MapTable, conversion.load_network\nimport pipeline.cli.main as cli\n"
    done = run(tmp_path, f"{code}cli.main(['models', 'list'])")
    assert "digits" in done.stdout, done.stderr


def test_a_module_called_conversion_is_refused_by_name(tmp_path: Path):
    (tmp_path / "conversion.py").touch()
    done = run(tmp_path, "import pipeline")
    assert f"{tmp_path}/conversion.py hides densecast's package conversion" in done.stderr
    assert "give it another name" in done.stderr


def test_a_module_called_models_costs_only_what_needs_ours(tmp_path: Path):
    (tmp_path / "models.py").write_text("mine = 1\n")
    done = run(tmp_path, "from pipeline import MapTable, ScoreImages\nimport models\nassert models.mine\n")
    assert (done.returncode, done.stderr) == (0, "")
    done = run(tmp_path, "from pipeline.cli.main import main\nmain(['models', 'list'])\n")
    assert done.returncode == 1
    assert done.stderr.startswith(f"densecast: {tmp_path}/models.py hides densecast's package models\n")


def test_a_module_put_in_place_by_hand_is_refused(tmp_path: Path):
    done = run(
        tmp_path, "import sys, types\nsys.modules['conversion'] = types.ModuleType('conversion')\nimport pipeline"
    )
    assert "the module <module 'conversion'> hides densecast's package conversion" in done.stderr
    assert os.fspath(tmp_path) not in done.stderr.splitlines()[-3]
