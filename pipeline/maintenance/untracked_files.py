"""The files in a table's folder that its current version does not read: whose they are, and how old."""

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
from pipeline.table.paths import TableRoot

_PART = re.compile(r"part-(?P<run>.+)-[0-9a-f]{32}\.parquet|part-(?P<compaction>compaction-[0-9a-f]{32})-\d+\.parquet")
_PARTIAL = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{32}}{re.escape(PARTIAL_SUFFIX)}")
# Below FOLDER; what lies in others is their writers' affair.
_RECORDS = ("models", "runs", "compactions")


class Kind(StrEnum):
    """Whose a file is.

    Attributes:
        SUPERSEDED: Earlier versions of the table read it.
        ORPHAN: A part that was never published: a run is at work, or died.
        PARTIAL: A file that was never finished: it is being written, or its writer died.
        FOREIGN: Not densecast's.
    """

    SUPERSEDED = "superseded"
    ORPHAN = "orphan"
    PARTIAL = "partial"
    FOREIGN = "foreign"


class Leftover(NamedTuple):
    """A file that the current version does not read.

    Attributes:
        path: Relative to the table.
        size_bytes: Its size.
        kind: Whose it is.
        since: Since when it is not needed, in seconds since 1970, as far as its own times say; 0 where unknown. Of a
            run that has not published, the newest of its files counts: while it writes, none of them is left over.
    """

    path: str
    size_bytes: int
    kind: Kind
    since: float


def list_table(root: str) -> list[Entry]:
    """All files that may be leftovers; their paths are relative to the table.

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
    """Which of the files in a table's folder its current version does not read; none of the records and the log's.

    Args:
        entries: What `list_table` found.
        table: The table. To delete by the result, open it after the listing: what is published between the two is then
            known to be needed.
    """
    active = active_parts(table)
    # A dry run deletes nothing: it is the one way to ask deltalake for what earlier versions read.
    removed = set(table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False, full=False))
    newest: defaultdict[str, float] = defaultdict(float)
    found = []
    for entry in entries:
        run = _run_of(entry.path)
        if run is not None:
            newest[run] = max(newest[run], entry.modified)
        kind = _kind(entry.path, run, removed)
        if kind is not None and entry.path not in active:
            found.append((entry, kind, run))
    return [
        Leftover(
            entry.path,
            entry.size_bytes,
            kind,
            entry.modified if run is None or kind is Kind.SUPERSEDED else newest[run],
        )
        for entry, kind, run in found
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
    """The run, or compaction, that a part or an unfinished one belongs to; None for other files."""
    partial = _PARTIAL.fullmatch(path)
    match = _PART.fullmatch(partial["name"] if partial else path)
    return match and (match["run"] or match["compaction"])
