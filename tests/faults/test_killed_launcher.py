"""A launcher that is killed, and the next one on another host: as pods of Kubernetes, whose names differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.exit_codes import ExitCode
from pipeline.jobs.toml_file import load_jobfile
from pipeline.table.lease import parse
from pipeline.table.lease_store import NAME
from pipeline.table.log import FOLDER
from tests.faults.driver import PATIENCE_S, ROOT
from tests.support.fakes import write_model

LAUNCHER = """
import socket, sys, time
from pathlib import Path
host, jobfile, hangs = sys.argv[1:]
socket.gethostname = lambda: host
import pipeline.jobs.nightly as nightly
from tests.pipeline.jobs.test_nightly import publish_without_beam
from pipeline.cli.main import main

def hang(_):
    print("works", flush=True)
    time.sleep(1000)

nightly.run_job = hang if hangs == "hangs" else publish_without_beam
main(["nightly", jobfile, "--date=2026-11-23", "--json"])
"""


class Launcher:
    """A pod: `densecast nightly` in a process whose host has a name of its own."""

    def __init__(self, host: str, job: Path, *, hangs: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, host, str(job), "hangs" if hangs else "works"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self, words: str, *, on_error: bool = False) -> str:
        """Returns the line with the words; fails where the process ends without it."""
        stream = self.process.stderr if on_error else self.process.stdout
        assert stream is not None
        for line in stream:
            if words in line:
                return line
        pytest.fail(f"it ended without {words!r}")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The job of the manifests, with their lease and their wait; model, images and table are small."""
    theirs = load_jobfile(ROOT / "infra/kubernetes/job.toml").nightly
    write_model(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    path = tmp_path / "job.toml"
    path.write_text(
        'model = "model"\nimages = ["photos/*"]\noutput = "maps"\n[nightly]\n'
        f"lease-minutes = {theirs.lease_minutes}\nlease-wait-minutes = {theirs.lease_wait_minutes}\n"
    )
    return path


def test_the_next_launcher_waits_for_the_lease_of_one_that_was_killed(job: Path, tmp_path: Path):
    lease = tmp_path / "maps" / FOLDER / NAME
    with Launcher("densecast-nightly-1-abcde", job, hangs=True) as first:
        first.says("works")
        first.process.send_signal(signal.SIGKILL)
        assert first.process.wait(PATIENCE_S) == -signal.SIGKILL
    left = parse(lease.read_bytes())
    assert left is not None
    assert (left.host, left.released) == ("densecast-nightly-1-abcde", False)
    with Launcher("densecast-nightly-1-fghij", job) as second:
        assert left.run_id in second.says("waits for the lease", on_error=True)
        lapsed = time.time() - left.seconds - 1  # instead of five minutes of waiting
        os.utime(lease, (lapsed, lapsed))
        found = json.loads(second.says("exit_code"))
        assert second.process.wait(PATIENCE_S) == ExitCode.DONE
    # The first may not be dead at all, so the second has an id of its own.
    assert (found["status"], found["scored"], found["run_id"]) == ("done", 1, f"{left.run_id}-r2")
