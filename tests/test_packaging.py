"""What is shipped, what it may import, and what the root of the repository may hold."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("conversion", "models", "pipeline")
DEVELOPMENT = {"dev", "docs", "bench", "fuzz", "build"}
GPU_EXTRAS = ("gpu", "gpu-tensorflow")
GPU_CONSTRAINTS = ROOT / "infra/docker/constraints-gpu.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> dict[str, set[str]]:
    """Distributions that pyproject.toml names, by extra; "" for those that are always installed."""
    groups = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
    groups["build"] = PROJECT["build-system"]["requires"]
    return {
        extra: {normalised(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
        for extra, lines in groups.items()
    }


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines)}


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which this test does not follow"
            found.update((node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)))
    return found


def tracked() -> list[str]:
    try:
        output = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [name for name in output.split("\0") if name]


# --- what is shipped


def test_no_package_is_left_out_of_the_wheel():
    """The list is explicit: a folder that it lacks works in a checkout and is missing where it is installed."""
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    stated = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(stated) == sorted(found)
    assert len(set(stated)) == len(stated)


def test_every_folder_with_modules_is_a_package():
    """Without __init__.py a folder is a namespace that no wheel takes in."""
    for path in sources(*PACKAGES):
        assert (path.parent / "__init__.py").exists(), path


def test_every_data_file_is_in_the_wheel():
    """A definition, label or weight file that no glob names is missing where densecast is installed."""
    globs = PROJECT["tool"]["setuptools"]["package-data"]
    assert set(globs) == {"*"}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if (ROOT / OWN_DISTRIBUTION) in path.parents:
                continue
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(fnmatch.fnmatch(path.name, glob) for glob in globs["*"]), path.relative_to(ROOT)
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Returns the files of the sdist, and of the wheel that is built from it. They are built from a copy."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        if name.split("/")[0] in {*PACKAGES, *SOURCE_FILES} or fnmatch.fnmatch(name, "tests/*.py"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source], check=True, capture_output=True
    )
    (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    with tarfile.open(sdist) as tar, zipfile.ZipFile(wheel) as archive:
        return {
            "sdist": {member.name.partition("/")[2] for member in tar if member.isfile()},
            "wheel": set(archive.namelist()),
        }


SOURCE_FILES = {"pyproject.toml", "README.md", "LICENSE"}
OWN_DISTRIBUTION = "pipeline/engines/native/extension/"


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_all_files_of_the_packages_are_shipped_and_nothing_else(built: dict[str, set[str]], kind: str):
    of_packages = {
        name for name in tracked() if name.split("/")[0] in PACKAGES and not name.startswith(OWN_DISTRIBUTION)
    }
    # setuptools puts tests/test*.py into every sdist; only a MANIFEST.in, which the root does not hold, keeps them out.
    ignored = r"densecast[-.\w]*-info/|densecast\.egg-info/" + (r"|tests/test_\w+\.py$" if kind == "sdist" else "")
    shipped = {name for name in built[kind] if not re.match(ignored, name)}
    assert of_packages - shipped == set()
    assert shipped - of_packages == (SOURCE_FILES | {"PKG-INFO", "setup.cfg"} if kind == "sdist" else set())


@pytest.mark.parametrize(
    "name",
    [
        *("conversion/py.typed", "models/py.typed", "pipeline/py.typed"),
        *("conversion/__init__.pyi", "pipeline/__init__.pyi", "conversion/caffe/caffe_pb2.pyi"),
        *("conversion/caffe/caffe.proto", "models/caffenet/deploy.prototxt", "models/imagenet_labels.txt"),
        *("models/digits/deploy.prototxt", "models/digits/digits.caffemodel", "models/digits/labels.txt"),
        "models/digits/held_out.npz",
    ],
)
def test_file_is_in_the_wheel(built: dict[str, set[str]], name: str):
    assert name in built["wheel"]


def test_what_only_development_needs_is_not_shipped(built: dict[str, set[str]]):
    """Training needs scikit-learn, and the table of layers is made for the documentation."""
    for name in built["wheel"] | {name for name in built["sdist"] if not re.match(r"tests/test_\w+\.py$", name)}:
        assert not re.search(
            r"(^|/)tests?(/|_)|conftest|train(_\w+)?\.py$|(support|layer_table)\.py$|__pycache__", name
        ), name


def test_no_package_imports_what_only_development_needs():
    groups = requirements()
    needed = {name for extra, names in groups.items() if extra not in DEVELOPMENT for name in names}
    modules = {"scikit-learn": "sklearn", "pyyaml": "yaml", "opencv-python-headless": "cv2"}
    extra = {modules.get(name, name.replace("-", "_")) for group in ("dev", "docs", "bench") for name in groups[group]}
    for path in sources(*PACKAGES):
        assert {name.partition(".")[0] for name in imports(path)} & (extra - needed) == set(), path


def test_import_names_belong_to_densecast_alone():
    """`models` and `pipeline` are names that another distribution could install over ours."""
    owners = importlib.metadata.packages_distributions()
    assert {name: set(owners.get(name, ())) for name in PACKAGES} == {name: {"densecast"} for name in PACKAGES}
    assert set(importlib.metadata.distribution("densecast").read_text("top_level.txt").split()) == set(PACKAGES)  # type: ignore[union-attr]


def test_console_script_points_at_a_function():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="densecast")
    assert callable(script.load())


# --- the root


ALLOWED = {
    *("pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"),
    *("constraints.txt", "conversion", "models", "pipeline", "docs", "infra", "tests"),
}


def test_root_holds_nothing_that_belongs_elsewhere():
    found = {name.split("/")[0] for name in tracked()}
    assert {name for name in found if not name.startswith(".")} <= ALLOWED
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", *PACKAGES, "tests"} <= found


def test_nothing_generated_is_tracked():
    """Weights of hundreds of megabytes, caches and builds would stay in the history for good."""
    for name in tracked():
        assert not re.search(r"__pycache__|\.egg-info|\.pyc$|^build/|^dist/|\.hypothesis/", name), name
        assert (ROOT / name).stat().st_size < 8_000_000 if (ROOT / name).is_file() else True, name


# --- constraints


def test_constraints_are_exact_and_sorted_out():
    """One line a distribution, one version each: anything else lets two installs differ."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+_-]*", line), line
    assert len(pins()) == len(lines)


