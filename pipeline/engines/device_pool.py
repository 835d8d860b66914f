"""One engine a device, shared by all threads of a process."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata
from pipeline.engines.base import Engine
from pipeline.engines.devices import Device
from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import CellScores


@runtime_checkable
class Counting(Protocol):
    """An engine that tells what it did."""

    def take_counts(self) -> dict[str, float]:
        """What it did for this thread since this was asked last, by name: `devices.GPU:0` -> images and so on."""


class ThreadCounts(threading.local):
    """Counts by name, a set of them for each thread: a bundle's thread tells what was done for this bundle."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, float] = defaultdict(float)

    def take(self) -> dict[str, float]:
        """The thread's counts, which begin anew."""
        found, self.counts = dict(self.counts), defaultdict(float)
        return found


class DevicePool:
    """An engine over several devices, for any number of threads.

    A call takes an idle device, of these the one that was used last; while all that have an engine are busy it opens
    one on the next device, and where there is none it waits. So a single thread uses one device, and n threads up to n.

    A device runs one call at a time. Two calls at once would need twice the memory for values between layers, so that
    whether a batch fits would depend on what else runs; TensorFlow has one stream of kernels a GPU in any case.

    Args:
        open_engine: Makes the engine of a device.
        places: The devices, at least one.
        first: Which is opened first, counted from 0: processes that share several GPUs should differ in it.

    Raises:
        JobError: The first engine cannot be opened; from `score`, another one.
    """

    def __init__(self, open_engine: Callable[[Device], Engine], places: Sequence[Device], first: int = 0) -> None:
        first %= len(places)
        self._open_engine = open_engine
        self._unopened = [*places[first:], *places[:first]]
        self._idle: list[tuple[Device, Engine]] = []
        self._changed = threading.Condition()
        self._counts = ThreadCounts()
        with self._engine() as (_, engine):
            self._metadata = engine.metadata

    @property
    def metadata(self) -> ModelMetadata:
        """What the model says about itself."""
        return self._metadata

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """See `Engine`; waits for a device."""
        with self._engine() as (place, engine):
            maps = engine.score(images)
            self._counts.counts[f"devices.{place.label}"] += len(images)
            if isinstance(engine, Counting):
                for name, count in engine.take_counts().items():
                    self._counts.counts[name] += count
        return maps

    def take_counts(self) -> dict[str, float]:
        """See `Counting`: images by device, and what the engines tell."""
        return self._counts.take()

    @contextlib.contextmanager
    def _engine(self) -> Iterator[tuple[Device, Engine]]:
        place, engine = self._take()
        if engine is None:
            try:
                engine = self._open_engine(place)
            except EngineError as error:  # as it is, it would be taken for a failure on these images
                raise JobError(
                    f"no engine on {place.label}: {error.what}", why=error.why, remedy=error.remedy
                ) from error
            finally:
                if engine is None:
                    with self._changed:
                        self._unopened.insert(0, place)
                        self._changed.notify()
        try:
            yield place, engine
        finally:
            with self._changed:
                self._idle.append((place, engine))
                self._changed.notify()

    def _take(self) -> tuple[Device, Engine | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._unopened)
            return self._idle.pop() if self._idle else (self._unopened.pop(0), None)


def counts_of(engine: Engine) -> Mapping[str, float]:
    """What an engine has to tell of this thread; nothing where it does not count."""
    return engine.take_counts() if isinstance(engine, Counting) else {}
