"""What processes take, read from /proc while they live.

`ru_maxrss` of a child that was started by vfork is at least its parent's size (Linux keeps the larger of the two across
exec), and CPU time of a child reaches its parent only if the parent waits for it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 0.25
_USER, _SYSTEM = 11, 12
"""Places in /proc/PID/stat, counted after the name."""


def held(pid: int | str = "self") -> dict[str, float]:
    """Megabytes of a process by the names of /proc/PID/status; empty where it is gone."""
    return _megabytes(Path(f"/proc/{pid}/status"))


def shared_megabytes(pid: int) -> float:
    """Memory of a process in megabytes, in which each page that n processes share counts for 1/n; 0 if it is gone."""
    return _megabytes(Path(f"/proc/{pid}/smaps_rollup")).get("Pss", 0.0)


def cpu_seconds_of(pid: int) -> float:
    """User and system seconds of a process, without its children; 0 if it is gone."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS if fields else 0.0


def children_of(pid: int | str = "self") -> list[int]:
    """The processes that a process has started, and that have not ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    return [int(child) for task in tasks for child in _text(task / "children").split()]


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for process in found:  # grows
        found += children_of(process)
    return found


@dataclass(frozen=True)
class Usage:
    """What a command took, with all processes that it started.

    Attributes:
        started: When it was started, in seconds since 1970.
        wall_s: From its start to its end.
        cpu_s: User and system time. Of a process that its parent does not wait for, the last quarter of a second may be
            missing.
        peak_mb: The most memory that its processes held at a time, in megabytes, as `shared_megabytes`; sampled.
    """

    started: float
    wall_s: float
    cpu_s: float
    peak_mb: float


class CommandFailedError(Exception):
    """A command that was to be measured has failed."""


def run_watched(command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> Usage:
    """Runs a command to its end, and watches its processes.

    Raises:
        CommandFailedError: Its exit status is not 0.
    """
    cpu: dict[int, float] = {}
    peak = 0.0
    started, start = time.time(), time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        ended = threading.Event()
        status: list[int] = []
        waited: list[float] = []

        def wait() -> None:
            _, code, usage = os.wait4(process.pid, 0)
            status.append(os.waitstatus_to_exitcode(code))
            waited.extend([time.perf_counter() - start, usage.ru_utime + usage.ru_stime])
            ended.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        while not ended.wait(_EVERY_S):
            tree = tree_of(process.pid)
            cpu |= {pid: max(cpu.get(pid, 0.0), cpu_seconds_of(pid)) for pid in tree}
            peak = max(peak, sum(map(shared_megabytes, tree)))
        waiter.join()
        process.returncode = status[0]
    if status[0]:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise CommandFailedError(f"exit status {status[0]} of {' '.join(command)}\n{last}")
    wall, cpu_waited = waited
    return Usage(started, wall, max(cpu_waited, sum(cpu.values())), peak)


def _megabytes(file: Path) -> dict[str, float]:
    lines = (line.split() for line in _text(file).splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1:] == ["kB"]}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
