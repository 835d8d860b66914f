"""Putting a model directory in place: readers see the whole model or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conversion.errors import ConversionError
from conversion.export.metadata import FILE_NAME
from conversion.files import PARTIAL_SUFFIX, temporary_folder


def check_target(target: Path, *, overwrite: bool) -> None:
    """Checks that a model directory can be made at a target; an empty folder there is taken.

    Raises:
        ConversionError: Something is there that may not be replaced, or the folder above cannot be written.
    """
    _check_folder(target)
    if not target.is_symlink() and (not target.exists() or (target.is_dir() and not any(target.iterdir()))):
        return
    if not overwrite:
        raise _exists(target)
    if not (target / FILE_NAME).exists():
        raise ConversionError(
            "the output exists and is not a densecast model", where=str(target), why="only models are overwritten"
        )


def check_file_target(target: Path, *, overwrite: bool) -> None:
    """Checks that a file can be made at a target.

    Raises:
        ConversionError: Something is there that may not be replaced, or the folder above cannot be written.
    """
    _check_folder(target)
    if target.is_dir():
        raise ConversionError("the output is a folder", where=str(target), remedy="name a file")
    if (target.is_symlink() or target.exists()) and not overwrite:
        raise _exists(target)


def _check_folder(target: Path) -> None:
    """Raises ConversionError unless the nearest folder above a target is a folder that can be written."""
    above = next(folder for folder in target.absolute().parents if folder.is_symlink() or folder.exists())
    if not above.is_dir():
        raise ConversionError("the output cannot be made", where=str(target), why=f"{above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConversionError("the output cannot be made", where=str(target), why=f"{above} cannot be written")


def _exists(target: Path) -> ConversionError:
    return ConversionError(
        "the output exists",
        where=str(target),
        remedy="name another, or replace it: --overwrite, or overwrite=True in Python",
    )


@contextlib.contextmanager
def partial_directory(target: Path) -> Iterator[Path]:
    """Yields a new directory beside the target, under another name, and removes what is left of it afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{target.name}.", PARTIAL_SUFFIX, target.parent) as partial:
        yield partial


def publish(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Renames the directory to its target; an old model there is replaced, or restored if that fails."""
    partial.chmod(0o755)  # mkdtemp made it private, and workers of other users read the model
    if not (overwrite and target.exists()):
        partial.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    try:
        partial.rename(target)
    except OSError:
        (old / target.name).rename(target)
        old.rmdir()
        raise
    shutil.rmtree(old)
