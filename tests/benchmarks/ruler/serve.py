"""One engine or runtime in a process of its own, which runs when asked: the side that answers.

Requests are lines of JSON on stdin, answers lines of JSON on what stdout was at the start. Only NumPy and the standard
library are imported, since the environment of the peers has no more.

The first answer comes without a request, after the first run: `{"version": ..., "peak_mb": ..., "held_mb": ...}`, or
`{"missing": ...}` if the runtime is not installed, or `{"error": ...}`. Then:

    {"run": SECONDS}  ->  {"seconds": [of each run], "peak_mb": ...}    as many runs as it takes to fill SECONDS
    {"scores": FILE}  ->  {}                                           writes the blob before softmax, in Caffe's axes
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

Run = Callable[[], np.ndarray]
"""Computes once and returns what it computed."""

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class Job(TypedDict):
    """What is computed, in all forms that anyone takes.

    Attributes:
        shape: [batch, channels, height, width] of the input.
        pixels: File of the images, uint8 RGB [N, H, W, 3].
        blob: File of the same images as the net takes them, float32 [N, C, H, W].
        model: Model directory, of the dense net.
        prototxt: Caffe's definition: the classifier at its own size, the dense net at others.
        caffemodel: Its weights.
        onnx: The same net in ONNX: batch, height and width are free axes of these names.
        stem: Where peers keep the forms that they convert it to: each adds endings of its own.
        outputs: Names of the blobs of probabilities and before softmax.
        feature: The name of the latter in the classifier.
    """

    shape: list[int]
    pixels: str
    blob: str
    model: str
    prototxt: str
    caffemodel: str
    onnx: str
    stem: str
    outputs: list[str]
    feature: str


class Opened(NamedTuple):
    """What is ready to run.

    Attributes:
        version: Name and version, for people.
        run: What is timed.
    """

    version: str
    run: Callable[[], object]


class MissingError(Exception):
    """What is asked for is not installed."""


def serve(open_run: Callable[[], Opened], open_scores: Callable[[], Run]) -> None:
    """Opens, and answers until stdin ends.

    Args:
        open_run: Loads what is timed.
        open_scores: Loads the same for the blob before softmax.
    """
    # What runtimes print from C++ does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Whoever started this may be killed while this is stopped, and a stopped process does not see that its stdin ended.
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        opened = open_run()
        opened.run()
    except (MissingError, ImportError) as error:
        answer(missing=str(error))
        return
    except Exception as error:  # noqa: BLE001  # whatever a runtime raises is its answer
        answer(error=f"{type(error).__name__}: {error}")
        return
    held, peak = memory("VmRSS"), memory("VmHWM")
    # The kernel counts both only roughly: the peak may be some kilobytes behind.
    answer(version=opened.version, held_mb=held, peak_mb=max(held, peak))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "run" in request:
                answer(seconds=timed(opened.run, request["run"]), peak_mb=memory("VmHWM"))
            else:
                np.save(request["scores"], open_scores()())
                answer()
        except Exception as error:  # noqa: BLE001  # whatever a runtime raises is its answer
            answer(error=f"{type(error).__name__}: {error}")


def timed(run: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Returns what each run takes: at least one, and no new one once so many seconds are over."""
    taken = []
    started = before = clock()
    while not taken or before - started < seconds:
        run()
        after = clock()
        taken.append(after - before)
        before = after
    return taken


def memory(name: str) -> float:
    """Returns megabytes of this process, by the names of /proc/PID/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))
