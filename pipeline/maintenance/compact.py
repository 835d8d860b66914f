"""Compaction: many small parts become few large ones with the same rows, in one Delta transaction for each pass.

Every nightly run adds at least one part, and a reader opens all of them. A pass groups the small parts, neighbours by
address, into groups of about the target size, and merges each group into one file sorted by address.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from numpy.typing import NDArray

from conversion.errors import DensecastError
from pipeline.errors import TableError
from pipeline.maintenance.check_parts import Logged, logged_files
from pipeline.maintenance.current_table import current_table
from pipeline.storage.errors import StorageError
from pipeline.storage.options import store_of
from pipeline.table.commit import ConflictError
from pipeline.table.log import FOLDER, active_parts
from pipeline.table.part_file import ROW_GROUP_BYTES, PartFile, Receipt
from pipeline.table.part_reader import Part, is_foreign, open_part, reading_part
from pipeline.table.paths import TableRoot
from pipeline.table.schema import IDENTITY, SCHEMA
from pipeline.table.table_format import delta_schema, upgrade

TARGET_BYTES = 128 << 20
_SMALL = 0.5  # of the target size: larger parts are not merged
_GROUP_FILES = 64  # parts of a group, of each of which a row group is held in memory
_CHUNK_BYTES = ROW_GROUP_BYTES // 4
_PASSES = 8
_ATTEMPTS = 10
_IDENTITY = pa.schema([SCHEMA.field(name) for name in IDENTITY])


class Group(NamedTuple):
    """Parts that are merged into one.

    Attributes:
        parts: Their paths.
        size_bytes: Their total size.
    """

    parts: tuple[str, ...]
    size_bytes: int


class LeftPart(NamedTuple):
    """A part that a compaction leaves as it is.

    Attributes:
        path: The part.
        why: Why it is left.
    """

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Compacted:
    """The result of a compaction.

    Attributes:
        version: The version of the table after it.
        passes: The number of transactions; 0 if there was nothing to do.
        files_before: The number of parts before.
        files_after: The number of parts after.
        bytes_before: The size of the parts before.
        bytes_after: The size of the parts after.
        rows: The number of copied rows; several passes count a row several times.
        left: The small parts that were not merged, because another program wrote what densecast cannot copy.
    """

    version: int
    passes: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int
    left: tuple[LeftPart, ...] = ()


def compact(
    root: str, target_bytes: int = TARGET_BYTES, on_progress: Callable[[int, int], None] | None = None
) -> Compacted:
    """Merges the small parts of a table into parts of about `target_bytes`.

    The rows do not change, and runs may publish meanwhile. If it is killed, the table is as it was before or after, and
    `densecast vacuum` deletes the files that it left. It holds in memory one encoded part of the target size, and one
    decoded row group of each part that is being merged, at most 64.

    A small part is left as it is, and named, if another program has appended rows in it that are not densecast's, or
    has written what cannot be read.

    Args:
        root: The table, a local path or `scheme://`.
        target_bytes: The approximate size of the new parts.
        on_progress: Is called with the bytes that are done and the bytes in all, of each pass.

    Raises:
        ConflictError: A run has replaced parts that were being merged; the compaction has changed nothing.
        TableError: There is no table, a part cannot be read, or the commit failed.
        StorageError: A part cannot be written.
    """
    before = logged_files(current_table(root, writes=True))
    rows = passes = 0
    known: dict[str, str] = {}
    while passes < _PASSES:
        table = current_table(root)
        files = logged_files(table)
        for file in files:
            if file.path not in known and is_foreign(file.path) and _is_small(file, target_bytes):
                known[file.path] = _obstacle(root, file.path)
        groups = plan([file for file in files if not known.get(file.path)], target_bytes)
        if not groups:
            break
        rows += _pass(root, files, groups, on_progress)
        passes += 1
    table = current_table(root)
    after = logged_files(table)
    return Compacted(
        table.version(),
        passes,
        len(before),
        len(after),
        sum(file.size_bytes for file in before),
        sum(file.size_bytes for file in after),
        rows,
        tuple(LeftPart(file.path, known[file.path]) for file in after if known.get(file.path)),
    )


def _obstacle(root: str, part: str) -> str:
    """Returns why a part of another program cannot be merged; empty if it can be."""
    try:
        with reading_part(root), open_part(root, part) as file:
            others = file.rows_of_others()
    except TableError as error:
        return f"another program has written it, and it cannot be read: {error.__cause__}"
    return f"another program has appended {others:,} rows that are not densecast's" if others else ""


def _is_small(file: Logged, target_bytes: int) -> bool:
    return file.size_bytes < target_bytes * _SMALL


def plan(files: Sequence[Logged], target_bytes: int) -> list[Group]:
    """Returns the groups of parts to merge: small parts, neighbours by address, at least two in a group.

    Args:
        files: The parts of a version.
        target_bytes: The size at which a group is complete.
    """
    small = [file for file in files if _is_small(file, target_bytes)]
    groups: list[Group] = []
    gathered: list[Logged] = []
    for file in sorted(small, key=lambda file: (file.lowest.get("uri", ""), file.path)):
        gathered.append(file)
        if len(gathered) == _GROUP_FILES or sum(f.size_bytes for f in gathered) >= target_bytes:
            groups.append(_group(gathered))
            gathered = []
    groups.append(_group(gathered))
    return [group for group in groups if len(group.parts) > 1]


def _group(files: Sequence[Logged]) -> Group:
    return Group(tuple(file.path for file in files), sum(file.size_bytes for file in files))


def _pass(
    root: str, files: Sequence[Logged], groups: Sequence[Group], on_progress: Callable[[int, int], None] | None
) -> int:
    """Merges groups and commits them; returns the number of copied rows."""
    # Unlike the name of a run: no later run adopts parts of this name.
    name, table = f"compaction-{uuid.uuid4().hex}", TableRoot(root)
    in_all = sum(group.size_bytes for group in groups)
    receipts: list[Receipt] = []
    with ExitStack() as undo:
        done = 0
        for index, group in enumerate(groups):
            receipts.append(_merge(root, group.parts, name, f"{index:05d}"))
            undo.callback(table.store.delete, table.path(receipts[-1].path))
            done += group.size_bytes
            if on_progress is not None:
                on_progress(done, in_all)
        removed = {part for group in groups for part in group.parts}
        written = undo.pop_all()
    try:
        version = _commit(root, name, receipts, [file for file in files if file.path in removed])
    except (TableError, StorageError):
        # The answer of a remote store may be lost although the commit succeeded. Otherwise vacuum deletes the files.
        if store_of(root) is None:
            written.close()
        raise
    record = {
        "compaction": name,
        "version": version,
        "parts": [{field: getattr(r, field) for field in ("path", "size_bytes", "rows", "sha256")} for r in receipts],
        "removed": sorted(removed),
    }
    path = table.path(FOLDER, "compactions", f"{name}.json")
    table.store.write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return sum(receipt.rows for receipt in receipts)


def _merge(root: str, parts: Sequence[str], name: str, number: str) -> Receipt:
    """Writes the rows of several parts into one, sorted by address, and verifies that the rows are the same."""
    reading = reading_part(
        root,
        "parts cannot be merged",
        why="the table was not changed",
        remedy="find the damage with `densecast check`; if the table was vacuumed meanwhile, run again",
    )
    with ExitStack() as target_stack:
        with ExitStack() as stack, reading:
            files = [stack.enter_context(open_part(root, part)) for part in parts]
            schema = _joint_schema(root, files)
            target = target_stack.enter_context(PartFile(root, name, number, further=list(schema)[len(SCHEMA) :]))
            identities = pa.concat_tables([pa.Table.from_batches(file.batches(IDENTITY), _IDENTITY) for file in files])
            order = pc.sort_indices(identities, sort_keys=[(column, "ascending") for column in IDENTITY])
            del identities
            for rows in _row_groups(_gather(files, order.to_numpy().astype(np.int64), schema)):
                # As one row group.
                target.write(rows, row_bytes=ROW_GROUP_BYTES // rows.num_rows)
            expected = _fingerprint(files)
        receipt = target.close()  # a failed write is not damage of the parts
    with ExitStack() as undo:
        table = TableRoot(root)
        path = table.path(receipt.path)
        undo.callback(table.store.delete, path)
        with open_part(root, receipt.path) as file:
            if _fingerprint([file]) != expected:
                raise TableError(
                    "the merged part has other rows than the parts it was made of",
                    where=path,
                    why="it was not published; the table was not changed",
                    remedy="check the disk and the memory of this machine, and report the error",
                )
        undo.pop_all()
    return receipt


def _joint_schema(root: str, parts: Sequence[Part]) -> pa.Schema:
    """Returns the columns of `SCHEMA`, then those that other programs have added to some of the parts.

    Raises:
        TableError: Two parts have such a column with different types.
    """
    try:
        return pa.unify_schemas([SCHEMA, *(part.further for part in parts)])
    except pa.ArrowException as error:
        raise TableError(
            f"parts cannot be merged: they have a column with different types: {error}",
            where=root,
            why="another program has added the column; the table was not changed",
            remedy="compact the table with the program that added the column",
        ) from error


def _fingerprint(files: Sequence[Part]) -> tuple[int, int]:
    """Returns the number of rows and the sum of their hashes: equal for the same rows in any order."""
    rows = total = 0
    for file in files:
        for batch in file.batches([*IDENTITY, "status", "key", "map_digest"]):
            for row in zip(*batch.to_pydict().values(), strict=True):
                total += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest(), "little")
            rows += batch.num_rows
    return rows, total


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yields small tables joined to tables of about `ROW_GROUP_BYTES` in memory."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(part.nbytes for part in pending) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _gather(files: Sequence[Part], order: NDArray[np.int64], schema: pa.Schema = SCHEMA) -> Iterator[pa.Table]:
    """Yields the rows of several files in a given order, a few at a time.

    A row group is read when its first row is needed, and dropped after its last one: of each sorted file one group is
    held.

    Args:
        files: The files.
        order: [n] indices into the rows of all files, one file after another.
        schema: The columns; those that a file lacks are null.
    """
    groups = [(file, index) for file in files for index in range(len(file.groups))]
    facts = [group for file in files for group in file.groups]
    sizes = np.array([group.num_rows for group in facts], np.int64)
    weights = [group.total_byte_size for group in facts]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    group_of = np.searchsorted(starts, order, side="right") - 1
    per_row = np.array(weights, np.float64)[group_of] / sizes[group_of]
    chunk_of = (np.cumsum(per_row) // _CHUNK_BYTES).astype(np.int64)
    remaining = Counter(dict(enumerate(sizes.tolist())))
    loaded: dict[int, pa.Table] = {}
    for rows in np.split(np.arange(len(order)), np.flatnonzero(np.diff(chunk_of)) + 1) if len(order) else ():
        wanted = group_of[rows]
        tables, positions = [], []
        for index in np.unique(wanted).tolist():
            if index not in loaded:
                file, group = groups[index]
                loaded[index] = file.read_group(group)
            rows_of_group = rows[wanted == index]
            tables.append(loaded[index].take(order[rows_of_group] - starts[index]))
            positions.append(rows_of_group)
            remaining[index] -= len(rows_of_group)
            if not remaining[index]:
                del loaded[index]
        # `tables` hold the rows by group; this restores the requested order.
        inverse = np.argsort(np.concatenate(positions), kind="stable")
        rows_by_group = pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
        yield rows_by_group.cast(schema).take(inverse)


def _commit(root: str, name: str, receipts: Sequence[Receipt], removed: Sequence[Logged]) -> int:
    """Replaces files in one transaction; returns the new version."""
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        # No data change: a reader that follows the table as a stream does not get these rows again.
        AddAction(r.path, r.size_bytes, {}, modification_time=now, data_change=False, stats=r.stats)
        for r in receipts
    ]
    actions += [RemoveAction(file.path, False, now, size=file.size_bytes, partition_values={}) for file in removed]
    metadata = {"compaction": name, "added": len(receipts), "removed": len(removed)}
    # deltalake's own retry commits the removal of parts that another writer has removed, and duplicates rows.
    properties = CommitProperties(custom_metadata={"densecast": metadata}, max_commit_retries=0)
    failure: DensecastError
    for _ in range(_ATTEMPTS):
        table = current_table(root, writes=True)
        active = active_parts(table)
        if {receipt.path for receipt in receipts} & active:  # others may have replaced some of them since
            return table.version()  # the answer to the last attempt was lost
        gone = {file.path for file in removed} - active
        if gone:
            raise ConflictError(
                f"{len(gone)} of the parts that were being merged have been replaced",
                where=root,
                why="a run or another compaction has published meanwhile; this compaction has changed nothing",
                remedy="run again",
            )
        try:
            upgrade(root, table)
            table.create_write_transaction(actions, "append", delta_schema(), commit_properties=properties)
        except OSError as error:
            failure = TableRoot(root).store.explain(error, root, "the compaction cannot be committed")
            if store_of(root) is None:
                raise failure from error
        except DeltaError as error:
            # Another writer committed first. If it changed none of our parts, the next attempt succeeds.
            failure = TableError(
                f"the compaction cannot be committed: {error}",
                where=root,
                why=f"it was tried {_ATTEMPTS} times; the table was not changed by it",
                remedy="check that the table can be written, and run again when fewer runs are at work",
            )
        else:
            return table.version()
    raise failure
