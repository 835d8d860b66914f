"""Disks that are full, or cannot be written: real ones where this machine lets us mount them; and what is to follow."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from conversion.errors import DensecastError
from tests.faults.collection import Night, Settle

WRITING = "the writing of a part"
_SIZE = "2m"


def fails(night: Night, output: Path, remedy: str) -> str:
    """Runs, and returns what is readable after it failed in the way that users can act upon."""
    with pytest.raises(DensecastError) as caught:
        night.run(output)
    assert remedy in str(caught.value)
    assert not list(output.rglob(".part-*.partial")), "what was not finished is not left behind"
    return night.check_readable(output)


def finish(night: Night, output: Path, fault: str, readable: str, settle: Settle) -> None:
    images = night.run(output).summary.images
    outcome = f"typed error, {readable} readable; {images.get('adopt', 0)} maps adopted"
    settle(fault, outcome, output, night.images.listed(), night.after)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory of 2 MB, at `folder`, for the body."""
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=30)


def write_protect(folder: Path, on: bool = True) -> None:
    """Makes a small disk read-only, or writable again."""
    _mount("-o", f"remount,{'ro' if on else 'rw'}", str(folder))


def fill(ballast: Path) -> None:
    """Writes a file until the disk is full to the last byte."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    try:
        with ballast.with_name("one-more").open("wb", buffering=0) as file:
            file.write(b"\0")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    else:
        raise RuntimeError("the disk is not full")


def raising(number: int) -> Callable[[], None]:
    """A function that fails as the operating system does."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=30, capture_output=True)


def _can_mount() -> bool:
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)):
            return True
    except (OSError, subprocess.SubprocessError):
        return False


CAN_MOUNT = _can_mount()
"""Whether this user may mount a file system: else only patched faults are injected."""
