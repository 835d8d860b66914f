"""The files in a table's folder that its current version does not read: their origin and age."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from deltalake import DeltaTable

from conversion import PARTIAL_SUFFIX
from pipeline.storage.store import Entry
from pipeline.table.log import FOLDER, active_parts
from pipeline.table.part_file import parse_part_name
from pipeline.table.paths import TableRoot

_PARTIAL = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{32}}{re.escape(PARTIAL_SUFFIX)}")
# Folders below FOLDER; those of other writers are not listed.
_RECORDS = ("models", "runs", "compactions")


class Kind(StrEnum):
    """The origin of a file.

    Attributes:
        SUPERSEDED: Earlier versions of the table read it.
        ORPHAN: A part that is not published: its run is at work, or died.
        PARTIAL: An unfinished file: it is being written, or its writer died.
        FOREIGN: The file is not densecast's.
    """

    SUPERSEDED = "superseded"
    ORPHAN = "orphan"
    PARTIAL = "partial"
    FOREIGN = "foreign"


class Leftover(NamedTuple):
    """A file that the current version does not read.

    Attributes:
        path: The file, relative to the table.
        size_bytes: Its size.
        kind: Its origin.
        since: The time since which it is not needed, in seconds since 1970, from its time of change; 0 if unknown. The
            files of a run that has not published have the time of the newest: while it writes, none of them is old.
    """

    path: str
    size_bytes: int
    kind: Kind
    since: float


def list_table(root: str) -> list[Entry]:
    """Returns all files that may be leftovers; their paths are relative to the table.

    Raises:
        StorageError: A folder cannot be listed.
    """
    table = TableRoot(root)
    folders = [(), (FOLDER,), *((FOLDER, name) for name in _RECORDS)]
    return [
        entry._replace(path="/".join([*folder, entry.path.rsplit("/", 1)[-1]]))
        for folder in folders
        for entry in table.store.list_entries(table.path(*folder))
    ]


def leftovers(entries: Sequence[Entry], table: DeltaTable) -> list[Leftover]:
    """Returns the files in a table's folder that its current version does not read, without records and log.

    Args:
        entries: The files, from `list_table`.
        table: The table. To delete files by the result, open it after the listing: parts that are published in between
            are then known to be needed.
    """
    active = active_parts(table)
    # A dry run deletes nothing. deltalake has no other way to list the files that earlier versions read.
    removed = set(table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False, full=False))
    newest: defaultdict[str, float] = defaultdict(float)
    unneeded = []
    for entry in entries:
        run = _run_of(entry.path)
        if run is not None:
            newest[run] = max(newest[run], entry.modified)
        kind = _kind(entry.path, run, removed)
        if kind is not None and entry.path not in active:
            unneeded.append((entry, kind, run))
    return [
        Leftover(
            entry.path,
            entry.size_bytes,
            kind,
            entry.modified if run is None or kind is Kind.SUPERSEDED else newest[run],
        )
        for entry, kind, run in unneeded
    ]


def _kind(path: str, run: str | None, removed: set[str]) -> Kind | None:
    folder, _, name = path.rpartition("/")
    if path in removed:
        return Kind.SUPERSEDED
    if _PARTIAL.fullmatch(name):
        return Kind.PARTIAL
    if folder:
        return None
    return Kind.FOREIGN if run is None else Kind.ORPHAN


def _run_of(path: str) -> str | None:
    """Returns the run or compaction that a part or an unfinished part belongs to; None for other files."""
    partial = _PARTIAL.fullmatch(path)
    name = parse_part_name(partial["name"] if partial else path)
    return name and name.run_id
