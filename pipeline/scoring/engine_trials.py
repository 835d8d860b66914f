"""Trials of engines, each in a process of its own; kept for the next run on this machine with this model."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.engines.candidates import Wish, versions
from pipeline.errors import EngineError
from pipeline.scoring.machine import recall, remember
from pipeline.scoring.reference import known_reference
from pipeline.settings import EngineName

_ROUNDS = 3  # the first warms up
_ENOUGH_MS = 3000.0
_TIMEOUT_S = 600.0
_ENDING_S = 10.0
_LONGEST = 500  # characters of a reason
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What an engine did with one image.

    Attributes:
        milliseconds: Least time, pixels to probabilities.
        error: Largest difference of a probability from the NumPy reference.
    """

    milliseconds: float
    error: float


def trials_of(engines: Sequence[EngineName], wish: Wish) -> dict[EngineName, Trial]:
    """Returns the trials of engines, without those that failed; remembered where this machine has tried them before.

    If one is not remembered, all are tried: their times are compared, so they are measured together.

    Raises:
        ModelError: The model's reference cannot be read.
        EngineError: A process cannot be started.
    """
    keys = {name: ("engine", wish.metadata.digest, wish.precision, name, str(versions(name))) for name in engines}
    try:
        return {name: Trial(*json.loads(recall(key) or "")) for name, key in keys.items()}
    except (ValueError, TypeError):
        pass
    _log.info("trying the engines %s, once for this machine and model", ", ".join(engines))
    trials = try_engines(engines, wish)
    for name, trial in trials.items():  # what failed may have failed by chance
        remember(keys[name], json.dumps([trial.milliseconds, trial.error]))
    return trials


def try_engines(engines: Sequence[EngineName], wish: Wish) -> dict[EngineName, Trial]:
    """Tries engines; returns the trials of those that did not fail. A failure is reported.

    All are opened at the same time. Then they are timed in turns, so that what else the machine does meets all of them.

    Raises:
        ModelError: The model's reference cannot be read.
        EngineError: A process cannot be started.
    """
    known = known_reference(wish.model, wish.metadata) is not None
    with contextlib.ExitStack() as ends:
        processes: list[_Process] = []
        for name in engines:
            process = ends.enter_context(_Process(name, wish))
            processes.append(process)
            if not known:  # the first one that succeeds computes it, and keeps it for the others
                known = process.compare()
        for process in processes:
            process.compare()
        for _ in range(_ROUNDS):
            for process in processes:
                process.run()
        return {process.engine: trial for process in processes if (trial := process.trial()) is not None}


class _Process(contextlib.AbstractContextManager["_Process"]):
    """A process that tries an engine: its memory ends with it, and a crash too. It starts at once.

    Args:
        engine: The engine.
        wish: What it has to do.
    """

    def __init__(self, engine: EngineName, wish: Wish) -> None:
        self.engine = engine
        self._error: float | None = None
        self._times: list[float] = []
        self._failed = False
        # The modules of this process, and not (-P) those of the folder that the user is in.
        command = [sys.executable, "-P", "-m", "pipeline.scoring.engine_trial", engine, wish.model, wish.precision]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment
            )
        except OSError as error:
            self._said.close()
            raise EngineError(
                f"the engine {engine} cannot be tried: {error}",
                where=wish.model,
                why="an engine is tried in a process of its own",
                remedy="name an engine with --engine: then none is tried",
            ) from error

    def compare(self) -> bool:
        """Waits until the engine is open and compared with the reference; returns whether it is."""
        if self._error is None and not self._failed:
            self._error = self._answer()
        return self._error is not None

    def run(self) -> None:
        """Times the engine once, unless it has failed, or has taken long enough."""
        if self._error is None or self._failed or sum(self._times) > _ENOUGH_MS:
            return
        if (milliseconds := self._answer(asked=True)) is not None:
            self._times.append(milliseconds)

    def trial(self) -> Trial | None:
        """Returns what was measured; None if the engine has failed."""
        if self._error is None or self._failed or not self._times:
            return None
        return Trial(min(self._times), self._error)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()

    def _answer(self, *, asked: bool = False) -> float | None:
        """Returns the number that the process says next; None if it says none, which is reported."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise TypeError("the process has no pipes")
        with contextlib.suppress(OSError):  # it has ended: it says nothing either
            if asked:
                stdin.write(b"\n")
                stdin.flush()
        readable = select.poll()
        readable.register(stdout, select.POLLIN)
        in_time = bool(readable.poll(_TIMEOUT_S * 1000))
        try:
            return float(stdout.readline() if in_time else b"")
        except ValueError:
            self._failed = True
        if in_time:  # it ends, and says why
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_S)
        self._process.kill()
        status = self._process.wait()
        self._said.seek(0)
        why = self._said.read().decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {status}"]
        _log.warning("the engine %s cannot be tried: %s", self.engine, why[0][:_LONGEST])
        return None
