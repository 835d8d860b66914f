"""Which hosts have been given up: a host that keeps failing costs a bounded time, not all its images' time."""

from __future__ import annotations

import collections
import threading
from dataclasses import dataclass

from pipeline.rejection import Reason, Rejected

_MOST_RUNS = 16


@dataclass
class _Record:
    """What a host has cost.

    Attributes:
        failures: How many images in a row it failed to deliver.
        seconds: How long all images took that it did not deliver.
        given_up: Why it was given up; empty while it is asked.
    """

    failures: int = 0
    seconds: float = 0.0
    given_up: str = ""


class Hosts:
    """What the hosts of a run have cost this process; thread-safe. A host that is given up stays so for the run.

    A host fails if its answer is not complete in time, or is broken, or 503 and the like, at the last attempt.
    An answer such as 404 or 403 is not a failure: the host works.

    Args:
        failures: The number of failures in a row at which a host is given up.
        seconds: The time that may be lost on a host in all, in seconds.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._failures, self._seconds = failures, seconds
        self._records: dict[str, _Record] = {}
        self._lock = threading.Lock()

    def check(self, host: str) -> None:
        """Checks that a host has not been given up.

        Raises:
            Rejected: UNREADABLE, with the host and the setting.
        """
        with self._lock:
            record = self._records.get(host)
            given_up = record.given_up if record else ""
        if given_up:
            raise Rejected(Reason.UNREADABLE, given_up)

    def succeeded(self, host: str) -> None:
        """Notes that a host delivered an image."""
        with self._lock:
            if host in self._records:
                self._records[host].failures = 0

    def lost(self, host: str, seconds: float, *, failed: bool) -> None:
        """Notes that an image was not delivered.

        Args:
            host: The host that was asked last.
            seconds: The time that it took.
            failed: Whether the host failed, rather than answered that it does not have the image.
        """
        with self._lock:
            record = self._records.setdefault(host, _Record())
            record.failures += failed
            record.seconds += seconds
            if record.given_up:
                return
            if record.failures >= self._failures:
                record.given_up = f"{host} is given up: {record.failures} failures in a row (web-host-failures)"
            elif record.seconds > self._seconds:
                record.given_up = f"{host} is given up: over {self._seconds:g} s were lost on it (web-host-timeout)"


_runs: collections.OrderedDict[tuple[str, int, float], Hosts] = collections.OrderedDict()
_runs_lock = threading.Lock()


def hosts_of(run: str, failures: int, seconds: float) -> Hosts:
    """Returns what this process knows of the hosts of a run, whichever thread asks; an empty `run` shares nothing."""
    if not run:
        return Hosts(failures, seconds)
    key = (run, failures, seconds)
    with _runs_lock:
        hosts = _runs.setdefault(key, Hosts(failures, seconds))
        _runs.move_to_end(key)
        while len(_runs) > _MOST_RUNS:
            _runs.popitem(last=False)
    return hosts
