"""Restore: brings an earlier version of a table back, as a new version, in one Delta transaction.

Nothing is deleted. The parts that leave the table belong to earlier versions, as those that a run replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError

from pipeline.errors import TableError
from pipeline.maintenance.current_table import current_table
from pipeline.storage.options import store_of
from pipeline.table.commit import ConflictError
from pipeline.table.lease import Lease
from pipeline.table.log import open_delta, restored_version
from pipeline.table.part_file import new_run_id
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.summaries import RESTORED, run_path, write_json

_NAMED = 3  # missing parts in a message


class Content(NamedTuple):
    """What a version holds.

    Attributes:
        version: The version.
        parts: The number of its parts.
        scored: The number of its maps.
        rejected: The number of its rejections.
        deleted: The number of its deletions.
    """

    version: int
    parts: int
    scored: int
    rejected: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore does, or has done.

    Attributes:
        before: The version from which it starts.
        target: The version that it brings back.
        added: The number of parts that come back.
        removed: The number of parts that leave.
        undone: The runs whose changes leave, oldest first.
        run_id: The name of the restore in the history of the runs; empty if nothing was changed.
        version: The version that it made; that of `before` if nothing was changed.
    """

    before: Content
    target: Content
    added: int
    removed: int
    undone: tuple[str, ...]
    run_id: str = ""
    version: int = -1

    @property
    def needed(self) -> bool:
        """Returns whether the versions differ."""
        return bool(self.added or self.removed)


def plan_restore(root: str, version: int) -> Restored:
    """Returns what a restore would do; changes nothing.

    Args:
        root: The table, a local path or `scheme://`.
        version: The version to bring back.

    Raises:
        TableError: There is no table or no such version, or parts of it were vacuumed.
    """
    table = current_table(root, writes=True)
    earlier = open_delta(root, version)
    if version > table.version() or earlier is None:
        raise TableError(
            f"there is no version {version}: the newest is {table.version()}",
            where=root,
            remedy="list the versions of the runs with `densecast runs`",
        )
    now, then = _sizes(table), _sizes(earlier)
    _check_present(root, version, then)
    runs = MapTable(root).runs()
    kept = _runs_in(runs, version)
    return Restored(
        _content(root, table.version(), len(now)),
        _content(root, version, len(then)),
        len(then.keys() - now.keys()),
        len(now.keys() - then.keys()),
        tuple(run for run in _runs_in(runs, table.version()) if run not in kept),
        version=table.version(),
    )


def restore(root: str, version: int) -> Restored:
    """Brings an earlier version of a table back, while it holds the table's lease.

    Afterwards the table has the rows and columns of that version, under a new number. A run that was at work meanwhile
    publishes nothing (`ConflictError`). The next run scores what has changed since that version.

    If it is killed, the table is as it was before or after; a repeated call does the rest.

    Args:
        root: The table, a local path or `scheme://`.
        version: The version to bring back.

    Raises:
        TableError: There is no table or no such version, parts of it were vacuumed, or the transaction failed.
        ConflictError: Another writer has changed the table meanwhile; nothing was changed.
        LeaseHeldError: A run is at work.
        StorageError: The table cannot be written.
    """
    run_id = f"restore-{new_run_id()}"
    current_table(root, writes=True)  # before a lease is put there
    with Lease(root, run_id):
        _conclude(root)
        plan = plan_restore(root, version)
        if not plan.needed:
            return plan
        made = _commit(root, plan, run_id)
        _conclude(root)
    return Restored(plan.before, plan.target, plan.added, plan.removed, plan.undone, run_id, made)


def _commit(root: str, plan: Restored, run_id: str) -> int:
    properties = CommitProperties(
        custom_metadata={"densecast": {"run_id": run_id, "scored": 0, "rejected": 0, RESTORED: plan.target.version}},
        app_transactions=[Transaction(run_id, 1)],
        max_commit_retries=0,
    )
    table = current_table(root, writes=True)
    if table.version() != plan.before.version:
        raise _changed_meanwhile(root)
    try:
        table.restore(plan.target.version, commit_properties=properties)
    except (OSError, DeltaError) as error:
        after = current_table(root)
        if after.transaction_version(run_id) is None:  # otherwise the answer was lost, and not the commit
            if after.version() != plan.before.version:
                raise _changed_meanwhile(root) from error
            if isinstance(error, OSError) or store_of(root) is not None:
                raise TableRoot(root).store.explain(error, root, "the table cannot be restored") from error
            raise TableError(
                f"the table cannot be restored: {error}", where=root, remedy="check that it can be written, run again"
            ) from error
    return plan.before.version + 1


def _changed_meanwhile(root: str) -> ConflictError:
    return ConflictError(
        "another writer has changed the table while it was to be restored",
        where=root,
        why="nothing was changed by the restore",
        remedy="look at the table with `densecast runs`, and run again",
    )


def _conclude(root: str) -> None:
    """Writes the summaries of restores that lack one, from the log: the one before may have been killed."""
    for commit in current_table(root).history():
        version = restored_version(commit)
        run_id = (commit.get("densecast") or {}).get("run_id")
        if version is None or not isinstance(run_id, str) or TableRoot(root).store.facts(run_path(root, run_id)):
            continue
        summary: Mapping[str, Any] = {
            "run_id": run_id,
            "version": int(commit["version"]),
            "scored": 0,
            "rejected": 0,
            RESTORED: version,
            "published_at": datetime.fromtimestamp(commit["timestamp"] / 1000, UTC).isoformat(timespec="seconds"),
        }
        write_json(root, "runs", run_id, summary)


def _runs_in(runs: Sequence[Mapping[str, Any]], version: int) -> list[str]:
    """Returns the runs whose changes are in a version, oldest first: a restore takes those after its target out."""
    found = []
    for run in reversed(runs):  # oldest first, by `MapTable.runs`
        if run.get("version", 0) > version:
            continue
        if RESTORED in run:
            version = run[RESTORED]
        else:
            found.append(str(run.get("run_id")))
    return found[::-1]


def _sizes(table: DeltaTable) -> dict[str, int]:
    return {row["path"]: row["size_bytes"] for row in pa.table(table.get_add_actions()).to_pylist()}


def _check_present(root: str, version: int, sizes: Mapping[str, int]) -> None:
    table = TableRoot(root)
    missing = []
    for path, size in sorted(sizes.items()):
        facts = table.store.facts(table.path(*path.split("/")))
        if facts is None or facts.size_bytes != size:
            missing.append(path)
    if missing:
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        raise TableError(
            f"version {version} cannot be restored: {len(missing):,} of its {len(sizes):,} parts are no longer there:"
            f" {', '.join(missing[:_NAMED])}{more}",
            where=root,
            why="`densecast vacuum` deletes the parts of versions from before its retention",
            remedy="choose a later version, or put the files back from a copy of the table",
        )


def _content(root: str, version: int, parts: int) -> Content:
    counts = MapTable(root, version).counts().by_status
    return Content(version, parts, counts["scored"], counts["rejected"], counts["deleted"])
