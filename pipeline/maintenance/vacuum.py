"""Vacuum: delete the files that no version within the retention reads, and those that dead runs left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.errors import TableError
from pipeline.maintenance.current_table import current_table
from pipeline.maintenance.untracked_files import Kind, Leftover, leftovers, list_table
from pipeline.table.log import active_parts
from pipeline.table.paths import TableRoot

DEFAULT_RETENTION_HOURS = 7 * 24
SAFE_RETENTION_HOURS = 1
"""Below it, the parts of a run at work would be deleted before it publishes them."""

_RETENTION = re.compile(r"(\d{1,5})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a vacuum did, or would do.

    Attributes:
        retention_hours: How long what is not needed was kept.
        dry_run: Whether nothing was deleted in earnest.
        deleted: The files that were deleted, or would be.
        kept: Files that are not needed and younger than the retention, or of unknown age.
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
    """Delete the files of a table's folder that no version of the last hours reads.

    Deleted are parts that were superseded, parts of runs that never published, and unfinished files, each once it is
    older than the retention. Versions that read a deleted part can be opened no longer; the current one always can.

    Args:
        root: The table, a local path or `scheme://`.
        retention_hours: How long to keep what is not needed.
        dry_run: Whether only to say what would be deleted.
        force: Whether a retention below `SAFE_RETENTION_HOURS` is meant.
        clock: Seconds since 1970.

    Raises:
        TableError: There is no table, or the retention is too short.
        StorageError: The folder cannot be listed, or a file not deleted; running it again goes on from there.
    """
    if retention_hours < SAFE_RETENTION_HOURS and not force:
        raise TableError(
            f"a retention of {retention_hours} hours is below {SAFE_RETENTION_HOURS}",
            where=root,
            why="what a run at work has written would be deleted before it is published",
            remedy="give a longer --retention, or --force if no run is at work",
        )
    # First the folder, then the log: what is published between the two is in the log, and stays.
    entries = list_table(root)
    table = current_table(root)
    oldest = clock() - retention_hours * 3600
    try:
        needed = _read_within(root, table, retention_hours, oldest)
        found = leftovers(entries, table)
    except DeltaError as error:
        raise TableError(
            f"the log of the table cannot be read: {error}", where=root, remedy="restore the folder _delta_log"
        ) from error
    foreign = tuple(file for file in found if file.kind is Kind.FOREIGN)
    ours = [file for file in found if file.kind is not Kind.FOREIGN]
    expendable = {file.path for file in ours if file.path not in needed and 0 < file.since < oldest}
    deleted = tuple(file for file in ours if file.path in expendable)
    if not dry_run:
        located = TableRoot(root)
        for file in deleted:
            located.store.delete(located.path(*file.path.split("/")))
    kept = tuple(file for file in ours if file.path not in expendable)
    return Vacuumed(retention_hours, dry_run, deleted, kept, foreign)


def parse_retention(text: str) -> int:
    """Hours from `12h`, `7d` or `2w`.

    Raises:
        ValueError: It is something else.

    >>> parse_retention("12h"), parse_retention("7d")
    (12, 168)
    """
    match = _RETENTION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no retention: write 12h, 7d or 2w")
    return int(match[1]) * _HOURS[match[2]]


def _read_within(root: str, table: DeltaTable, retention_hours: int, oldest: float) -> set[str]:
    """The files that a version of the last hours reads, the current one left out or not."""

    def removed(hours: int) -> set[str]:
        return set(table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False, full=False))

    # The log forgets removed files after a week or so: for a longer retention, the version of back then knows them.
    then = current_table(root)
    then.load_as_version(datetime.fromtimestamp(max(oldest, 0), UTC))
    return (removed(0) - removed(retention_hours)) | active_parts(then)
