"""Which device is computed on, and that a GPU is never given up in silence; GPUs are faked, see tests/gpu."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from pipeline.cli.main import cli
from pipeline.engines import EngineFactory
from pipeline.engines.devices import check_wanted, open_devices
from pipeline.engines.gpu_diagnosis import GpuFacts, explain, gather
from pipeline.errors import EngineError, JobError
from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.settings import EngineName
from pipeline.transforms.score_fn import ScoreFn
from tests.support.fake_tensorflow import FakeTensorFlow
from tests.support.fakes import METADATA, write_model

NO_GPU_HERE = ("gpu", "gpu:0")


@pytest.mark.parametrize("wanted", ["", "GPU", "gpu:", "gpu:-1", "gpu:0,1", "cuda", "cpu:0"])
def test_other_words_are_no_device(wanted: str):
    with pytest.raises(JobError, match="is not a device"):
        check_wanted(wanted)
    with pytest.raises(JobError, match="is not a device"):
        describe_job(model="m", images=("a",), output="o", device=wanted)


def test_auto_takes_all_gpus_and_says_so(caplog: pytest.LogCaptureFixture):
    tf = FakeTensorFlow(gpus=2)
    with caplog.at_level(logging.INFO, "pipeline.engines.devices"):
        devices = open_devices("auto", tf)
    assert [device.name for device in devices] == ["/device:GPU:0", "/device:GPU:1"]
    assert all(device.is_gpu for device in devices)
    assert "device: GPU:0 NVIDIA H100, GPU:1 NVIDIA H100" in caplog.text


def test_auto_without_a_gpu_is_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "pipeline.engines.devices"):
        [device] = open_devices("auto", FakeTensorFlow(gpus=0))
    assert (device.name, device.label, device.is_gpu) == ("/device:CPU:0", "CPU", False)
    assert "device: CPU, because TensorFlow sees no GPU" in caplog.text


@pytest.mark.parametrize("wanted", NO_GPU_HERE)
def test_a_gpu_that_is_not_there_is_an_error(wanted: str):
    with pytest.raises(EngineError, match=f"TensorFlow sees no GPU, and the device is {wanted}") as caught:
        open_devices(wanted, FakeTensorFlow(gpus=0))
    assert caught.value.why
    assert caught.value.remedy


def test_a_gpu_takes_memory_as_it_needs_it_and_computes_float32_reproducibly():
    tf = FakeTensorFlow(gpus=2)
    open_devices("gpu", tf)
    assert set(tf.growth.values()) == {True}
    assert (tf.tf32, tf.deterministic) == (False, True)
    assert open_devices("gpu", tf) == open_devices("auto", tf), "again, and nothing happens"


def test_cpu_hides_gpus():
    tf = FakeTensorFlow(gpus=2)
    [device] = open_devices("cpu", tf)
    assert device.label == "CPU"
    assert tf.visible == []
    assert (tf.tf32, tf.deterministic) == (True, False)
    with pytest.raises(EngineError, match="this process has hidden it"):
        open_devices("gpu", tf)


def test_one_of_several_gpus_hides_the_others():
    tf = FakeTensorFlow(gpus=3)
    [device] = open_devices("gpu:2", tf)
    assert tf.visible == [tf.physical[2]]
    assert device.label == "GPU:0 NVIDIA H100", "TensorFlow counts those that it sees"
    assert tf.growth == {gpu: gpu == tf.physical[2] for gpu in tf.physical}
    with pytest.raises(EngineError, match="there is no gpu:3: 3 GPUs visible"):
        open_devices("gpu:3", FakeTensorFlow(gpus=3))


def test_one_of_several_gpus_after_tensorflow_has_shown_all():
    tf = FakeTensorFlow(gpus=3)
    open_devices("gpu", tf)
    assert [device.name for device in open_devices("gpu:1", tf)] == ["/device:GPU:1"]
    assert open_devices("cpu", tf)[0].name == "/device:CPU:0"


def test_tensorflow_that_was_initialized_too_early_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    with pytest.raises(EngineError, match="was initialized before") as caught:
        open_devices("auto", FakeTensorFlow(gpus=1, initialized=True))
    assert "TF_FORCE_GPU_ALLOW_GROWTH=true" in caught.value.remedy
    open_devices("auto", FakeTensorFlow(gpus=1, initialized=True, growth=True))
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    open_devices("auto", FakeTensorFlow(gpus=1, initialized=True))


def test_a_gpu_that_was_cut_into_parts_keeps_the_memory_that_these_were_given():
    tf = FakeTensorFlow(gpus=1, parts=2)
    assert [device.name for device in open_devices("gpu", tf)] == ["/device:GPU:0", "/device:GPU:1"]
    assert set(tf.growth.values()) == {False}


DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"


@pytest.mark.parametrize(
    ("facts", "why", "remedy"),
    [
        (GpuFacts(False, device_files=("/dev/nvidia0",)), "built without CUDA", "its extra `gpu-tensorflow`"),
        (GpuFacts(True), "no NVIDIA device file", "--gpus all"),
        (GpuFacts(True, "12.5", "", ("/dev/nvidia0",), "550.1"), "CUDA_VISIBLE_DEVICES='' hides", "unset"),
        (GpuFacts(True, "12.5", "-1,0", ("/dev/nvidia0",), "550.1"), "CUDA_VISIBLE_DEVICES='-1,0' hides", "unset"),
        (GpuFacts(True, "12.5", "0", ("/dev/nvidia0",)), "driver is not loaded", "nvidia-smi"),
        (GpuFacts(True, "12.5", None, ("/dev/nvidia0",), "450.1"), "driver is 450.1.*CUDA 12.5.*too old", "nvidia-smi"),
        (GpuFacts(False), "built without CUDA; there is no NVIDIA device file", "in a new environment.*--gpus all"),
    ],
)
def test_why_there_is_no_gpu(facts: GpuFacts, why: str, remedy: str):
    found = explain(facts)
    for text, expected in zip(found, (why, remedy), strict=True):
        with pytest.raises(JobError, match=expected):
            raise JobError(text)


def test_the_facts_of_a_machine(tmp_path: Path):
    tf = SimpleNamespace(sysconfig=SimpleNamespace(get_build_info=lambda: {"is_cuda_build": True, "cuda_version": "9"}))
    assert gather(tf, {}, tmp_path) == GpuFacts(True, "9")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(DRIVER)
    (tmp_path / "dev").mkdir()
    for name in ("nvidia1", "nvidia0", "nvidiactl", "null"):
        (tmp_path / "dev" / name).touch()
    found = gather(tf, {"CUDA_VISIBLE_DEVICES": "1"}, tmp_path)
    assert found == GpuFacts(True, "9", "1", ("/dev/nvidia0", "/dev/nvidia1"), "550.54.15")


# --- refused before anything is listed, and on a worker before anything is loaded


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.devices.import_tensorflow", FakeTensorFlow)


@pytest.mark.parametrize("wanted", NO_GPU_HERE)
@pytest.mark.usefixtures("no_gpu")
def test_a_local_job_is_refused_before_its_images_are_listed(tmp_path: Path, wanted: str):
    model = write_model(tmp_path / "model")
    job = describe_job(model=str(model), images=("/nowhere/",), output=str(tmp_path / "maps"), device=wanted)
    with pytest.raises(EngineError, match="TensorFlow sees no GPU"):
        run_job(job)
    assert not (tmp_path / "maps").exists()


@pytest.mark.usefixtures("no_gpu")
def test_a_worker_is_refused_in_setup():
    recipe = Recipe(METADATA.digest)

    def score_fn(device: str) -> ScoreFn:
        factory = EngineFactory("/nowhere", recipe, EngineName.TENSORFLOW, device)
        return ScoreFn(factory, "table", "run", recipe, limits=Limits())

    with pytest.raises(EngineError, match="TensorFlow sees no GPU"):
        score_fn("gpu").setup()
    for device in ("auto", "cpu"):
        score_fn(device).setup()


@pytest.mark.usefixtures("no_gpu")
def test_bench_is_refused_too(tmp_path: Path):
    model = write_model(tmp_path / "model")
    result = CliRunner().invoke(cli, ["bench", str(model), "--device", "gpu:1"])
    assert isinstance(result.exception, EngineError)
    assert "TensorFlow sees no GPU, and the device is gpu:1" in str(result.exception)


def test_a_launcher_of_distant_workers_needs_no_gpu():
    values = {"model": "m", "images": ("a",), "output": "o", "device": "gpu"}
    assert describe_job(**values, runner="FlinkRunner", flink_master="f:1").launcher_device() == "auto"
    assert describe_job(**values).launcher_device() == "gpu"
