"""How long a stage took, summed by name, for `StageCounts` and a run's summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, MutableMapping


@contextlib.contextmanager
def timed(counts: MutableMapping[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds that the block takes to `counts["seconds.<stage>"]`, an error in it or not."""
    start = time.perf_counter()
    try:
        yield
    finally:
        name = f"seconds.{stage}"
        counts[name] = counts.get(name, 0.0) + time.perf_counter() - start
