"""Compaction: many small parts become few large ones, with the same rows, in one Delta transaction a pass.

Nightly runs leave a part each, and a reader opens them all. A pass gathers the small parts into groups of about the
target size, neighbours by address together, and merges each group into one file sorted by address.
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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from conversion.errors import DensecastError
from pipeline.errors import TableError
from pipeline.maintenance.check_parts import Logged, logged_files
from pipeline.maintenance.current_table import current_table
from pipeline.storage.errors import StorageError
from pipeline.storage.options import store_of
from pipeline.table.commit import ConflictError
from pipeline.table.log import FOLDER, active_parts
from pipeline.table.part_file import ROW_GROUP_BYTES, PartFile, Receipt
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.paths import TableRoot
from pipeline.table.schema import IDENTITY, SCHEMA

TARGET_BYTES = 128 << 20
_SMALL = 0.5  # of the target: what is larger is left alone
_GROUP_FILES = 64  # of each of a group, a row group is held
_CHUNK_BYTES = ROW_GROUP_BYTES // 4
_PASSES = 8
_ATTEMPTS = 10


class Group(NamedTuple):
    """Parts that become one.

    Attributes:
        parts: Their names.
        size_bytes: Their size in all.
    """

    parts: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Attributes:
        version: The version of the table after it.
        passes: How many transactions it took; 0 if there was nothing to do.
        files_before: Parts of the table.
        files_after: The same.
        bytes_before: Their size.
        bytes_after: The same.
        rows: How many rows were copied; some twice where it took several passes.
    """

    version: int
    passes: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows: int


def compact(
    root: str, target_bytes: int = TARGET_BYTES, on_progress: Callable[[int, int], None] | None = None
) -> Compacted:
    """Merge the small parts of a table until no two of them are left, as far as `target_bytes` goes.

    The rows are the same before and after, and runs may publish meanwhile. Killed at any moment, it leaves the table
    as it was or as it was to be, and files that `densecast vacuum` deletes. Held in memory are a part of the
    target size, encoded, and decoded a row group of each part that is merged, 64 at most at a time.

    Args:
        root: The table, a local path or `scheme://`.
        target_bytes: About how large a part is to be.
        on_progress: Gets bytes done and bytes in all, of each pass.

    Raises:
        ConflictError: A run has replaced parts that were being merged; the table is as that run left it.
        TableError: There is no table, a part cannot be read or has further columns, or the commit failed.
        StorageError: A part cannot be written.
    """
    before = logged_files(current_table(root))
    rows = passes = 0
    while passes < _PASSES:
        table = current_table(root)
        files = logged_files(table)
        groups = plan(files, target_bytes)
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
    )


def plan(files: Sequence[Logged], target_bytes: int) -> list[Group]:
    """Which parts become one: small ones, neighbours by address, about `target_bytes` together and at least two.

    Args:
        files: The parts of a version.
        target_bytes: At this size a group is full.
    """
    small = [file for file in files if file.size_bytes < target_bytes * _SMALL]
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
    """Merges groups and commits them; returns how many rows were copied."""
    # No run's: the name differs from those that a later run adopts.
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
        # Over a network an answer may be lost, and the commit be there: vacuum deletes the new files if it is not.
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
    """Writes the rows of some parts into one, sorted by address, and checks that they are the same."""
    reading = reading_part(
        root,
        "parts cannot be merged",
        why="the table is as it was",
        remedy="look at the damage with `densecast check`; if the table was vacuumed meanwhile, run again",
    )
    with ExitStack() as stack, reading:
        files = [stack.enter_context(open_part(root, part)) for part in parts]
        for part, file in zip(parts, files, strict=True):
            _check_columns(root, part, file.schema_arrow)
        identities = pa.concat_tables([file.read(columns=list(IDENTITY)) for file in files])
        order = pc.sort_indices(identities, sort_keys=[(column, "ascending") for column in IDENTITY])
        del identities
        with PartFile(root, name, number) as target:
            for rows in _row_groups(_gather(files, order.to_numpy().astype(np.int64))):
                # As one row group.
                target.write(rows, row_bytes=ROW_GROUP_BYTES // rows.num_rows)
            receipt = target.close()
        wanted = _fingerprint(files)
    with ExitStack() as undo:
        table = TableRoot(root)
        path = table.path(receipt.path)
        undo.callback(table.store.delete, path)
        with open_part(root, receipt.path) as file:
            if _fingerprint([file]) != wanted:
                raise TableError(
                    "the merged part has other rows than the parts it was made of",
                    where=path,
                    why="it was not published; the table is as it was",
                    remedy="check the disk and the memory of this machine, and report it",
                )
        undo.pop_all()
    return receipt


def _check_columns(root: str, part: str, schema: Any) -> None:
    if not schema.equals(SCHEMA):
        raise TableError(
            f"the part {part} has other columns than densecast writes",
            where=root,
            why="merging it would lose what is in them",
            remedy="compact the table with the program that added them",
        )


def _fingerprint(files: Sequence[Any]) -> tuple[int, int]:
    """How many rows some files have, and the sum of their hashes: the same for the same rows, whatever their order."""
    rows = total = 0
    for file in files:
        for batch in file.iter_batches(batch_size=4096, columns=[*IDENTITY, "status", "key", "map_digest"]):
            for row in zip(*batch.to_pydict().values(), strict=True):
                total += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest(), "little")
            rows += batch.num_rows
    return rows, total


