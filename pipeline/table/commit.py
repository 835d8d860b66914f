"""The commit: the part files of a run enter the Delta table in one transaction, or not at all."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from conversion.errors import DensecastError
from pipeline.errors import TableError
from pipeline.storage.client_options import delta_options
from pipeline.storage.options import store_of
from pipeline.table.log import active_parts, open_delta, restored_version
from pipeline.table.part_file import STATISTICS_COLUMNS, Receipt, check_run_id
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.paths import TableRoot, delta_location
from pipeline.table.schema import strings
from pipeline.table.summaries import RunSummary, read_summary, run_path, write_json
from pipeline.table.table_format import NAME, delta_schema, upgrade

_ATTEMPTS = 10  # a conflict costs one attempt
# Otherwise a compaction by another program gathers statistics of the arrays as well.
_CONFIGURATION = {"delta.dataSkippingStatsColumns": ",".join(STATISTICS_COLUMNS)}
_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Result(NamedTuple):
    run_id: str
    version: int
    scored: int
    rejected: int


class Changes(NamedTuple):
    """The changes that a run makes to a table.

    Attributes:
        base: The version that the run began with; -1 if there was no table.
        receipts: The parts to add; may be empty, and a receipt given twice counts once.
        removed: The parts of version `base` whose rows are replaced.
    """

    base: int
    receipts: Sequence[Receipt]
    removed: Sequence[str] = ()


class ConflictError(TableError):
    """Another writer has changed the same images or parts; the run has published nothing."""


def commit(
    root: str, changes: Changes, *, run_id: str, model_json: Mapping[str, Any], summary: Mapping[str, Any]
) -> RunSummary:
    """Publishes exactly the parts that the receipts name, in one Delta transaction; creates the table if there is none.

    A repeated call for the same run changes nothing and returns the same result, whatever the receipts: a runner may
    repeat its last stage. An earlier attempt may have been killed at any point: the model's metadata is written before
    the commit and the summary after it, by whichever attempt gets that far.

    Args:
        root: The table, a local path or `scheme://`.
        changes: The changes. Other runs may have published meanwhile if they changed other images: of two runs at once
            one publishes an image's map, and no image gets two.
        run_id: The run.
        model_json: The model's metadata; `digest` names the model and `labels` are its class labels.
        summary: Further entries of the run's summary, a JSON file.

    Returns:
        What the run has published, now or earlier.

    Raises:
        ConflictError: Another run has published some of the images, or has rewritten parts that this one replaces, or
            an earlier version of the table was restored meanwhile.
        TableError: A part is missing or has another size than its receipt says, receipts contradict each other, the
            table has other columns, or the transaction failed; nothing is published.
        StorageError: The transaction, the model's metadata or the summary cannot be written.
    """
    check_run_id(run_id)
    digest = _digest(root, model_json)
    parts = _distinct(root, changes.receipts)
    result = _Result(run_id, -1, sum(p.scored for p in parts), sum(p.rejected for p in parts))
    actions: list[AddAction | RemoveAction] | None = None
    for attempt in range(1, _ATTEMPTS + 1):
        table = open_delta(root, writes=True)
        if table is not None and table.transaction_version(run_id) is not None:
            break
        if actions is None:
            actions = [_add_action(root, part) for part in parts]
            actions += [_remove_action(path) for path in sorted(set(changes.removed))]
        if (table.version() if table else -1) != changes.base:
            check_overlap(root, table, changes, parts)
        if attempt == 1:
            write_json(root, "models", digest, model_json)
        try:
            _commit_transaction(root, table, actions, result)
            break
        except (OSError, DeltaError) as error:
            # Another writer committed first, or the store's answer was lost. The next attempt finds out which.
            if attempt == _ATTEMPTS or (isinstance(error, OSError) and store_of(root) is None):
                raise _not_written(root, run_id, attempt, error) from error
    entries = {
        "model_digest": digest,
        "base": changes.base,
        "removed": sorted(set(changes.removed)),
        **summary,
        "parts": [_part_record(part) for part in parts],
    }
    return _write_summary(root, result, entries)


def _not_written(root: str, run_id: str, attempt: int, error: Exception) -> DensecastError:
    if isinstance(error, OSError):
        why = "nothing was published; the parts are on disk, and the next run adopts them"
        return TableRoot(root).store.explain(error, root, "the transaction cannot be written", why)
    return TableError(
        f"the transaction of run {run_id} failed: {error}",
        where=root,
        why=f"it was tried {attempt} times; the parts are on disk, but no reader sees them",
        remedy="check that the table can be written, then run again",
    )


def check_overlap(root: str, table: DeltaTable | None, changes: Changes, parts: Sequence[Receipt]) -> None:
    """Checks that other runs have published only other images since a run began.

    Args:
        root: The table.
        table: Its current version; None if there is no table.
        changes: The run's changes.
        parts: Its parts.

    Raises:
        ConflictError: Another run has published one of the run's images, or replaced one of its parts, or an earlier
            version was restored.
    """
    remedy = "run again: the next run adopts the maps of this one"
    active = active_parts(table) if table else set()
    before = open_delta(root, changes.base) if changes.base >= 0 else None
    since = table.history(table.version() - changes.base) if table and table.version() > changes.base else []
    restored = next((version for version in map(restored_version, since) if version is not None), None)
    if restored is not None:
        raise ConflictError(
            f"version {restored} of the table was restored while this run worked",
            where=root,
            why="what the run kept need no longer be there; it has published nothing",
            remedy=remedy,
        )
    if gone := set(changes.removed) - active:
        raise ConflictError(
            f"{len(gone)} parts that hold images of this run were rewritten while it ran",
            where=root,
            why="another run or a compaction has published meanwhile",
            remedy=remedy,
        )
    new_parts = active - (active_parts(before) if before else set())
    published = {uri for part in sorted(new_parts) for uri in _uris(root, part)}
    for part in parts if published else ():
        common = next((uri for uri in _uris(root, part.path) if uri in published), None)
        if common is not None:
            raise ConflictError(
                f"another run has published the same images while this one ran, {common} among them",
                where=root,
                why="an image has only one map; this run has published nothing",
                remedy=remedy,
            )


def _uris(root: str, part: str) -> Iterator[str]:
    with reading_part(root, f"the part {part} cannot be read", remedy="run again"), open_part(root, part) as file:
        for batch in file.batches(["uri"]):
            yield from strings(batch.column(0))


def _commit_transaction(
    root: str, table: DeltaTable | None, actions: list[AddAction | RemoveAction], result: _Result
) -> None:
    properties = CommitProperties(
        custom_metadata={"densecast": {"run_id": result.run_id, "scored": result.scored, "rejected": result.rejected}},
        app_transactions=[Transaction(result.run_id, 1)],
        # deltalake would retry after its own check of conflicts, which does not see ours: `check_overlap` does.
        max_commit_retries=0,
    )
    schema = delta_schema()
    if table is not None:
        if any(isinstance(action, AddAction) for action in actions):
            upgrade(root, table)
        table.create_write_transaction(actions, "append", schema, commit_properties=properties)
        return
    # One commit holds schema, parts and run. After DeltaTable.create and before a second transaction, readers would
    # find an empty table that no run has made.
    create_table_with_add_actions(
        delta_location(root),
        schema,
        [action for action in actions if isinstance(action, AddAction)],
        mode="error",
        name=NAME,
        description="Classification maps, one row an image, and rejections",
        configuration=_CONFIGURATION,
        commit_properties=properties,
        storage_options=delta_options(root, TableRoot(root).options),
    )


def _write_summary(root: str, claimed: _Result, entries: Mapping[str, Any]) -> RunSummary:
    """Writes the summary of a run that is in the log, unless there is one; returns what the run has published."""
    run_id = claimed.run_id
    path = run_path(root, run_id)
    if TableRoot(root).store.facts(path) is None:
        result = _logged_result(root, claimed)._asdict()
        now = {"published_at": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(root, "runs", run_id, {**result, **now, **entries})
    return read_summary(root, run_id)


def _logged_result(root: str, claimed: _Result) -> _Result:
    """Returns what the log says that a run has published; Delta drops old entries, and then `claimed` is returned."""
    table = open_delta(root)
    while table is not None:
        commits = table.history()
        # deltalake numbers commits from the version it opened, which is wrong if another one was made meanwhile.
        newest = open_delta(root)
        if newest is None or newest.version() == table.version():
            for commit in commits:
                run = commit.get("densecast") or {}
                if run.get("run_id") == claimed.run_id:
                    return _Result(claimed.run_id, int(commit["version"]), run["scored"], run["rejected"])
            return claimed._replace(version=table.version())
        table = newest
    raise TableError("the table was deleted while a run was published to it", where=root)


def _digest(root: str, model_json: Mapping[str, Any]) -> str:
    digest = model_json.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise TableError(
            f"the model's metadata has the digest {digest!r}", where=root, remedy="convert the model again"
        )
    return digest


def _distinct(root: str, receipts: Sequence[Receipt]) -> list[Receipt]:
    parts: dict[str, Receipt] = {}
    for receipt in receipts:
        if parts.setdefault(receipt.path, receipt) != receipt:
            raise TableError(f"two receipts contradict each other about the part {receipt.path}", where=root)
    return list(parts.values())


def _part_record(part: Receipt) -> dict[str, Any]:
    return {name: getattr(part, name) for name in ("path", "size_bytes", "rows", "sha256")}


def _remove_action(path: str) -> RemoveAction:
    return RemoveAction(path=path, data_change=True, deletion_timestamp=int(time.time() * 1000), partition_values={})


def _add_action(root: str, part: Receipt) -> AddAction:
    table = TableRoot(root)
    facts = table.store.facts(table.path(part.path))
    size = facts.size_bytes if facts else None
    if size != part.size_bytes:
        raise TableError(
            f"the part {part.path} {'is missing' if size is None else f'has {size:,} bytes'}, where its receipt says"
            f" {part.size_bytes:,} bytes",
            where=root,
            why="nothing was published, since the table would lack rows",
            remedy="check that all workers write to the same folder and that nothing deletes from it, then run again",
        )
    return AddAction(
        path=part.path,
        size=part.size_bytes,
        partition_values={},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=part.stats,
    )
