"""The lease on a table: of the runs that are scheduled for it one works, and the others report which.

A lease saves work. It does not protect the table: `pipeline.table.commit.commit` does, and refuses a run that overlaps
with another (`ConflictError`). So a run that loses its lease, because its machine slept or the disk could not be
written, continues, and publishes unless another run published first.

Every change of the lease is a compare-and-swap of one file (`pipeline.table.lease_store`), so only one of several runs
that find it free or expired gets it. The age of a lease is measured by the storage's clock only; clocks of different
machines are never compared. If that clock was set back, the time of a lease lies in the future. A live holder renews it
within its term; so a lease whose time is more than its term ahead has expired too, and none outlasts two terms.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from conversion.errors import DensecastError
from pipeline.errors import JobError
from pipeline.storage.errors import StorageError
from pipeline.storage.store import Stored
from pipeline.table.lease_store import NAME, LeaseStore, open_lease
from pipeline.table.log import FOLDER

DEFAULT_MINUTES = 10.0

LONGEST_MINUTES = 7 * 24 * 60
"""The longest term of a lease: a run that died elsewhere blocks a table for as long."""

_RENEWALS = 4  # during the term of a lease: three may fail before it expires
_ATTEMPTS = 5  # one fails each time another run has changed the lease meanwhile


class Holder(BaseModel):
    """The holder of a lease; the content of the file.

    Attributes:
        token: A random token, unique to the holder.
        run_id: The run.
        host: The machine, for people.
        space: The scope of `pid`: machine, boot and process namespace; empty if unknown.
        pid: The process.
        started: When that process started, in the kernel's ticks; a later process with the same number differs.
        acquired_at: When the lease was acquired, by the holder's clock.
        renewed_at: When it was last renewed, by the holder's clock.
        seconds: The term of the lease after each renewal, in seconds.
        released: Whether the holder has released it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str
    run_id: str
    host: str
    space: str
    pid: int = Field(gt=0, lt=2**31)
    started: str
    acquired_at: AwareDatetime
    renewed_at: AwareDatetime
    seconds: float = Field(gt=0, le=LONGEST_MINUTES * 60, allow_inf_nan=False)
    released: bool = False


class LeaseHeldError(DensecastError):
    """Another run holds the lease on a table.

    Attributes:
        holder: The holder; None if the file cannot be parsed.
        until: When the lease expires unless it is renewed, by the clock of this machine.
    """

    holder: Holder | None = None
    until: datetime | None = None


