"""The current version of a table, for check, compact and vacuum."""

from __future__ import annotations

from deltalake import DeltaTable

from pipeline.table.log import open_delta
from pipeline.table.lookup import no_table


def current_table(root: str, *, writes: bool = False) -> DeltaTable:
    """Returns the current version of a table.

    Args:
        root: The table.
        writes: Whether the caller changes the table.

    Raises:
        TableError: There is no table, or not one that densecast reads, or writes if `writes`.
    """
    table = open_delta(root, writes=writes)
    if table is None:
        raise no_table(root)
    return table
