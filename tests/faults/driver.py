"""A process to be disturbed: a job, a compaction or a restore that dies at a point, or waits there for another.

Most of a process's time would go into importing Beam. So one process imports it, and each child is a fork of that one,
which has run nothing yet.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.errors import DensecastError
from tests.faults import points

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0
"""For a child, or for what it waits for: a machine may be slow."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "apache_beam.runners.portability.fn_api_runner.fn_runner",
        "pipeline.cli.console",
        "pipeline.jobs.run",
        "pipeline.maintenance.compact",
        "pipeline.maintenance.restore",
        "tests.faults.collection",
    ]
)


@dataclass
class Ended:
    """How a child ended.

    Attributes:
        status: Exit status; negative: the signal that killed it.
        reached: Whether it came to the point that it was told.
        error: Type of the error that it raised, if any.
        about: What it said of it, or the result.
    """

    status: int
    reached: bool
    error: str
    about: Any


class Child:
    """A driver at work.

    Args:
        values: Of the job; or of the compaction, its `output`; or of the restore, that and its `version`.
        point: Where something happens.
        meet: A folder where all who are to meet at the point leave their mark; without one, the process is killed.
        party: How many are to meet.
        command: `score`, `compact` or `restore`.
    """

    def __init__(
        self, values: dict[str, Any], point: str = "", meet: Path | None = None, party: int = 2, command: str = "score"
    ) -> None:
        told = {"values": values, "point": point, "meet": str(meet or ""), "party": party, "command": command}
        self._said = tempfile.TemporaryDirectory(prefix="densecast-child-")
        self.process = _FORKS.Process(target=_run, args=(told, dict(os.environ), self._said.name))
        self.process.start()

    def wait_until_started(self) -> None:
        """Waits until the job begins."""
        deadline = time.monotonic() + PATIENCE_S
        while "started" not in self._lines():
            assert self.process.exitcode is None, self.end().about
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> Ended:
        try:
            self.process.join(PATIENCE_S)
        finally:
            self.process.kill()
        self.process.join()
        lines, errors = self._lines(), Path(self._said.name, "stderr").read_text()
        self._said.cleanup()
        last = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        status = self.process.exitcode
        assert status is not None
        return Ended(status, "reached" in lines, last.get("error", ""), last.get("about", errors))

    def _lines(self) -> list[str]:
        said = Path(self._said.name, "stdout")
        return said.read_text().splitlines() if said.exists() else []


def _run(told: dict[str, Any], environment: dict[str, str], folder: str) -> None:
    """A child: it has the environment of the test, and writes what it says into files of a folder."""
    os.environ.clear()
    os.environ.update(environment)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, stream.fileno())
        os.close(file)
    sys.exit(main(told))


def main(told: dict[str, Any]) -> int:
    from pipeline.cli.console import quiet_libraries
    from pipeline.jobs.run import run_job
    from pipeline.jobs.spec import describe_job
    from pipeline.maintenance.compact import compact
    from pipeline.maintenance.restore import restore
    from tests.faults.collection import without_tensorflow

    quiet_libraries(debug=False)
    if told["point"]:
        points.install(told["point"], _meeting(Path(told["meet"]), told["party"]) if told["meet"] else _die)
    print("started", flush=True)  # noqa: T201 - the parent reads it
    try:
        if told["command"] == "compact":
            about: Any = compact(told["values"]["output"]).rows
        elif told["command"] == "restore":
            about = restore(told["values"]["output"], told["values"]["version"]).version
        else:
            with without_tensorflow():
                about = run_job(describe_job(**told["values"])).summary._asdict()
    except DensecastError as error:
        print(json.dumps({"error": type(error).__name__, "about": str(error)}))  # noqa: T201
        return 1
    print(json.dumps({"about": about}))  # noqa: T201
    return 0


def _die() -> None:
    os.write(1, b"reached\n")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE_S)  # a thread may run on for a moment: not into what comes after the point


def _meeting(folder: Path, party: int) -> Callable[[], None]:
    def meet() -> None:
        os.write(1, b"reached\n")
        (folder / str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE_S
        while len(list(folder.iterdir())) < party:
            if time.monotonic() > deadline:
                raise TimeoutError("the others did not come")
            time.sleep(0.005)

    return meet
