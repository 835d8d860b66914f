"""The resident memory of a command with all processes that it starts, sampled while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY_S = 0.02


class Run(NamedTuple):
    """How a command ended.

    Attributes:
        status: Its exit status; negative if a signal ended it.
        output: What it wrote to standard output.
        errors: What it wrote to standard error.
        peak: The most bytes that all of its processes held at once, as sampled. Shared pages count for each process.
    """

    status: int
    output: str
    errors: str
    peak: int


def run_sampled(command: Sequence[str], *, kill_above: int, timeout_s: float, env: dict[str, str] | None = None) -> Run:
    """Runs a command in a session of its own, and samples the memory of its processes.

    Args:
        command: The command.
        kill_above: The processes are killed when they hold more bytes: a hostile file must not take the machine.
        timeout_s: They are killed after this time: a guard against hangs, not a measurement.
        env: Variables in addition to those of this process.
    """
    peak = 0
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, start_new_session=True, env={**os.environ, **(env or {})}
        )
        end = time.monotonic() + timeout_s
        try:
            while process.poll() is None and peak <= kill_above and time.monotonic() < end:
                peak = max(peak, _resident(process.pid))
                time.sleep(_EVERY_S)
        finally:
            for pid in _tree(process.pid):
                _kill(pid)
            process.wait()
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Run(process.returncode, texts[0], texts[1], peak)


def _resident(root: int) -> int:
    return sum(_pages(pid) for pid in _tree(root)) * _PAGE


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        return 0


def _tree(root: int) -> list[int]:
    """Returns a process and all below it, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, position = [root], 0
    while position < len(found):
        found += children.get(found[position], [])
        position += 1
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
