"""Writing local files so that no reader ever sees a part of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

PARTIAL_SUFFIX = ".partial"

_folders: set[Path] = set()


def partial_name(name: str) -> str:
    """Returns a hidden, unique name for a file until it is whole."""
    return f".{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"


def write_atomically(target: Path, data: bytes) -> None:
    """Writes a file, or replaces it, in one step that survives a power cut; creates the folders above it.

    Raises:
        OSError: It cannot be written; what was there before still is, and no partial file is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(partial_name(target.name))
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    # The new name itself survives a power cut only once its folder is on disk.
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def temporary_folder(prefix: str = "densecast-", suffix: str = "", parent: Path | None = None) -> Iterator[Path]:
    """Yields a new folder, and removes what is left of it afterwards.

    Args:
        prefix: How its name begins.
        suffix: How its name ends.
        parent: The folder that it is made in; by default the system's for temporary files.

    Raises:
        OSError: It cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
    _folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def remove_temporary_folders() -> None:
    """Removes the folders of `temporary_folder` that are in use: the process ends now."""
    for folder in tuple(_folders):
        shutil.rmtree(folder, ignore_errors=True)
