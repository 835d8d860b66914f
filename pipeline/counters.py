"""How far a run is, counted by name in this process; `pipeline.beam_counters` counts for Beam too."""

from __future__ import annotations

import threading
from collections import Counter

LISTED, SCORED, REJECTED, KEPT = "listed", "scored", "rejected", "kept"


class Counters:
    """Counts by name, thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Adds to a count."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> dict[str, int]:
        """Returns all counts at this moment."""
        with self._lock:
            return dict(self._counts)


# Beam's own counters reach the caller of a local run only when it has ended.
PROCESS = Counters()
"""The counts of this process, which the progress of a run on the local runner is read from."""
