"""Two distributions of ONNX Runtime in one environment are refused; distributions are faked by their metadata."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from pipeline.engines.onnxruntime_packages import check_onnxruntime_packages
from pipeline.errors import EngineError

PUBLISHED = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-training"),
    *("onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-migraphx", "ort-nightly", "ort-nightly-gpu"),
)


def install(folder: Path, name: str, module: str = "onnxruntime") -> Path:
    """Writes what a wheel of one file leaves in a folder of packages, as pip writes it."""
    metadata = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    (metadata / "RECORD").write_text(f"{module}/__init__.py,,\n{metadata.name}/METADATA,,\n{metadata.name}/RECORD,,\n")
    (folder / module).mkdir(exist_ok=True)
    (folder / module / "__init__.py").touch()
    return metadata


def test_this_environment_has_one():
    check_onnxruntime_packages()


@pytest.mark.parametrize("names", list(combinations(PUBLISHED[:4], 2)), ids="+".join)
def test_two_in_one_folder_are_refused_with_both_names(tmp_path: Path, names: tuple[str, str]):
    for name in names:
        install(tmp_path, name)
    with pytest.raises(EngineError) as caught:
        check_onnxruntime_packages([str(tmp_path)])
    first, second = sorted(names)
    assert caught.value.what == f"{first} and {second} are installed in one environment"
    assert caught.value.where == str(tmp_path)
    assert "which of them is loaded" in caught.value.why
    assert f"pip uninstall {first} {second})" in caught.value.remedy


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_alone_is_fine_and_beside_another_it_is_not(tmp_path: Path, name: str):
    install(tmp_path / "alone", name)
    check_onnxruntime_packages([str(tmp_path / "alone")])
    install(tmp_path / "both", name)
    install(tmp_path / "both", "onnxruntime-other")  # which nobody has published yet
    with pytest.raises(EngineError, match=f"{name} .*are installed|and {name} are installed"):
        check_onnxruntime_packages([str(tmp_path / "both")])


def test_all_of_them_are_named(tmp_path: Path):
    for name in PUBLISHED:
        install(tmp_path, name)
    with pytest.raises(EngineError) as caught:
        check_onnxruntime_packages([str(tmp_path)])
    assert all(name in caught.value.remedy.split(")")[0].split() for name in PUBLISHED)


@pytest.mark.parametrize("name", ["onnxruntime-extensions", "onnxruntime-genai", "ort-tools"])
def test_what_only_begins_like_it_has_a_module_of_its_own(tmp_path: Path, name: str):
    install(tmp_path, "onnxruntime")
    install(tmp_path, name, name.replace("-", "_"))
    check_onnxruntime_packages([str(tmp_path)])


def test_in_two_folders_the_first_hides_the_other_as_python_has_it(tmp_path: Path):
    """A virtual environment over the system's packages: no file is written over another."""
    install(tmp_path / "own", "onnxruntime-gpu")
    install(tmp_path / "system", "onnxruntime")
    install(tmp_path / "system", "onnxruntime-openvino")
    check_onnxruntime_packages([str(tmp_path / "own"), str(tmp_path / "system")])
    with pytest.raises(EngineError, match="onnxruntime and onnxruntime-openvino"):
        check_onnxruntime_packages([str(tmp_path / "system"), str(tmp_path / "own")])


def test_one_whose_files_the_other_took_with_it_is_refused(tmp_path: Path):
    """`pip uninstall onnxruntime` where both were: onnxruntime-gpu stays by name, without a file."""
    install(tmp_path, "onnxruntime-gpu")
    (tmp_path / "onnxruntime/__init__.py").unlink()
    with pytest.raises(EngineError, match=r"onnxruntime-gpu 1\.31\.1 is installed, and its files are gone") as caught:
        check_onnxruntime_packages([str(tmp_path)])
    assert "--force-reinstall --no-deps onnxruntime-gpu==1.31.1" in caught.value.remedy


def test_what_is_no_folder_of_packages_is_passed_over(tmp_path: Path):
    (tmp_path / "packages.zip").write_bytes(b"PK")
    half_removed = install(tmp_path / "half", "onnxruntime-gpu")
    (half_removed / "RECORD").unlink()
    install(tmp_path / "whole", "onnxruntime")
    paths = [tmp_path / "packages.zip", tmp_path / "missing", tmp_path / "half", tmp_path / "whole"]
    check_onnxruntime_packages([*map(str, paths)])
    check_onnxruntime_packages([])
