"""Small files that claim much memory: a run over them and good images stays below 3 GB, and the good ones get maps.

Measured is what all processes of the run hold, as sampled from /proc, on the net of the digits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import models
from tests.attacks.hostile_images import GOOD, IMAGES, MANIFESTS, good_images
from tests.support.process_tree import Run, run_sampled

ALLOWED = 3 * 10**9
STOPPED = 6 * 10**9
TIMEOUT_S = 900  # a guard against hangs, not a measurement

pytestmark = [pytest.mark.large, pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")]

REASONS = {
    "wide PNG": {},
    "Parquet of one id": {"unsafe-name": 9000},
    "Parquet of one row": {"compression-bomb": 1},
    "zip of zeros": {"compression-bomb": 1},
    "tar of zeros": {"compression-bomb": 2},
    "TIFF of one tile": {"compression-bomb": 1},
}
"""The rejections, by reason."""


def densecast(*arguments: str | Path) -> Run:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return run_sampled(command, kill_above=STOPPED, timeout_s=TIMEOUT_S)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(models.__file__).parent / "digits"
    model = tmp_path_factory.mktemp("digits") / "model"
    run = densecast("convert", folder / "deploy.prototxt", folder / "digits.caffemodel", "--output", model)
    assert run.status == 0, run.errors
    return model


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_images_beside_good_ones(name: str, digits: Path, tmp_path: Path):
    images = [*good_images(tmp_path), *IMAGES[name](tmp_path)]
    run = densecast("score", digits, *images, "--output", tmp_path / "maps", "--max-rejected", "100%", "--json")
    assert run.status == 0, run.errors
    assert run.peak < ALLOWED
    result = json.loads(run.output)
    assert result["reasons"] == REASONS[name]
    # What is large but honest is scored too.
    assert result["scored"] >= GOOD + (0 if REASONS[name] else 1)


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests(name: str, digits: Path, tmp_path: Path):
    run = densecast("score", digits, MANIFESTS[name](tmp_path), "--output", tmp_path / "maps")
    assert run.status == 1, run.errors
    assert "Traceback" not in run.errors
    assert "list." in run.errors
    assert run.peak < ALLOWED
