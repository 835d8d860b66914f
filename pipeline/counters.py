"""Named counters of this process, for the progress of a run; `pipeline.beam_counters` also counts for Beam."""

from __future__ import annotations

import threading
from collections import Counter

LISTED, SCORED, REJECTED, KEPT = "listed", "scored", "rejected", "kept"
LEFT_OUT = "left_out"
"""Counts what listed folders leave out, as `left_out.EXTENSION` or `left_out.KIND`; kinds are in `file_types`."""

OUTSIDE_ROOT = "outside_root"
"""Counts listed files that are not below the root, so that their addresses are absolute."""


class Counters:
    """Named counters; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> dict[str, int]:
        """Returns the current value of every counter."""
        with self._lock:
            return dict(self._counts)


# The caller of a local run sees Beam's own counters only when the run has ended.
PROCESS = Counters()
"""The counters of this process; the progress of a run on the local runner is read from them."""