class Lease:
    """The lease on a table for the duration of a `with` block; a thread renews it.

    Args:
        root: The table, a local path or `scheme://`.
        run_id: The run that acquires it.
        seconds: The term of the lease after each renewal, above 0, at most `LONGEST_MINUTES`.
        store: Where the lease is stored; by default beside the table's runs.
        clock: Returns seconds, monotonic; a lease that was not renewed for its term counts as lost.

    Raises:
        JobError: The term is out of range.
        LeaseHeldError: On entry: another run holds the lease.
        StorageError: On entry: the lease cannot be read or written.
    """

    def __init__(
        self,
        root: str,
        run_id: str,
        seconds: float = DEFAULT_MINUTES * 60,
        store: LeaseStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < seconds <= LONGEST_MINUTES * 60:
            raise JobError(
                f"a lease cannot last {seconds:g} seconds", remedy=f"give more than 0, at most {LONGEST_MINUTES * 60:,}"
            )
        self._root, self._store = root, store or open_lease(root)
        now = datetime.now(UTC)
        self._holder = Holder(
            token=secrets.token_hex(16),
            run_id=run_id,
            host=socket.gethostname(),
            space=process_space(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            acquired_at=now,
            renewed_at=now,
            seconds=seconds,
        )
        self._clock = clock
        self._stored: Stored | None = None
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_repeatedly, name="densecast-lease", daemon=True)

    @property
    def lost(self) -> str:
        """Returns why the lease was lost while it was held; empty if it was not."""
        return self._lost

    def __enter__(self) -> Lease:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._stored is None or self._lost:
            return
        try:
            self._swap(self._holder.model_copy(update={"released": True, "renewed_at": datetime.now(UTC)}))
        except StorageError as failure:
            # The work is done; the next run waits until the lease expires.
            logging.getLogger(__name__).warning("the lease was not released: %s", failure)

    def _acquire(self) -> None:
        for _ in range(_ATTEMPTS):
            stored = self._store.read()
            if stored is not None:
                holder = parse(stored.data)
                remaining = self._remaining(stored, holder)
                if remaining > 0:
                    raise lease_held(self._root, holder, remaining)
            self._stored = self._store.swap(_json(self._holder), stored)
            if self._stored is not None:
                return
        raise lease_held(self._root, None, self._holder.seconds)

    def _remaining(self, stored: Stored, holder: Holder | None) -> float:
        """Returns the remaining term of a lease, in seconds; 0 or less if it has expired."""
        if holder is not None and (holder.released or is_dead(holder)):
            return 0.0
        seconds = self._holder.seconds if holder is None else holder.seconds
        age = self._store.now() - stored.modified
        return seconds - age if age >= -seconds else 0.0

    def _renew_repeatedly(self) -> None:
        renewed = self._clock()
        while not self._stop.wait(self._holder.seconds / _RENEWALS):
            try:
                if not self._swap(self._holder.model_copy(update={"renewed_at": datetime.now(UTC)})):
                    self._lost = "another run has acquired it"
                    return
                renewed = self._clock()
            except StorageError as error:
                if self._clock() - renewed > self._holder.seconds:
                    self._lost = f"it could not be renewed: {error.what}"
                    return

    def _swap(self, holder: Holder) -> bool:
        swapped = self._store.swap(_json(holder), self._stored)
        if swapped is not None:
            self._stored = swapped
        return swapped is not None


def look(root: str) -> Holder | None:
    """Returns the likely holder of the lease on a table, without writing anything; None if there is none.

    Expiry is computed from the holder's clock and this machine's, so the result is for people, not for decisions.

    Raises:
        StorageError: The lease cannot be read.
    """
    stored = open_lease(root).read()
    holder = parse(stored.data) if stored is not None else None
    if holder is None or holder.released or is_dead(holder):
        return None
    return holder if abs(datetime.now(UTC) - holder.renewed_at) < timedelta(seconds=holder.seconds) else None


def parse(data: bytes) -> Holder | None:
    """Returns the holder that a lease names; None if the file is damaged, and then only its age counts."""
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return None


def lease_held(root: str, holder: Holder | None, remaining: float) -> LeaseHeldError:
    """Returns the error that names the holder of a lease.

    Args:
        root: The table.
        holder: The holder; None if unknown.
        remaining: The remaining term of the lease, in seconds.
    """
    until = datetime.now(UTC) + timedelta(seconds=remaining)
    who = f"run {holder.run_id} (process {holder.pid} on {holder.host})" if holder else "another run"
    error = LeaseHeldError(
        f"{who} holds the lease on the table until {until:%Y-%m-%d %H:%M:%S} UTC, and renews it while it works",
        where=root,
        remedy=f"wait for it; if it has died and no other run works, delete {FOLDER}/{NAME} of the table",
    )
    error.holder, error.until = holder, until
    return error


def is_dead(holder: Holder) -> bool:
    """Returns whether the process that acquired a lease is known to have ended; False if it ran elsewhere."""
    if not holder.space or holder.space != process_space():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it exists, and belongs to another user
    start = process_start(holder.pid)
    return start is None or bool(start and start != holder.started)


def process_space() -> str:
    """Returns machine, boot and process namespace; empty if the kernel does not report them.

    Containers may share a host name, but have their own process numbers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """Returns when a process started, in ticks since the machine started (see proc(5), `stat`).

    Empty if the kernel does not report it, as processes of other users may be hidden; None if the process has ended and
    its parent has not collected it yet.
    """
    try:
        # The name, in brackets, may hold spaces and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in ("Z", "X") else fields[19]


def _json(holder: Holder) -> bytes:
    return (json.dumps(holder.model_dump(mode="json"), indent=1) + "\n").encode()
