"""Processes of engines and runtimes: the side that asks. Only one of them runs at a time; the others are stopped.

A runtime's threads go on spinning for a while after a run, in the hope of the next: on few cores that would slow down
whoever runs next. So a process is stopped (SIGSTOP) as soon as it has answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.ruler.figures import Kind
from tests.benchmarks.ruler.ours import OURS, PRODUCT
from tests.benchmarks.ruler.peers import PEERS

ROOT = Path(__file__).parents[3]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_SECONDS = 900.0
_KEPT = 400  # characters of what a process that died wrote last


class Entrant(NamedTuple):
    """One that may take part.

    Attributes:
        label: Its name for people, unique.
        kind: Ours, a peer, or the matrix product.
        command: Serves it; the job is to be added.
        convert: Converts for it; the job is to be added. Empty if it is not needed.
    """

    label: str
    kind: Kind
    command: list[str]
    convert: list[str]


def entrants() -> list[Entrant]:
    """Returns all, installed or not."""
    ours, peers = "tests.benchmarks.ruler.ours", "tests.benchmarks.ruler.peers"
    found = [Entrant(f"densecast {name}", "ours", [sys.executable, "-m", ours, name], []) for name in OURS]
    for name, peer in PEERS.items():
        python = str(PEERS_PYTHON) if peer.elsewhere else sys.executable
        convert = [python, "-m", peers, "convert", name] if peer.convert else []
        found.append(Entrant(peer.title, "peer", [python, "-m", peers, "serve", name], convert))
    return [*found, Entrant("matrix product", "peak", [sys.executable, "-m", ours, PRODUCT], [])]


class LeftOutError(Exception):
    """An entrant does not take part; the message says why."""


class Child:
    """A process that serves one entrant, opened and stopped.

    Args:
        command: What serves.
        job: What is computed, a `Job`.

    Raises:
        LeftOutError: It is not installed, refuses the net, or dies.
    """

    def __init__(self, command: Sequence[str], job: Mapping[str, object]) -> None:
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by `close`
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*_installed(command), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
            env=_environment(),
        )
        try:
            self.opened = self._answer()
        except LeftOutError:
            self.close()
            raise
        self.ready_s = time.perf_counter() - started

    def ask(self, **request: Any) -> dict[str, Any]:
        """Returns the answer to a request; raises LeftOutError if there is none."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says how it ended
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()  # also one that is stopped
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            status = self._process.wait()
            raise LeftOutError(f"the process ends with status {status}: {self._last_words()}")
        self._process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise LeftOutError(f"not installed: {answer['missing']}")
        if "error" in answer:
            raise LeftOutError(f"refuses: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._said.seek(0)
        return " ".join(self._said.read()[-_KEPT:].split())


def convert(entrant: Entrant, job: Mapping[str, object]) -> None:
    """Makes the form of a net that an entrant reads, unless it is there; raises LeftOutError if that fails."""
    if not entrant.convert:
        return
    command = [*_installed(entrant.convert), json.dumps(job)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise LeftOutError(f"does not convert the net: {' '.join(done.stderr[-_KEPT:].split())}")


def _installed(command: Sequence[str]) -> Sequence[str]:
    if not Path(command[0]).exists():
        raise LeftOutError(f"not installed: tests/benchmarks/install makes {PEERS_PYTHON.parents[1].name}")
    return command


def _environment() -> dict[str, str]:
    """Python may keep what it compiles: TensorFlow's modules take 20 s to compile, at each start where it may not."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": "", "OPENCV_LOG_LEVEL": "SILENT"}
