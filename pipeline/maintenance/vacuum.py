"""Vacuum: deletes the files that no version within the retention reads, and those that dead runs left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.errors import JobError, TableError
from pipeline.maintenance.current_table import current_table
from pipeline.maintenance.untracked_files import Kind, Leftover, leftovers, list_table
from pipeline.table.log import active_parts
from pipeline.table.paths import TableRoot
from pipeline.units import parse_duration

DEFAULT_RETENTION_HOURS = 7 * 24
SAFE_RETENTION_HOURS = 1
"""With a shorter retention, the parts of a run at work would be deleted before it publishes them."""


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The result of a vacuum.

    Attributes:
        retention_hours: How long files that are not needed were kept.
        dry_run: Whether it was a dry run, which deletes nothing.
        deleted: The files that were deleted, or would be in a dry run.
        kept: Files that are not needed, but are younger than the retention, or of unknown age.
        foreign: Files that are not densecast's; they are never deleted.
    """

    retention_hours: int
    dry_run: bool
    deleted: tuple[Leftover, ...]
    kept: tuple[Leftover, ...]
    foreign: tuple[Leftover, ...]


def vacuum(
    root: str,
    retention_hours: int = DEFAULT_RETENTION_HOURS,
    *,
    dry_run: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Vacuumed:
    """Deletes the files of a table's folder that no version of the last hours reads.

    It deletes superseded parts, parts of runs that never published, and unfinished files, if they are older than the
    retention. Versions that read a deleted part can no longer be opened; the current version always can.

    Args:
        root: The table, a local path or `scheme://`.
        retention_hours: How long to keep files that are not needed.
        dry_run: Whether to delete nothing, and only to return what would be deleted.
        force: Whether to allow a retention below `SAFE_RETENTION_HOURS`.
        clock: Returns seconds since 1970.

    Raises:
        TableError: There is no table, or the retention is too short.
        StorageError: The folder cannot be listed, or a file cannot be deleted; a repeated call continues from there.
    """
    if retention_hours < SAFE_RETENTION_HOURS and not force:
        raise TableError(
            f"a retention of {retention_hours} hours is below {SAFE_RETENTION_HOURS}",
            where=root,
            why="the parts of a run at work would be deleted before it publishes them",
            remedy="give a longer --retention, or --force if no run is at work",
        )
    # The folder first, then the log: parts that are published in between are in the log, and are kept.
    entries = list_table(root)
    table = current_table(root)
    oldest = clock() - retention_hours * 3600
    try:
        needed = _read_within(root, table, retention_hours, oldest)
        files_left = leftovers(entries, table)
    except DeltaError as error:
        raise TableError(
            f"the log of the table cannot be read: {error}", where=root, remedy="restore the folder _delta_log"
        ) from error
    foreign = tuple(file for file in files_left if file.kind is Kind.FOREIGN)
    ours = [file for file in files_left if file.kind is not Kind.FOREIGN]
    expendable = {file.path for file in ours if file.path not in needed and 0 < file.since < oldest}
    deleted = tuple(file for file in ours if file.path in expendable)
    if not dry_run:
        located = TableRoot(root)
        for file in deleted:
            located.store.delete(located.path(*file.path.split("/")))
    kept = tuple(file for file in ours if file.path not in expendable)
    return Vacuumed(retention_hours, dry_run, deleted, kept, foreign)


def parse_retention(text: str) -> int:
    """Returns a retention in hours.

    Raises:
        ValueError: The text is not a whole number of hours, written in hours, days or weeks.

    >>> parse_retention("12h"), parse_retention("7d"), parse_retention("2w")
    (12, 168, 336)
    """
    error = ValueError(f"{text!r} is not a retention: write 12h, 7d or 2w")
    if not text.endswith(tuple("hdw")):
        raise error
    try:
        hours = parse_duration(text) / 3600
    except JobError as reason:
        raise error from reason
    if not hours.is_integer():
        raise error
    return int(hours)


def _read_within(root: str, table: DeltaTable, retention_hours: int, oldest: float) -> set[str]:
    """Returns the files that a version of the last hours reads; those of the current version may be missing."""

    def removed(hours: int) -> set[str]:
        return set(table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False, full=False))

    # The log drops removed files after about a week. For a longer retention, the version of that time knows them.
    oldest_version = current_table(root)
    oldest_version.load_as_version(datetime.fromtimestamp(max(oldest, 0), UTC))
    return (removed(0) - removed(retention_hours)) | active_parts(oldest_version)
