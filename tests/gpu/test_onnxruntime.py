"""ONNX Runtime on a real GPU: `python -m pytest tests/gpu`. Everything here is skipped where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import import_onnxruntime
from pipeline.engines import DevicePool, EngineOutOfMemoryError
from pipeline.engines.cuda_driver import visible_gpus
from pipeline.engines.devices import Device
from pipeline.engines.gpu_diagnosis import explain, gather_for_onnxruntime
from pipeline.engines.onnxruntime import OnnxRuntimeEngine
from pipeline.engines.onnxruntime_devices import CUDA, open_onnxruntime_devices
from pipeline.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine
from pipeline.maps.recipe import Form, Precision
from pipeline.scoring.calibration.parity import measure_parity
from tests.support.map_distance import distance

ROOT = Path(__file__).parents[2]
SHAPES = [(1, 227, 227), (3, 227, 227), (2, 451, 451), (1, 300, 517)]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Device:
    """The first GPU. It comes before a model is converted, so that nothing is done where there is none."""
    runtime = import_onnxruntime()
    if CUDA not in runtime.get_available_providers() or not visible_gpus():
        pytest.skip(f"no GPU: {explain(gather_for_onnxruntime(runtime))[0]}")
    return open_onnxruntime_devices("gpu")[0]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_auto_takes_it():
    assert open_onnxruntime_devices("auto") == open_onnxruntime_devices("gpu")
    assert "NVIDIA" in open_onnxruntime_devices("auto")[0].label


@pytest.mark.parametrize("form", [Form.TOP_K, Form.FLOAT32])
def test_float32_maps_are_those_of_the_cpu(onnx_model: Path, gpu: Device, form: Form):
    """As near as float32 allows; TF32 is a hundred times further off."""
    options: dict[str, Any] = {"k": 40, "form": form, "features": ("fc7",)}
    ours = OnnxRuntimeGpuEngine(onnx_model, **options, device=gpu)
    theirs = OnnxRuntimeEngine(onnx_model, **options)
    for shape in SHAPES:
        for cells, expected in zip(ours.score(images(*shape)), theirs.score(images(*shape)), strict=True):
            np.testing.assert_allclose(np.sort(cells.scores), np.sort(expected.scores), atol=2e-5)
            for feature, other in zip(cells.features, expected.features, strict=True):
                np.testing.assert_allclose(feature.values, other.values, atol=1e-4 * np.abs(other.values).max())


def test_float16_is_near(onnx_model: Path, gpu: Device, record_property: Any):
    exact = OnnxRuntimeEngine(onnx_model, form=Form.FLOAT32)
    narrow = OnnxRuntimeGpuEngine(onnx_model, form=Form.FLOAT32, device=gpu, precision=Precision.FLOAT16)
    parity = measure_parity(exact, narrow, [images(240, 300, seed=n) for n in range(8)], Precision.FLOAT16)
    record_property("parity", parity.model_dump_json())
    assert 0 < parity.largest < 0.005


def test_a_map_depends_on_its_image_alone(onnx_model: Path, gpu: Device):
    engine = OnnxRuntimeGpuEngine(onnx_model, form=Form.FLOAT32, device=gpu)
    batch = images(4, 240, 260)
    straight = engine.score(batch)
    for place in range(4):
        others = images(4, 240, 260, seed=place + 1)
        others[place] = batch[0]
        assert distance(engine.score(others)[place : place + 1], straight[:1]) <= 1e-5


SCORES = """
import hashlib, sys
import numpy as np
from pipeline.engines.onnxruntime_devices import open_onnxruntime_devices
from pipeline.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine
engine = OnnxRuntimeGpuEngine(sys.argv[1], k=3, device=open_onnxruntime_devices("gpu")[0])
digest = hashlib.sha256()
for shape in [(3, 227, 227, 3), (1, 451, 451, 3), (2, 300, 517, 3)]:
    for cells in engine.score(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)):
        digest.update(cells.scores.tobytes() + cells.classes.tobytes())
print(digest.hexdigest())
"""


def test_another_process_gives_the_same_maps(onnx_model: Path):
    """cuDNN would choose among its kernels by timing them."""
    command = [sys.executable, "-c", SCORES, str(onnx_model)]
    found = {
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, cwd=ROOT).stdout
        for _ in range(3)
    }
    assert len(found) == 1


def test_a_batch_that_does_not_fit_is_told_and_a_smaller_one_fits(
    onnx_model: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
):
    """What the scorer halves batches by."""
    plain = OnnxRuntimeGpuEngine._providers

    def limited(engine: OnnxRuntimeGpuEngine) -> list[Any]:
        (provider, options), cpu = plain(engine)
        return [(provider, {**options, "gpu_mem_limit": str(256 << 20)}), cpu]

    monkeypatch.setattr(OnnxRuntimeGpuEngine, "_providers", limited)
    engine = OnnxRuntimeGpuEngine(onnx_model, device=gpu)
    with pytest.raises(EngineOutOfMemoryError, match="32 images of 1500 x 1500 does not fit in memory"):
        engine.score(images(32, 1500, 1500))
    assert len(engine.score(images(2, 240, 300))) == 2


def test_threads_share_the_gpus(onnx_model: Path):
    devices = open_onnxruntime_devices("gpu")
    shared = DevicePool(lambda device: OnnxRuntimeGpuEngine(onnx_model, device=device), devices)
    batch = images(2, 240, 300)
    with ThreadPoolExecutor(2 * len(devices)) as threads:
        results = list(threads.map(lambda _: shared.score(batch), range(8 * len(devices))))
    for maps in results:
        assert distance(maps, results[0]) <= 1e-5


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_run(onnx_model: Path, tmp_path: Path, engine: str):
    from PIL import Image

    for n in range(4):
        Image.fromarray(images(240, 260, seed=n)).save(tmp_path / f"p{n}.png")
    code = "import sys; from pipeline.cli.main import main; sys.exit(main())"
    command = ["score", onnx_model, tmp_path, "--output", tmp_path / "maps", "--json", "--device", "gpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command), "--engine", engine],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        cwd=ROOT,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["scored"] == 4
    assert found["engine"]["name"] == "onnxruntime"
    assert all("NVIDIA" in device for device in found["devices"])
