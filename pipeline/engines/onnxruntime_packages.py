"""Refuses an environment in which several distributions install the module `onnxruntime` over each other.

ONNX Runtime is published as onnxruntime, onnxruntime-gpu, onnxruntime-openvino, onnxruntime-directml and others. Their
files have the same names, and no installer keeps two of them apart.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path

from pipeline.errors import EngineError

_MODULE = "onnxruntime"
_CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"
# The metadata of such distributions, and of others, such as onnxruntime_extensions, which is a module of its own.
_PATTERNS = ("onnxruntime*.dist-info", "ort_*.dist-info")


def check_onnxruntime_packages(search_path: Sequence[str] | None = None) -> None:
    """Raises EngineError unless one distribution alone has installed the module `onnxruntime`, and its files are there.

    Imports nothing; takes milliseconds. Raises nothing where there is no such distribution: the import says so.

    Args:
        search_path: The folders that modules are imported from; `sys.path` by default. The first with a distribution of
            ONNX Runtime is looked at: the module in it hides those in later ones.
    """
    for folder in sys.path if search_path is None else search_path:
        found = sorted(_providers(Path(folder)), key=lambda distribution: distribution.name)
        if len(found) > 1:
            names = [distribution.name for distribution in found]
            raise EngineError(
                f"{' and '.join(names)} are installed in one environment",
                where=folder,
                why="each of them is ONNX Runtime, and the one that is installed later writes its files over the "
                "other's: which of them is loaded, and whether it sees a GPU, is chance",
                remedy=f"remove all of them (pip uninstall {' '.join(names)}), then install densecast again with its "
                "extra `gpu` (NVIDIA GPUs), or with `cpu` or `onnx`; `gpu` goes with neither of them",
            )
        if found:
            _check_files(found[0], folder)
            return


def has_cuda() -> bool:
    """Returns whether the module `onnxruntime` that would be imported is built with CUDA. Imports nothing."""
    found = importlib.util.find_spec(_MODULE)
    folders = (found.submodule_search_locations if found else None) or []
    return any((Path(folder) / "capi" / _CUDA_LIBRARY).is_file() for folder in folders)


def _check_files(distribution: Distribution, folder: str) -> None:
    """Raises EngineError where another distribution has taken the module's files with it when it was uninstalled."""
    if not Path(str(distribution.locate_file(f"{_MODULE}/__init__.py"))).is_file():
        raise EngineError(
            f"{distribution.name} {distribution.version} is installed, and its files are gone",
            where=folder,
            why="another distribution of ONNX Runtime had written its files over them, and was uninstalled",
            remedy="install it again: pip install --force-reinstall --no-deps "
            f"{distribution.name}=={distribution.version}",
        )


def _providers(folder: Path) -> Iterator[Distribution]:
    """Yields the distributions of a folder that list files of the module."""
    for pattern in _PATTERNS:
        for metadata in folder.glob(pattern):
            distribution = Distribution.at(metadata)
            if any(file.parts[0] == _MODULE for file in distribution.files or ()):
                yield distribution
