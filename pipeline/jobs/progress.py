"""The progress of a run, shown on a terminal or as plain lines."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.counters import KEPT, LISTED, PROCESS, REJECTED, SCORED
from pipeline.units import format_duration

PLAIN_INTERVAL_S = 10.0


class Watch:
    """Shows progress while a block runs: rate, time left, rejections.

    Args:
        label: What the block does.
        stream: Where it is shown; standard error by default. A terminal gets a bar, anything else a plain line every
            `interval_s` seconds.
        interval_s: Seconds between plain lines.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        stream: TextIO | None = None,
        interval_s: float = PLAIN_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._clock = label, clock
        self._stream: TextIO | None = stream or sys.stderr  # None: the process was started without one
        self._interval_s = interval_s
        self._start_counts = PROCESS.snapshot()
        self._elsewhere: Mapping[str, int] = {}
        self._start = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="densecast-progress", daemon=True)

    def counts(self) -> dict[str, int]:
        """Returns what was counted since the watch began."""
        now, elsewhere = PROCESS.snapshot(), self._elsewhere
        return {
            name: now.get(name, 0) - self._start_counts.get(name, 0) + elsewhere.get(name, 0)
            for name in (LISTED, SCORED, REJECTED, KEPT)
        }

    def show(self, counts: Mapping[str, int]) -> None:
        """Takes what a cluster's workers have counted so far; this process counts by itself."""
        self._elsewhere = counts

    def seconds(self) -> float:
        """Returns the seconds since the watch began."""
        return self._clock() - self._start

    def line(self) -> str:
        """Returns the present state in one plain line."""
        counts, seconds = self.counts(), self.seconds()
        done, listed = _done(counts), counts[LISTED]
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {format_duration((listed - done) / rate)} left" if rate and listed > done else ""
        return f"{self._label}: {done:,} of {listed:,} images, {counts[REJECTED]:,} rejected, {rate:.1f}/s{left}"

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # A run goes on where its progress cannot be shown: a full disk, a terminal that was closed.
        with contextlib.suppress(OSError, ValueError):
            if self._stream is None:
                return
            if self._stream.isatty():
                self._draw()
            else:
                while not self._stop.wait(self._interval_s):
                    print(self.line(), file=self._stream, flush=True)

    def _draw(self) -> None:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[rejected]} rejected"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        ) as progress:
            task = progress.add_task(self._label, total=None, rejected=0)
            while True:
                stopped = self._stop.wait(0.2)
                counts = self.counts()
                progress.update(
                    task,
                    total=counts[LISTED] or None,
                    completed=_done(counts),
                    rejected=counts[REJECTED],
                )
                if stopped:
                    return


def _done(counts: dict[str, int]) -> int:
    return counts[SCORED] + counts[REJECTED] + counts[KEPT]


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")
