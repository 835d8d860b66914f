"""The current version of a table, for check, compact and vacuum."""

from __future__ import annotations

from deltalake import DeltaTable

from pipeline.table.log import open_delta
from pipeline.table.lookup import no_table


def current_table(root: str) -> DeltaTable:
    """Returns the current version of a table.

    Raises:
        TableError: There is no table, or not one that densecast reads.
    """
    table = open_delta(root)
    if table is None:
        raise no_table(root)
    return table
