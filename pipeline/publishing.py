"""Publication: the part files of a run enter the Delta table in one transaction, or not at all."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from pipeline import storage
from pipeline.errors import TableError
from pipeline.parts import STATISTICS_COLUMNS, Receipt, check_root, check_run_id
from pipeline.rows import SCHEMA

# The leading underscore keeps Delta's vacuum, and Spark's listing, away from what lies in it.
FOLDER = "_densecast"

_ATTEMPTS = 3
_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Without this a compaction would gather statistics of the arrays as well.
_CONFIGURATION = {"delta.dataSkippingStatsColumns": ",".join(STATISTICS_COLUMNS)}


class Published(NamedTuple):
    """What a run has published.

    Attributes:
        version: The version of the table that the run made.
        rows: How many rows it added.
        scored: How many of them are maps.
        rejected: How many of them are rejections.
    """

    version: int
    rows: int
    scored: int
    rejected: int


def publish(
    root: str,
    receipts: Sequence[Receipt],
    *,
    run_id: str,
    model_json: Mapping[str, Any],
    summary: Mapping[str, Any],
    append: bool = False,
) -> Published:
    """Publish exactly the parts that `receipts` name, in one Delta transaction; create the table if there is none.

    Doing it again for the same run changes nothing and returns the same result, whatever the receipts: a runner may
    repeat its last stage. Nor does it matter where an earlier attempt was killed: the commit is the one moment that
    counts, the model's metadata is written before it and the summary after, by whichever attempt gets that far.

    Args:
        root: The table, a local path or `scheme://`.
        receipts: The parts that count; none is legal, and one given twice counts once.
        run_id: The run.
        model_json: The model's metadata; `digest` names it and `labels` are what maps of it are labelled with.
        summary: What the run has to say about itself; kept as JSON together with the result.
        append: Whether the rows may join those of other runs. Without it a table that another run made is refused, on
            every attempt, so that of two runs at once one publishes and no image gets two maps.

    Returns:
        What the run has published, now or earlier.

    Raises:
        TableError: A part is missing or has another size than its receipt says, receipts contradict each other, the
            table has other columns, or the transaction failed; nothing is published then.
        StorageError: The model's metadata or the summary cannot be written.
    """
    check_run_id(run_id)
    digest = _digest(root, model_json)
    parts = _distinct(root, receipts)
    result = Published(-1, sum(p.rows for p in parts), sum(p.scored for p in parts), sum(p.rejected for p in parts))
    actions: list[AddAction] | None = None
    for attempt in range(1, _ATTEMPTS + 1):
        table = open_delta(root)
        if table is not None:
            check_columns(root, table)
            if table.transaction_version(run_id) is not None:
                break
            if not append:
                raise table_exists(root)
        if actions is None:
            actions = [_add_action(root, part) for part in parts]
            _write_json(root, "models", digest, model_json)
        try:
            _commit(root, table, actions, run_id, result)
            break
        except DeltaError as error:
            # Another writer came first, of the table's first version or of this very run: the next round tells.
            if attempt == _ATTEMPTS:
                raise TableError(
                    f"the transaction of run {run_id} failed: {error}",
                    where=root,
                    why=f"it was tried {attempt} times; the parts are on disk, but no reader sees them",
                    remedy="check that the table can be written, then run again",
                ) from error
    return _conclude(root, run_id, digest, result, summary)


def table_exists(root: str) -> TableError:
    """The error of a run that found a table where it was to make one."""
    return TableError(
        "a table is there already",
        where=root,
        why="a run makes a table; scoring an image twice into one would leave two maps of it",
        remedy="name another output",
    )


def delta_location(root: str) -> str:
    """`root` as deltalake takes it: absolute where it is local.

    Raises:
        TableError: The folder cannot hold a table.
    """
    check_root(root)
    return root if storage.is_remote(root) else str(storage.local_path(root).absolute())


def open_delta(root: str, version: int | None = None) -> DeltaTable | None:
    """The Delta table at `root`, or None where there is none.

    Raises:
        TableError: There is one, but it cannot be opened (at that version).
    """
    location = delta_location(root)
    if not storage.is_remote(root) and not storage.local_path(root).is_dir():
        return None
    try:
        return DeltaTable(location, version=version)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError, OverflowError) as error:
        at = "" if version is None else f" at version {version}"
        raise TableError(
            f"the table cannot be opened{at}: {error}",
            where=root,
            remedy="check the credentials and the folder _delta_log"
            if version is None
            else "leave the version out to read the newest, or give one that the table still has",
        ) from error


def check_columns(root: str, table: DeltaTable) -> None:
    """Check that a Delta table has our columns; it may have more.

    Raises:
        TableError: A column is missing or has another type.
    """
    found = pa.schema(table.schema().to_arrow())
    types = {field.name: field.type for field in found}
    wrong = [f"{f.name} ({types.get(f.name, 'missing')})" for f in SCHEMA if types.get(f.name) != f.type]
    if wrong:
        raise TableError(
            f"is a Delta table, but not one of densecast's: it has no {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=root,
            why="maps are kept in columns of fixed names and types",
            remedy="give the path of a table that densecast has written, or of a new folder to write one to",
        )


def _commit(root: str, table: DeltaTable | None, actions: list[AddAction], run_id: str, result: Published) -> None:
    properties = CommitProperties(
        custom_metadata={
            "densecast": {"run_id": run_id, "rows": result.rows, "scored": result.scored, "rejected": result.rejected}
        },
        app_transactions=[Transaction(run_id, 1)],
    )
    schema = Schema.from_arrow(SCHEMA)
    if table is not None:
        table.create_write_transaction(list(actions), "append", schema, commit_properties=properties)
        return
    # One commit holds schema, parts and run: DeltaTable.create and a transaction after it would leave a moment, and
    # after a crash a lasting state, in which readers find an empty table that no run has made.
    create_table_with_add_actions(
        delta_location(root),
        schema,
        actions,
        mode="error",
        name="densecast",
        description="Classification maps, one row an image, and rejections",
        configuration=_CONFIGURATION,
        commit_properties=properties,
    )


def _conclude(root: str, run_id: str, digest: str, claimed: Published, summary: Mapping[str, Any]) -> Published:
    """Write the summary of a run that is in the log, unless it is there; return what the run has published."""
    path = storage.join(root, FOLDER, "runs", f"{run_id}.json")
    if storage.exists(path):
        about = json.loads(storage.read_bytes(path))
        return Published(*(about[name] for name in Published._fields))
    result = _committed(root, run_id, claimed)
    _write_json(root, "runs", run_id, {**summary, "run_id": run_id, "model_digest": digest, **result._asdict()})
    return result


def _committed(root: str, run_id: str, claimed: Published) -> Published:
    """What the log says that `run_id` has published; `claimed` if its entry is gone, as Delta drops old ones."""
    table = open_delta(root)
    while table is not None:
        commits = table.history()
        # deltalake numbers the commits it finds now from the version it opened: right only if none came in between.
        again = open_delta(root)
        if again is None or again.version() == table.version():
            for commit in commits:
                about = commit.get("densecast") or {}
                if about.get("run_id") == run_id:
                    return Published(int(commit["version"]), about["rows"], about["scored"], about["rejected"])
            return claimed._replace(version=table.version())
        table = again
    raise TableError("the table vanished while a run was published to it", where=root)


def _write_json(root: str, folder: str, name: str, content: Mapping[str, Any]) -> None:
    path = storage.join(root, FOLDER, folder, f"{name}.json")
    storage.write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _digest(root: str, model_json: Mapping[str, Any]) -> str:
    digest = model_json.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise TableError(f"the model's metadata have the digest {digest!r}", where=root, remedy="convert it again")
    return digest


def _distinct(root: str, receipts: Sequence[Receipt]) -> list[Receipt]:
    parts: dict[str, Receipt] = {}
    for receipt in receipts:
        if parts.setdefault(receipt.path, receipt) != receipt:
            raise TableError(f"two receipts contradict each other about the part {receipt.path}", where=root)
    return list(parts.values())


def _add_action(root: str, part: Receipt) -> AddAction:
    found = storage.size_of(storage.join(root, part.path))
    if found != part.size_bytes:
        raise TableError(
            f"the part {part.path} {'is missing' if found is None else f'has {found:,} bytes'}, where its receipt says"
            f" {part.size_bytes:,} bytes",
            where=root,
            why="nothing was published: a table with a hole would lie to its readers",
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
