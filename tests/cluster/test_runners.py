"""The tables of Prism and Spark are the local runner's: `densecast verify-runner`, with workers here and in a pool.

`infra/prism/install` and `infra/spark/install` bring the runners. Where they are not, these tests skip; with
DENSECAST_CLUSTER_TOOLS=required they fail instead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.tools import ROOT, installed


@pytest.fixture(scope="module")
def prism() -> str:
    return str(installed("prism/prism", "infra/prism/install"))


@pytest.fixture(scope="module")
def spark() -> Iterator[str]:
    """The job server of a standalone Spark: a master, a worker and itself."""
    installed("spark/version", "infra/spark/install")
    cluster = ROOT / "infra" / "spark" / "cluster"
    started = subprocess.run([cluster, "start"], stdout=subprocess.PIPE, text=True, timeout=300)
    try:
        assert started.returncode == 0
        yield started.stdout.split()[-1]
    finally:
        subprocess.run([cluster, "stop"], check=True, timeout=120)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pool of Python workers as on a cluster: it starts a process for whoever asks, `python` from its PATH."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = tmp_path_factory.mktemp("pool") / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
            env={**os.environ, "PATH": path},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    yield f"localhost:{port}"  # whoever connects waits until it listens
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert alive, log.read_text()


def verified(*arguments: str) -> Any:
    """The report of a trial in which the runner was found equal."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "verify-runner", "--pages", "6", "--json", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["equal"]
    for night in report["nights"]:
        assert night["tables"]["left"]["rows"] > 20
        assert night["there"]["counters"] == night["here"]["counters"], "work was done twice, or not counted"
    return report


def test_prism_with_workers_in_this_process(prism: str):
    report = verified("--runner", "PrismRunner", "--", f"--prism_location={prism}")
    assert report["about"]["prism"] == f"v{report['versions']['apache-beam']}"


def test_prism_with_workers_of_a_pool(prism: str, pool: str):
    verified(
        *("--runner", "PrismRunner", "--", f"--prism_location={prism}"),
        *("--environment_type=EXTERNAL", f"--environment_config={pool}"),
    )


def test_what_a_worker_raises_on_prism_keeps_its_kind(prism: str, tmp_path: Path):
    """A user reads the same message as of a local run, and no traceback of Go or Python."""
    (tmp_path / "list.csv").write_text('uri,id\n"unclosed')
    model = tmp_path / "model"
    arguments = [sys.executable, "-m", "pipeline.cli"]
    subprocess.run([*arguments, "models", "random", "squeezenet_1_1", "-o", model], check=True, stdout=subprocess.PIPE)
    done = subprocess.run(
        [
            *(*arguments, "score", str(model), f"@{tmp_path / 'list.csv'}", "--output", str(tmp_path / "maps")),
            *("--runner", "PrismRunner", "--", f"--prism_location={prism}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"densecast: {tmp_path / 'list.csv'}, line 2: not CSV")


def test_spark_with_workers_of_a_pool(spark: str, pool: str):
    verified(
        *("--runner", "PortableRunner", "--", f"--job_endpoint={spark}"),
        *("--environment_type=EXTERNAL", f"--environment_config={pool}"),
    )


def test_spark_with_workers_in_this_process(spark: str):
    verified("--runner", "PortableRunner", "--", f"--job_endpoint={spark}", "--environment_type=LOOPBACK")
