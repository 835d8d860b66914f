"""TensorFlow on a real GPU: `python -m pytest tests/gpu`. Everything here is skipped where there is none.

What needs a process of its own (another choice of device, a limit on memory) runs in one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conversion.layers.layout import import_tensorflow
from pipeline.engines import DevicePool
from pipeline.engines.devices import Device, open_devices
from pipeline.engines.gpu_diagnosis import explain, gather
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.maps.recipe import Form, Precision
from pipeline.scoring.calibration.parity import measure_parity
from pipeline.table.rounding import TOLERANCE
from tests.support.map_distance import ROUNDING, distance

ROOT = Path(__file__).parents[2]
ON_CPU = Device("/device:CPU:0", "CPU")
NARROW = {Precision.FLOAT16: 0.005, Precision.BFLOAT16: 0.05}


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Device:
    """The first GPU. It comes before a model is converted, so that nothing is done where there is none."""
    tf = import_tensorflow()
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip(f"no GPU: {explain(gather(tf))[0]}")
    return open_devices("gpu")[0]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_auto_takes_it():
    assert open_devices("auto") == open_devices("gpu")
    assert all(device.is_gpu for device in open_devices("auto"))
    assert "NVIDIA" in open_devices("auto")[0].label


@pytest.mark.parametrize("form", [Form.TOP_K, Form.FLOAT32])
def test_float32_maps_are_those_of_the_cpu(small_model: Path, gpu: Device, form: Form):
    """As near as float32 allows: TF32, TensorFlow's default on recent GPUs, is a hundred times further off."""
    options: dict[str, Any] = {"k": 40, "form": form, "features": ("fc7",)}
    ours = TensorFlowEngine(small_model, **options, device=gpu)
    theirs = TensorFlowEngine(small_model, **options, device=ON_CPU)
    for shape in [(1, 227, 227), (3, 227, 227), (2, 451, 451), (1, 300, 517)]:
        for cells, expected in zip(ours.score(images(*shape)), theirs.score(images(*shape)), strict=True):
            np.testing.assert_allclose(np.sort(cells.scores), np.sort(expected.scores), atol=2e-5)
            for feature, other in zip(cells.features, expected.features, strict=True):
                np.testing.assert_allclose(feature.values, other.values, atol=1e-4 * np.abs(other.values).max())


@pytest.mark.parametrize("precision", NARROW)
def test_16_bits_are_near(small_model: Path, gpu: Device, precision: Precision, record_property: Any):
    exact = TensorFlowEngine(small_model, form=Form.FLOAT32, device=ON_CPU)
    narrow = TensorFlowEngine(small_model, form=Form.FLOAT32, device=gpu, precision=precision)
    parity = measure_parity(exact, narrow, [images(240, 300, seed=n) for n in range(8)], precision)
    record_property("parity", parity.model_dump_json())
    assert 0 < parity.largest < NARROW[precision]


@pytest.mark.parametrize("precision", Precision)
def test_xla(small_model: Path, gpu: Device, precision: Precision):
    shape = (2, 240, 300)
    compiled = TensorFlowEngine(small_model, k=40, device=gpu, precision=precision, compiled=[shape])
    plain = TensorFlowEngine(small_model, k=40, device=gpu, precision=precision)
    tolerance = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}[precision]
    for cells, expected in zip(compiled.score(images(*shape)), plain.score(images(*shape)), strict=True):
        np.testing.assert_allclose(np.sort(cells.scores), np.sort(expected.scores), atol=tolerance)
    assert compiled.take_counts()["xla.compiled"] == 2


@pytest.mark.parametrize("compiled", [(), ((4, 240, 260),)], ids=["plain", "xla"])
@pytest.mark.parametrize("precision", Precision)
def test_a_map_depends_on_its_image_alone(small_model: Path, gpu: Device, precision: Precision, compiled: Any):
    """Neither on its place in the batch, nor on its neighbours, but for what kernels round."""
    options: dict[str, Any] = {"k": 3, "form": Form.FLOAT32, "precision": precision, "compiled": compiled}
    engine = TensorFlowEngine(small_model, **options, device=gpu)
    batch = images(4, 240, 260)
    straight = engine.score(batch)
    narrow = precision is not Precision.FLOAT32
    assert distance(engine.score(batch), straight, classes=not narrow) <= ROUNDING[precision]
    for place in range(4):
        others = images(4, 240, 260, seed=place + 1)
        others[place] = batch[0]
        moved = engine.score(others)[place : place + 1]
        assert distance(moved, straight[:1], classes=not narrow) <= ROUNDING[precision]


SCORES = """
import json, sys
import numpy as np
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.devices import open_devices
engine = TensorFlowEngine(sys.argv[1], k=3, device=open_devices("gpu")[0])
maps = []
for shape in [(3, 227, 227, 3), (1, 451, 451, 3), (2, 300, 517, 3)]:
    maps += engine.score(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
print(json.dumps([[np.ravel(array).tolist() for array in (cells.scores, cells.classes)] for cells in maps]))
"""


