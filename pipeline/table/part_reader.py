"""Opens and reads the part files of a table, in any storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Turns errors of reading parts into damage or an outage. No other code catches them.

    Args:
        root: The table.
        what: The operation that failed.
        why: The consequence of the failure.
        remedy: The way out.

    Raises:
        TableError: The part is missing or damaged; the cause is the original error.
        UnavailableError: The store cannot be used, which tells nothing about the part.
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


def row_groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Yields the row groups of a part with all columns, each validated after reading. Call it within `reading_part`.

    Raises:
        ArrowException: A page does not match its checksum, the length of a column differs from that of its group, or
            a value does not have the type of its column.
    """
    for index in range(file.num_row_groups):
        rows = file.read_row_group(index)
        rows.validate(full=True)
        if rows.num_rows != file.metadata.row_group(index).num_rows:
            raise pa.ArrowInvalid(f"row group {index} has {rows.num_rows} rows")
        yield rows


def open_part(root: str, part: str) -> pq.ParquetFile:
    """Opens a part file of a table; reads verify the checksums of pages. Call it within `reading_part`."""
    filesystem = arrow_filesystem(root)
    if filesystem is None:
        table = TableRoot(root)
        source = pa.BufferReader(table.store.read_bytes(table.path(part)))
        return pq.ParquetFile(source, page_checksum_verification=True)
    return pq.ParquetFile(part, filesystem=filesystem, page_checksum_verification=True)


def arrow_filesystem(root: str) -> pafs.FileSystem | None:
    """Returns Arrow's own file system for a table; None where Arrow has none, so that the store reads whole files.

    `pipeline.storage.arrow` explains why deltalake's and obstore's file systems are not used.

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
