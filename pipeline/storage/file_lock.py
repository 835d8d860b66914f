"""A lock on a local folder's file, for all who may write to the folder, whichever user made the lock's file."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

_POLL_S = 0.02


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Holds a lock while a block runs; the kernel releases it when the process ends. The file stays.

    Args:
        path: The file of the lock; it is made if it is missing, for those who may write to its folder.
        timeout_s: How long to wait for another process, in seconds.

    Raises:
        TimeoutError: Another process holds it.
        OSError: The file cannot be opened or locked.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        descriptor = _open(path)
        try:
            if filelock.lock_descriptor(descriptor, blocking=False) and _is_still(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process holds the lock {path}")
        time.sleep(_POLL_S)


def share_with_folder(path: Path, folder: Path) -> None:
    """Lets those use a file, or a folder, who may use the folder above it; root also gives it to that folder's owner.

    Does nothing where it belongs to somebody else, or where the file system has no permissions.
    """
    with contextlib.suppress(OSError):
        facts, above = path.stat(), folder.stat()
        is_root = os.geteuid() == 0
        if facts.st_uid != os.geteuid() and not is_root:
            return
        if is_root and (facts.st_uid, facts.st_gid) != (above.st_uid, above.st_gid):
            os.chown(path, above.st_uid, above.st_gid)
        mode, permissions = stat.S_IMODE(facts.st_mode), 0o777 if stat.S_ISDIR(facts.st_mode) else 0o666
        wanted = mode | (stat.S_IMODE(above.st_mode) & permissions)
        if wanted != mode:
            path.chmod(wanted)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        # Another user has made it, and it may be read: on a local disk that is enough to lock it.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    share_with_folder(path, path.parent)
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    """Returns whether a descriptor is of the file that has the name now: somebody may have deleted the file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