def test_another_process_gives_the_same_maps(small_model: Path):
    """cuDNN would choose among its kernels by timing them."""
    first, *others = (answer(python(SCORES, small_model)) for _ in range(3))
    for other in others:
        for (scores, classes), (expected, expected_classes) in zip(other, first, strict=True):
            assert classes == expected_classes
            np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_threads_share_the_engines(small_model: Path):
    devices = open_devices("gpu")
    opened: list[Device] = []

    def open_engine(device: Device) -> TensorFlowEngine:
        opened.append(device)
        return TensorFlowEngine(small_model, k=3, form=Form.FLOAT32, device=device)

    shared = DevicePool(open_engine, devices)
    batch = images(2, 240, 300)
    with ThreadPoolExecutor(2 * len(devices)) as threads:
        results = list(threads.map(lambda _: shared.score(batch), range(8 * len(devices))))
    assert sorted(set(opened)) == sorted(opened)
    for maps in results:
        assert distance(maps, results[0]) <= TOLERANCE


def test_a_gpu_cut_into_two_logical_devices(small_model: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.logical_devices", small_model, "GPU"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )
    found = answer(done)
    assert found["engines"] == len(found["devices"]) == 2
    assert found["same"] is True
    assert found["narrow"] == found["compiled"] == 2


MEMORY = """
import json, subprocess, sys
import numpy as np
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.devices import open_devices
def memory():
    query = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return [sum(int(line.split(",")[i]) for line in lines) for i in (0, 1)]
before, total = memory()
TensorFlowEngine(sys.argv[1], device=open_devices("gpu:0")[0]).score(np.zeros((1, 240, 300, 3), np.uint8))
print(json.dumps([memory()[0] - before, total]))
"""


def test_it_takes_memory_as_it_needs_it(small_model: Path, record_property: Any):
    for _ in range(2):  # MiB; the second with what the first has left, which is nothing
        taken, total = answer(python(MEMORY, small_model))
        record_property("MiB taken", f"{taken} of {total}")
        assert 0 < taken < total / 4, "TensorFlow takes nearly all of it unless it is told otherwise"


SHORT = """
import json, sys
import numpy as np
import tensorflow as tf
[gpu, *_] = tf.config.list_physical_devices("GPU")
tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=768)])
from pipeline.engines import EngineOutOfMemoryError
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.devices import open_devices
engine = TensorFlowEngine(sys.argv[1], device=open_devices("gpu:0")[0])
try:
    engine.score(np.zeros((32, 1500, 1500, 3), np.uint8))
except EngineOutOfMemoryError as error:
    print(json.dumps([error.what, len(engine.score(np.zeros((2, 240, 300, 3), np.uint8)))]))
"""


def test_a_batch_that_does_not_fit_is_told_and_a_smaller_one_fits(small_model: Path):
    """What the scorer halves batches by."""
    what, maps = answer(python(SHORT, small_model))
    assert what == "a batch of 32 images of 1500 x 1500 does not fit in memory"
    assert maps == 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-photos")
    for n in range(6):
        Image.fromarray(images(240, 260 + 20 * (n % 2), seed=n)).save(folder / f"p{n}.png")
    return folder


def score(model: Path, photos: Path, output: Path, *options: str, **environment: str) -> Any:
    code = "import sys; from pipeline.cli.main import main; sys.exit(main())"
    where = "--output", output, "--json", "--engine", "tensorflow"
    return python(code, "score", model, photos, *where, *options, **environment)


@pytest.mark.parametrize(
    "options",
    [(), ("--xla",), ("--precision", "float16", "--max-parity-flips", "5%"), ("--precision", "float16", "--xla")],
    ids=" ".join,
)
def test_a_run(small_model: Path, photos: Path, tmp_path: Path, options: tuple[str, ...]):
    found = answer(score(small_model, photos, tmp_path / "maps", "--device", "gpu", *options))
    assert found["scored"] == 6
    assert all("NVIDIA" in device for device in found["devices"])
    assert found["devices"]


def test_a_gpu_that_is_hidden_is_not_replaced_by_the_cpu(small_model: Path, photos: Path, tmp_path: Path):
    done = score(small_model, photos, tmp_path / "maps", "--device", "gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "CUDA_VISIBLE_DEVICES='' hides all GPUs" in done.stderr
    found = answer(score(small_model, photos, tmp_path / "maps", "--device", "auto", CUDA_VISIBLE_DEVICES=""))
    assert found["devices"] == {"CPU": found["devices"]["CPU"]}


def test_cpu_leaves_it_alone(small_model: Path, photos: Path, tmp_path: Path):
    found = answer(score(small_model, photos, tmp_path / "maps", "--device", "cpu"))
    assert list(found["devices"]) == ["CPU"]
