"""The lease on a table: of the runs that are scheduled for it, one works and the others say who.

A lease saves work; it guards nothing. Whether a table stays right is decided by `pipeline.table.commit.commit` alone,
which refuses a run that overlaps with another (`ConflictError`). So a run that loses its lease, because its machine
slept or the disk could not be written, goes on, and publishes if nobody was faster.

Every change of the lease is a compare-and-swap of one file (`pipeline.table.lease_store`), so of several runs that
find it free, or stale, one gets it. The clock of the storage alone says how old a lease is: those of the machines
are never compared.
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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conversion.errors import DensecastError
from pipeline.storage.errors import StorageError
from pipeline.storage.store import Stored
from pipeline.table.lease_store import NAME, LeaseStore, open_lease
from pipeline.table.log import FOLDER

DEFAULT_MINUTES = 10.0

_RENEWALS = 4  # in the life of a lease: three may fail before it lapses
_ATTEMPTS = 5  # each lost one means that another run has changed the lease meanwhile


class Holder(BaseModel):
    """Who holds a lease; the content of the file.

    Attributes:
        token: Random; no two holders share one.
        run_id: The run.
        host: The machine, for people.
        space: Where `pid` means something: machine, boot and process namespace; empty where that is not known.
        pid: The process.
        started: When that process started, as the kernel counts it, so that a later one of the same number is told
            apart.
        acquired_at: When the lease was taken, by the holder's clock.
        renewed_at: When it was renewed last, by the holder's clock.
        seconds: How long it holds after it was renewed.
        released: Whether the holder has given it back.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str
    run_id: str
    host: str
    space: str
    pid: int = Field(gt=0)
    started: str
    acquired_at: datetime
    renewed_at: datetime
    seconds: float
    released: bool = False


class LeaseHeldError(DensecastError):
    """Another run holds the lease on a table.

    Attributes:
        holder: Who; None where the file cannot be understood.
        until: When it lapses unless it is renewed, by the clock of this machine.
    """

    holder: Holder | None = None
    until: datetime | None = None


class Lease:
    """The lease on a table, for the time of a `with` block; a thread renews it meanwhile.

    Args:
        root: The table, a local path or `scheme://`.
        run_id: The run that wants it.
        seconds: How long it holds unless it is renewed, above 0.
        store: Where it is kept; by default beside the table's runs.
        clock: Gives seconds; by it a lease that cannot be renewed counts as lost in time.

    Raises:
        LeaseHeldError: By `with`: another run holds it.
        StorageError: By `with`: it cannot be read or written.
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
        self._held: Stored | None = None
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="densecast-lease", daemon=True)

    @property
    def lost(self) -> str:
        """Why the lease was lost while it was held; empty where it was not."""
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
        if self._held is None or self._lost:
            return
        try:
            self._swap(self._holder.model_copy(update={"released": True, "renewed_at": datetime.now(UTC)}))
        except StorageError as failure:
            # The work is done and counts; the next run waits until the lease has lapsed.
            logging.getLogger(__name__).warning("the lease was not given back: %s", failure)

    def _acquire(self) -> None:
        for _ in range(_ATTEMPTS):
            found = self._store.read()
            if found is not None:
                holder = parse(found.data)
                left = self._left(found, holder)
                if left > 0:
                    raise held(self._root, holder, left)
            self._held = self._store.swap(_json(self._holder), found)
            if self._held is not None:
                return
        raise held(self._root, None, self._holder.seconds)

    def _left(self, found: Stored, holder: Holder | None) -> float:
        """How long a lease still holds, in seconds."""
        if holder is not None and (holder.released or is_dead(holder)):
            return 0.0
        seconds = self._holder.seconds if holder is None else holder.seconds
        return seconds - (self._store.now() - found.modified)

    def _keep(self) -> None:
        renewed = self._clock()
        while not self._stop.wait(self._holder.seconds / _RENEWALS):
            try:
                if not self._swap(self._holder.model_copy(update={"renewed_at": datetime.now(UTC)})):
                    self._lost = "another run has taken it over"
                    return
                renewed = self._clock()
            except StorageError as error:
                if self._clock() - renewed > self._holder.seconds:
                    self._lost = f"it could not be renewed: {error.what}"
                    return

    def _swap(self, holder: Holder) -> bool:
        swapped = self._store.swap(_json(holder), self._held)
        if swapped is not None:
            self._held = swapped
        return swapped is not None


def look(root: str) -> Holder | None:
    """Who holds the lease on a table, as far as can be told without writing anything; None where nobody does.

    Lapsed leases are told by the holder's clock and this one, so this is for people, not for decisions.

    Raises:
        StorageError: It cannot be read.
    """
    found = open_lease(root).read()
    holder = parse(found.data) if found is not None else None
    if holder is None or holder.released or is_dead(holder):
        return None
    return holder if datetime.now(UTC) - holder.renewed_at < timedelta(seconds=holder.seconds) else None


def parse(data: bytes) -> Holder | None:
    """The holder that a lease names; None where it is damaged, and then it lapses by its age alone."""
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return None


def held(root: str, holder: Holder | None, left: float) -> LeaseHeldError:
    """The error that says who holds a lease.

    Args:
        root: The table.
        holder: Who.
        left: For how many seconds.
    """
    until = datetime.now(UTC) + timedelta(seconds=left)
    who = f"run {holder.run_id} (process {holder.pid} on {holder.host})" if holder else "another run"
    error = LeaseHeldError(
        f"{who} holds the lease on the table until {until:%Y-%m-%d %H:%M:%S} UTC, and renews it while it works",
        where=root,
        remedy=f"wait for it; if it is dead and no other run works, delete {FOLDER}/{NAME} of the table",
    )
    error.holder, error.until = holder, until
    return error


def is_dead(holder: Holder) -> bool:
    """Whether the process that took a lease is known to have ended; False where it ran elsewhere."""
    if not holder.space or holder.space != process_space():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is there, and somebody else's
    start = process_start(holder.pid)
    return start is None or bool(start and start != holder.started)


def process_space() -> str:
    """Machine, boot and process namespace; empty where the kernel does not tell.

    Containers may share a host name, and their process numbers mean other processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """When a process started, in ticks since the machine did (see proc(5), `stat`).

    Empty where the kernel does not tell, as other users' processes may be hidden; None where it has ended and only its
    parent has not noticed.
    """
    try:
        # The name, in brackets, may hold spaces and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in ("Z", "X") else fields[19]


def _json(holder: Holder) -> bytes:
    return (json.dumps(holder.model_dump(mode="json"), indent=1) + "\n").encode()
