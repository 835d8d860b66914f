"""The promise of `--rounding exact`: a map's bits depend on the image alone, whatever kernels the processor has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two shapes, which fill some batches and leave others incomplete."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(5)
    for number in range(12):
        height, width = (227, 227) if number % 3 else (243, 300)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number:02}.bmp")
    return folder


def scored(
    model: Path,
    images: Path,
    cache: Path,
    environment: dict[str, str],
    cores: int | None = None,
    *,
    engine: str = "tensorflow",
) -> Any:
    """What `exact_bits` prints in a process with this environment, on the first cores."""
    usable = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.exact_bits", str(model), str(images), "exact", engine],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "engine", ["native", "onnxruntime", "openvino", pytest.param("tensorflow", marks=pytest.mark.large)]
)
def test_bits_do_not_depend_on_order_and_division(small_model: Path, images: Path, tmp_path: Path, engine: str):
    if engine == "native":
        pytest.importorskip("densecast_native", reason="it is built where a C++ compiler is at hand: make")
    found = scored(small_model, images, tmp_path, {}, engine=engine)
    assert found["images"] == 12
    assert found["differing"] == []
    measured = tmp_path / "densecast" / "measured"
    assert len(list(measured.iterdir()) if measured.exists() else []) == (0 if engine == "native" else 1)


@pytest.mark.large
@pytest.mark.parametrize("cores", [1, None])
@pytest.mark.parametrize(
    "environment",
    [
        {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"TF_ENABLE_ONEDNN_OPTS": "0"},
        {"TF_NUM_INTRAOP_THREADS": "1"},
        {"TF_NUM_INTRAOP_THREADS": "3"},
    ],
    ids=lambda environment: "-".join(f"{name}={value}" for name, value in environment.items()),
)
def test_bits_do_not_depend_on_order_and_division_with_other_kernels(
    small_model: Path, images: Path, tmp_path: Path, environment: dict[str, str], cores: int | None
):
    found = scored(small_model, images, tmp_path, environment, cores)
    assert (found["images"], found["differing"]) == (12, [])
