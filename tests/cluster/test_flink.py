"""Flink for real: a job manager and two task managers from a released distribution, each with its Python workers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.runners.flink import FlinkCluster
from pipeline.tools.demo import convert_digits
from pipeline.tools.verify_runner import compare_tables
from tests.cluster.tools import DENSECAST, ROOT, free_port, installed

GOOD, BAD = 510, 3
DISTURBED_S, MEAN_S = 60.0, 3.0


class Cluster:
    """`infra/flink/cluster` on ports of its own."""

    def __init__(self, state: Path) -> None:
        self.rest, self.pool = free_port(), free_port()
        self._environment = {
            **os.environ,
            "FLINK_CLUSTER": str(state),
            "FLINK_REST_PORT": str(self.rest),
            "FLINK_RPC_PORT": str(free_port()),
            "FLINK_POOL_PORT": str(self.pool),
        }

    def do(self, command: str) -> str:
        script = [str(ROOT / "infra/flink/cluster"), command]
        done = subprocess.run(script, env=self._environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[tuple[str, int]]:
        """Task managers and Python workers that run."""
        found = [line.split() for line in self.do("processes").splitlines()]
        return [(name.rsplit("-", 1)[0], int(pid)) for name, *pids in found for pid in pids]

    def score(self, collection: Collection, output: Path) -> list[str]:
        """The command line of a job."""
        return [
            *(str(DENSECAST), "score", str(collection.model), str(collection.images), "--output", str(output)),
            *("--tile-pixels", str(collection.tile_pixels), "--top-k", "3"),
            *("--runner", "FlinkRunner", "--flink-master", f"localhost:{self.rest}", "--"),
            *(f"--flink_job_server_jar={ROOT}/.cluster/flink/job-server.jar", "--flink_submit_uber_jar"),
            *("--environment_type=EXTERNAL", f"--environment_config=workers:{self.pool}"),
        ]


class Collection:
    """Small images of several sizes, some in tiles, a few that are rejected; a model; the table of a local run."""

    tile_pixels = 8000

    def __init__(self, root: Path) -> None:
        self.images, self.model, self.here = root / "images", root / "model", root / "here"
        self.images.mkdir()
        for number in range(GOOD):
            height, width = 48 + 8 * (number % 5), 48 + 16 * (number % 7)
            pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{number:03}.png")
        (self.images / "broken.jpg").write_bytes(b"no image")
        (self.images / "empty.png").write_bytes(b"")
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(self.images / "small.png")
        convert_digits(self.model)
        job = {"model": str(self.model), "images": (str(self.images),), "tile_pixels": self.tile_pixels, "top_k": 3}
        run_job(describe_job(**job, output=str(self.here)))


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    installed("flink/job-server.jar", "infra/flink/cluster install")
    running = Cluster(tmp_path_factory.mktemp("flink"))
    try:
        running.do("start")
        yield running
    finally:
        running.do("stop")


def same(collection: Collection, output: Path) -> None:
    """Asserts that a table is whole, and row for row the local one."""
    found = compare_tables(str(output), str(collection.here))
    assert found.equal, found
    assert found.left.rows > GOOD + BAD, "some images are in tiles"
    report = check(str(output))
    assert report.clean, report.findings


def test_the_table_is_that_of_the_local_runner(cluster: Cluster, collection: Collection, tmp_path: Path) -> None:
    done = subprocess.run(
        cluster.score(collection, tmp_path / "maps"), capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{GOOD + BAD} images: " in done.stdout
    same(collection, tmp_path / "maps")


def test_an_interrupted_job_is_cancelled(cluster: Cluster, collection: Collection, tmp_path: Path) -> None:
    flink = FlinkCluster(f"localhost:{cluster.rest}")
    before = {job["jid"] for job in jobs(flink)}
    with subprocess.Popen(
        cluster.score(collection, tmp_path / "maps"), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        started = threading.Event()
        while not started.wait(0.2):
            if {job["jid"] for job in jobs(flink) if job["state"] == "RUNNING"} - before or running.poll() is not None:
                started.set()
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "published nothing" in told
    [job] = [job for job in jobs(flink) if job["jid"] not in before]
    assert job["state"] in ("CANCELLING", "CANCELED")


def test_what_no_repetition_mends_is_told_though_flink_would_try_again(
    cluster: Cluster, collection: Collection, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(collection.model, model)
    (model / "saved_model.pb").write_bytes(b"damaged")
    command = cluster.score(collection, tmp_path / "maps")
    command[2] = str(model)
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 1, done.stderr
    assert "the SavedModel cannot be loaded" in done.stderr
    assert "what to do: make one with: densecast convert" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_is_the_same_with_processes_killed_all_the_time(
    cluster: Cluster, collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = cluster.score(collection, tmp_path / "maps")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        killed = torment(cluster, running)
        told, _ = running.communicate(timeout=280)
    assert running.returncode == 0, told
    with capsys.disabled():
        sys.stdout.write(f"killed within {DISTURBED_S:.0f} s: {dict(killed)}\n")
    assert killed["task-manager"], killed
    assert killed["worker"], killed
    same(collection, tmp_path / "maps")


def torment(cluster: Cluster, job: subprocess.Popen[str]) -> Counter[str]:
    """Kills a task manager or a Python worker every 3 s on average, for 60 s from the first worker on."""
    chance, killed, end = random.Random(5), Counter[str](), threading.Event()
    timer = threading.Timer(DISTURBED_S, end.set)
    while not end.wait(chance.expovariate(1 / MEAN_S)) and job.poll() is None:
        found = cluster.processes()
        if "worker" not in dict(found) and not timer.is_alive():
            continue
        if not timer.is_alive() and not end.is_set():
            timer.start()
        kind = chance.choice(sorted({name for name, _ in found}))
        pid = chance.choice([pid for name, pid in found if name == kind])
        try:
            os.kill(pid, signal.SIGKILL)
            killed[kind] += 1
        except ProcessLookupError:
            continue
    timer.cancel()
    return killed


def jobs(flink: FlinkCluster) -> list[dict[str, str]]:
    answer = requests.get(f"{flink.url}/jobs/overview", timeout=10)
    return list(answer.json()["jobs"])