def _row_groups(tables: Iterator[Any]) -> Iterator[Any]:
    """Small tables joined until they take `ROW_GROUP_BYTES` in memory."""
    pending: list[Any] = []
    for table in tables:
        pending.append(table)
        if sum(found.nbytes for found in pending) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _gather(files: Sequence[Any], order: Any) -> Iterator[Any]:
    """The rows of some files in a given order, a few at a time.

    A row group is read when its first row is asked for, and let go when its last one was: of sorted files, no more than
    one group each is held.
    """
    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    sizes = np.array([file.metadata.row_group(group).num_rows for file, group in groups], np.int64)
    weights = [file.metadata.row_group(group).total_byte_size for file, group in groups]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    group_of = np.searchsorted(starts, order, side="right") - 1
    per_row = np.array(weights, np.float64)[group_of] / sizes[group_of]
    chunk_of = (np.cumsum(per_row) // _CHUNK_BYTES).astype(np.int64)
    left = Counter(dict(enumerate(sizes.tolist())))
    held: dict[int, Any] = {}
    for rows in np.split(np.arange(len(order)), np.flatnonzero(np.diff(chunk_of)) + 1) if len(order) else ():
        wanted = group_of[rows]
        tables, positions = [], []
        for index in np.unique(wanted).tolist():
            if index not in held:
                file, group = groups[index]
                held[index] = file.read_row_group(group)
            mine = rows[wanted == index]
            tables.append(held[index].take(order[mine] - starts[index]))
            positions.append(mine)
            left[index] -= len(mine)
            if not left[index]:
                del held[index]
        # `tables` hold the rows by group; this puts them where they belong.
        back = np.argsort(np.concatenate(positions), kind="stable")
        yield pa.concat_tables(tables).cast(SCHEMA).take(back)


def _commit(root: str, name: str, receipts: Sequence[Receipt], removed: Sequence[Logged]) -> int:
    """Replaces files in one transaction; returns the version it made."""
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        # No data change: who follows the table as a stream is not told of these rows again.
        AddAction(r.path, r.size_bytes, {}, modification_time=now, data_change=False, stats=r.stats)
        for r in receipts
    ]
    actions += [RemoveAction(file.path, False, now, size=file.size_bytes, partition_values={}) for file in removed]
    about = {"compaction": name, "added": len(receipts), "removed": len(removed)}
    # Left to retry by itself, deltalake commits a removal of what another writer has removed, and rows are there twice.
    properties = CommitProperties(custom_metadata={"densecast": about}, max_commit_retries=0)
    failure: DensecastError
    for _ in range(_ATTEMPTS):
        table = current_table(root)
        active = active_parts(table)
        if {receipt.path for receipt in receipts} & active:  # others may have replaced some of them since
            return table.version()  # the answer to the last attempt was lost
        gone = {file.path for file in removed} - active
        if gone:
            raise ConflictError(
                f"{len(gone)} of the parts that were being merged have been replaced",
                where=root,
                why="a run, or another compaction, has published meanwhile; the table is as that left it",
                remedy="the table has changed meanwhile, run again",
            )
        try:
            table.create_write_transaction(actions, "append", Schema.from_arrow(SCHEMA), commit_properties=properties)
        except OSError as error:
            failure = TableRoot(root).store.explain(error, root, "the compaction cannot be committed")
            if store_of(root) is None:
                raise failure from error
        except DeltaError as error:
            # Another writer came first; if it touched none of our parts, we come next.
            failure = TableError(
                f"the compaction cannot be committed: {error}",
                where=root,
                why=f"it was tried {_ATTEMPTS} times; the table is without it",
                remedy="check that the table can be written, and run again when fewer runs are at work",
            )
        else:
            return table.version()
    raise failure
