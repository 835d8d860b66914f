"""Durations of stages, summed by name; they are reported in a run's summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, MutableMapping


@contextlib.contextmanager
def timed(counts: MutableMapping[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds that the block takes to `counts["seconds.<stage>"]`, also if the block raises."""
    start = time.perf_counter()
    try:
        yield
    finally:
        name = f"seconds.{stage}"
        counts[name] = counts.get(name, 0.0) + time.perf_counter() - start
