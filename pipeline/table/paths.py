"""Where a table's files are: its root as deltalake and Arrow take it, and its parts opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.storage import files, object_store
from pipeline.storage.arrow import arrow_store
from pipeline.storage.error_mapping import explain

PART_ERRORS = (OSError, pa.ArrowException, ValueError, files.StorageError)
"""What reading a damaged part raises; ValueError where names in its footer are no UTF-8."""

# deltalake takes a folder for a URL here and there: it writes such a table, and does not find it, or its log, again.
_BAD_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[#?\\\x00-\x1f\x7f]")


def check_root(root: str) -> None:
    """Check that a folder can be the root of a table.

    Raises:
        TableError: Its path, or the one that a link leads to, holds characters that deltalake cannot handle.
    """
    path = root if files.is_remote(root) else str(files.local_path(root).resolve())
    if found := _BAD_ROOT.search(path):
        raise TableError(
            f"a table cannot lie in a folder with {found.group()!r} in its path",
            where=path,
            why="Delta Lake's library reads #, ?, backslashes, percent escapes and control characters in it as a URL",
            remedy="choose another folder",
        )


def delta_location(root: str) -> str:
    """`root` as deltalake takes it: absolute where it is local.

    Raises:
        TableError: The folder cannot hold a table.
    """
    check_root(root)
    return root if files.is_remote(root) else str(files.local_path(root).absolute())


def check_available(root: str, error: Exception) -> None:
    """Check that an error is about a file: one of a store that cannot be used says nothing of what is in it.

    Args:
        root: The table.
        error: What reading one of its files raised.

    Raises:
        UnavailableError: It is not.
    """
    if isinstance(error, files.UnavailableError):
        raise error
    if object_store.is_object(root):
        found = explain(error, root, "cannot be read")
        if isinstance(found, files.UnavailableError):
            raise found from None


def row_groups(file: pq.ParquetFile) -> Iterator[Any]:
    """The row groups of a part as `pyarrow.Table`s of all columns, each looked over as it is read.

    Raises:
        PART_ERRORS: A page differs from its checksum, a column has another length than its group, or a value is none of
            its type.
    """
    for index in range(file.num_row_groups):
        rows = file.read_row_group(index)
        rows.validate(full=True)
        if rows.num_rows != file.metadata.row_group(index).num_rows:
            raise pa.ArrowInvalid(f"row group {index} has {rows.num_rows} rows")
        yield rows


def open_part(root: str, part: str) -> pq.ParquetFile:
    """A part file of a table, opened; its pages' checksums are verified when they are read.

    Raises:
        PART_ERRORS: It cannot be opened.
    """
    filesystem = arrow_filesystem(root)
    if filesystem is None:
        source = pa.BufferReader(files.read_bytes(files.join(root, part)))
        return pq.ParquetFile(source, page_checksum_verification=True)
    return pq.ParquetFile(part, filesystem=filesystem, page_checksum_verification=True)


def arrow_filesystem(root: str) -> Any:
    """Arrow's own file system for a table; None where it has none, and deltalake's or Beam's serves.

    Why not those, see `pipeline.storage.arrow`.

    Raises:
        CredentialsError: The options for its object store are contradictory, or name a variable that is not set.
    """
    if not files.is_remote(root):
        return pafs.SubTreeFileSystem(delta_location(root), pafs.LocalFileSystem())
    if object_store.is_object(root):
        return arrow_store(root)
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError):
        return None
    return pafs.SubTreeFileSystem(path, filesystem)
