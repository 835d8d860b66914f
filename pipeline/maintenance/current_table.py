"""The current version of a table, for check, compact and vacuum, which work only on tables that they understand."""

from __future__ import annotations

from deltalake import DeltaTable

from pipeline.errors import TableError
from pipeline.table.log import check_columns, open_delta
from pipeline.table.lookup import no_table

_READER_VERSION = 1


def current_table(root: str) -> DeltaTable:
    """Returns the current version of a table of densecast's.

    Raises:
        TableError: There is no table, or another program has given it features, such as deletion vectors, that change
            the meaning of its files.
    """
    table = open_delta(root)
    if table is None:
        raise no_table(root)
    check_columns(root, table)
    protocol = table.protocol()
    if protocol.min_reader_version > _READER_VERSION:
        features = ", ".join(protocol.reader_features or ()) or f"reader version {protocol.min_reader_version}"
        raise TableError(
            f"the table has Delta features that densecast does not write: {features}",
            where=root,
            why="with these features the rows of a file need not be rows of the table",
            remedy="use the program that added them, or copy the table without them",
        )
    return table
