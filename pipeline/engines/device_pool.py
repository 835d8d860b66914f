"""A pool with one engine per device, shared by all threads of a process."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata
from pipeline.engines.base import Engine, ExactEngine, MixedEngine, WindowEngine
from pipeline.engines.devices import Device
from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import CellScores


@runtime_checkable
class Counting(Protocol):
    """An engine that counts its work."""

    def take_counts(self) -> dict[str, float]:
        """Returns this thread's counts since the last call, by name: `devices.GPU:0` -> images, and so on."""


class ThreadCounts(threading.local):
    """Counts by name, separate for each thread, so that a bundle's thread reports the work of that bundle."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, float] = defaultdict(float)

    def take(self) -> dict[str, float]:
        """Returns the thread's counts and resets them."""
        counts, self.counts = dict(self.counts), defaultdict(float)
        return counts


class DevicePool:
    """An engine on several devices, for any number of threads.

    A call takes the idle device that was used last. If all devices with an engine are busy, it opens an engine on the
    next device; if there is none, it waits. So a single thread uses one device, and n threads use up to n devices.

    A device runs one call at a time. Two calls at once would need twice the memory for the values between layers, so
    whether a batch fits would depend on the other call. Also, TensorFlow has only one stream of kernels per GPU.

    Args:
        open_engine: Makes the engine of a device.
        devices: The devices, at least one.
        first: The device to open first, counted from 0. Processes that share several GPUs should use different ones.

    Raises:
        JobError: The first engine cannot be opened; from `score`, another one.
    """

    def __init__(self, open_engine: Callable[[Device], Engine], devices: Sequence[Device], first: int = 0) -> None:
        first %= len(devices)
        self._open_engine = open_engine
        self._unopened = [*devices[first:], *devices[:first]]
        self._idle: list[tuple[Device, Engine]] = []
        self._changed = threading.Condition()
        self._counts = ThreadCounts()
        with self._engine() as (_, engine):
            self._metadata, self._identity = engine.metadata, engine.identity
            self._exact = isinstance(engine, ExactEngine) and engine.exact
            self._mixed = isinstance(engine, MixedEngine) and engine.mixed

    @property
    def metadata(self) -> ModelMetadata:
        """The model's `densecast.json`."""
        return self._metadata

    @property
    def identity(self) -> str:
        """That of the first device's engine; see `Engine`."""
        return self._identity

    @property
    def exact(self) -> bool:
        """See `ExactEngine`: that of the first device's engine."""
        return self._exact

    @property
    def mixed(self) -> bool:
        """See `MixedEngine`: that of the first device's engine."""
        return self._mixed

    def score_mixed(self, images: Sequence[NDArray[np.uint8]]) -> list[CellScores]:
        """See `MixedEngine`; waits for a device."""
        with self._engine() as (device, engine):
            if not isinstance(engine, MixedEngine):
                raise EngineError(f"{type(engine).__name__} takes images of one size at once")
            maps = engine.score_mixed(images)
            self._count(device, engine, len(images))
        return maps

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """See `Engine`; waits for a device."""
        with self._engine() as (device, engine):
            maps = engine.score(images)
            self._count(device, engine, len(images))
        return maps

    def score_windows(self, windows: NDArray[np.float32]) -> list[CellScores]:
        """See `WindowEngine`; waits for a device."""
        with self._engine() as (device, engine):
            if not isinstance(engine, WindowEngine):
                raise EngineError(f"{type(engine).__name__} does not classify windows", remedy="leave out --windows")
            maps = engine.score_windows(windows)
            self._count(device, engine, len(windows))
        return maps

    def _count(self, device: Device, engine: Engine, images: int) -> None:
        self._counts.counts[f"devices.{device.label}"] += images
        self._collect(engine)

    def _collect(self, engine: Engine) -> None:
        """Takes what an engine has counted in this thread."""
        if isinstance(engine, Counting):
            for name, count in engine.take_counts().items():
                self._counts.counts[name] += count

    def take_counts(self) -> dict[str, float]:
        """See `Counting`: images by device, and the counts of the engines."""
        return self._counts.take()

    @contextlib.contextmanager
    def _engine(self) -> Iterator[tuple[Device, Engine]]:
        device, engine = self._take()
        if engine is None:
            try:
                engine = self._open_engine(device)
                self._collect(engine)
            except EngineError as error:  # an EngineError would be reported as a failure on these images
                raise JobError(
                    f"no engine on {device.label}: {error.what}", why=error.why, remedy=error.remedy
                ) from error
            finally:
                if engine is None:
                    with self._changed:
                        self._unopened.insert(0, device)
                        self._changed.notify()
        try:
            yield device, engine
        finally:
            with self._changed:
                self._idle.append((device, engine))
                self._changed.notify()

    def _take(self) -> tuple[Device, Engine | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._unopened)
            return self._idle.pop() if self._idle else (self._unopened.pop(0), None)


def counts_of(engine: Engine) -> Mapping[str, float]:
    """Returns an engine's counts for this thread; empty if the engine does not count."""
    return engine.take_counts() if isinstance(engine, Counting) else {}
