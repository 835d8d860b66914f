"""SHA-256 of files, each hashed once a process: 0.2 s for CaffeNet's 244 MB."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

_PIECE = 1 << 24
"""Bytes that are read and hashed at a time: after each piece a thread waits for those that run Python."""
_hashed: dict[tuple[int, ...], str] = {}
_hashing = threading.Lock()


class ChangedFileError(Exception):
    """A file changes while it is read."""


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hex; of a file that was hashed before, if identity, size and times are the same.

    Raises:
        OSError: It cannot be read.
        ChangedFileError: It changes meanwhile.
    """
    with path.open("rb", buffering=0) as file, _hashing:
        before = _identity(os.fstat(file.fileno()))
        if before not in _hashed:
            sha, piece = hashlib.sha256(), memoryview(bytearray(min(_PIECE, os.fstat(file.fileno()).st_size + 1)))
            while count := file.readinto(piece):
                sha.update(piece[:count])
            if _identity(os.fstat(file.fileno())) != before:
                raise ChangedFileError
            _hashed[before] = sha.hexdigest()
        return _hashed[before]


def hash_ahead(folder: str, only_with: str) -> None:
    """Starts to hash the files of a folder in a thread, if it holds a certain file; `file_sha256` then waits or has it.

    What cannot be read is reported by whoever needs it.
    """

    def run() -> None:
        for path in Path(folder).rglob("*"):
            with contextlib.suppress(OSError, ChangedFileError):
                if path.is_file():
                    file_sha256(path)

    if Path(folder, only_with).is_file():
        threading.Thread(target=run, name="densecast-hash", daemon=True).start()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