def test_constraints_cover_every_dependency():
    """What GPUs need is in the image's own file: no environment of `make` and no CPU takes it."""
    of_gpus = {normalised(line.partition("==")[0]) for line in GPU_CONSTRAINTS.read_text().splitlines()}
    assert set(GPU_EXTRAS) <= set(PROJECT["project"]["optional-dependencies"])
    for extra, names in requirements().items():
        known = set(pins()) | {"densecast"} | (of_gpus if extra in GPU_EXTRAS else set())
        assert names <= known, extra
    assert not of_gpus & set(pins())


def test_both_builds_of_tensorflow_have_one_version():
    """A model that one machine converts is scored on others."""
    assert pins()["tensorflow"] == pins()["tensorflow-cpu"]
    lines = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
    versions = {str(Requirement(line).specifier) for line in lines if line.startswith("tensorflow")}
    assert len(versions) == 1


# --- who imports whom


def test_dependencies_point_one_way():
    """pipeline -> models -> conversion, and no cycle: each can be used without what stands before it."""
    for path in sources("conversion"):
        assert not {name for name in imports(path) if re.match(r"(models|pipeline)(\.|$)", name)}, path
    for path in sources("models"):
        assert not {name for name in imports(path) if re.match(r"pipeline(\.|$)", name)}, path


def test_beam_stays_in_the_pipeline():
    for path in sources("conversion", "models"):
        assert not {name for name in imports(path) if re.match(r"apache_beam(\.|$)", name)}, path


def test_no_package_imports_the_tests():
    for path in sources(*PACKAGES):
        assert not {name for name in imports(path) if re.match(r"(tests|pytest|hypothesis)(\.|$)", name)}, path


def test_the_pipeline_parses_no_caffe_file():
    """What it needs of Caffe it gets from conversion's functions, not from Caffe's messages."""
    for path in sources("models", "pipeline"):
        assert "conversion.caffe.caffe_pb2" not in imports(path), path


@pytest.mark.parametrize("package", ["conversion", "models"])
def test_importing_does_not_import_tensorflow_or_beam(package: str):
    """They take seconds and hundreds of megabytes, and inspecting a Caffe file needs neither."""
    code = (
        f"import sys, {package}; heavy = {{'tensorflow', 'keras', 'apache_beam', 'pyarrow', 'grpc_tools'}};"
        "print(sorted(heavy.intersection(m.split('.')[0] for m in sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
