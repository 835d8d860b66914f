"""Part files of a table, opened and read, whatever storage they are in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from pipeline.errors import TableError
from pipeline.storage.address import is_remote
from pipeline.storage.arrow import arrow_store
from pipeline.storage.errors import StorageError, UnavailableError
from pipeline.storage.options import store_of
from pipeline.table.paths import TableRoot, delta_location

# ValueError where names in the footer of a part are not UTF-8.
_ERRORS = (OSError, pa.ArrowException, ValueError, StorageError, DeltaError)


@contextmanager
def reading_part(
    root: str, what: str = "a part of the table cannot be read", *, why: str = "", remedy: str = ""
) -> Iterator[None]:
    """Tells damage from an outage: the one place that handles what is raised while parts are read.

    Args:
        root: The table.
        what: What cannot be done.
        why: What that means.
        remedy: The way out.

    Raises:
        TableError: The part is missing or damaged; its cause is what was raised while it was read.
        UnavailableError: The store cannot be used, which says nothing about the part.
    """
    try:
        yield
    except UnavailableError:
        raise
    except _ERRORS as error:
        if store_of(root) is not None and not isinstance(error, StorageError):
            explained = TableRoot(root).store.explain(error, root, "cannot be read")
            if isinstance(explained, UnavailableError):
                raise explained from None
        raise TableError(f"{what}: {error}", where=str(root), why=why, remedy=remedy) from error


def row_groups(file: pq.ParquetFile) -> Iterator[Any]:
    """Yields the row groups of a part as `pyarrow.Table`s of all columns, each validated as it is read.

    Raises:
        ArrowException: A page differs from its checksum, a column has another length than its group, or a value is not
            of its type. Read within `reading_part`.
    """
    for index in range(file.num_row_groups):
        rows = file.read_row_group(index)
        rows.validate(full=True)
        if rows.num_rows != file.metadata.row_group(index).num_rows:
            raise pa.ArrowInvalid(f"row group {index} has {rows.num_rows} rows")
        yield rows


def open_part(root: str, part: str) -> pq.ParquetFile:
    """Opens a part file of a table, within `reading_part`; checksums of pages are verified as they are read."""
    filesystem = arrow_filesystem(root)
    if filesystem is None:
        table = TableRoot(root)
        source = pa.BufferReader(table.store.read_bytes(table.path(part)))
        return pq.ParquetFile(source, page_checksum_verification=True)
    return pq.ParquetFile(part, filesystem=filesystem, page_checksum_verification=True)


def arrow_filesystem(root: str) -> Any:
    """Returns Arrow's own file system for a table; None where it has none, and deltalake's or Beam's serves.

    `pipeline.storage.arrow` says why those are not used.

    Raises:
        CredentialsError: The options for its object store are contradictory, or name a variable that is not set.
    """
    if not is_remote(root):
        return pafs.SubTreeFileSystem(delta_location(root), pafs.LocalFileSystem())
    if store_of(root) is not None:
        return arrow_store(root, TableRoot(root).options)
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError):
        return None
    return pafs.SubTreeFileSystem(path, filesystem)
