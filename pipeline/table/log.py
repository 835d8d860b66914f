"""The Delta log of a table: opens it, checks its columns, lists the parts of a version."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline.errors import TableError
from pipeline.storage.address import is_remote, local_path
from pipeline.storage.client_options import delta_options
from pipeline.storage.errors import INACCESSIBLE
from pipeline.storage.options import store_of
from pipeline.table.paths import TableRoot, delta_location
from pipeline.table.schema import LATER_COLUMNS, SCHEMA, strings
from pipeline.table.table_format import check_features, check_format

# Delta's vacuum and Spark's listing skip names with a leading underscore.
FOLDER = "_densecast"


def active_parts(table: DeltaTable) -> set[str]:
    """Returns the parts of a version, relative to the table's root."""
    return set(strings(pa.table(table.get_add_actions()).column("path")))


def open_delta(root: str, version: int | None = None, *, writes: bool = False) -> DeltaTable | None:
    """Returns the table of densecast's at `root`, or None if there is no Delta table.

    Args:
        root: The table.
        version: The version; by default the newest.
        writes: Whether the caller changes the table, so that it has to do all that the table demands of writers.

    Raises:
        TableError: The Delta table cannot be opened (at that version), is not one of densecast's, has a newer format,
            or is one that another program has given features which change the meaning of its files, such as deletion
            vectors, or which densecast does not write.
        StorageError: The table's object store cannot be used.
    """
    table = _open(root, version)
    if table is not None:
        check_format(root, table)
        _check_columns(root, table)
        check_features(root, table, writes=writes)
    return table


def _open(root: str, version: int | None) -> DeltaTable | None:
    location = delta_location(root)
    if not is_remote(root) and not local_path(root).is_dir():
        return None
    try:
        return DeltaTable(location, version=version, storage_options=delta_options(root, TableRoot(root).options))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError, OverflowError) as error:
        if store_of(root) is not None:
            explained = TableRoot(root).store.explain(error, root, "the table cannot be opened")
            if version is None or isinstance(explained, INACCESSIBLE):
                raise explained from None
        at = "" if version is None else f" at version {version}"
        raise TableError(
            f"the table cannot be opened{at}: {error}",
            where=root,
            remedy="check the credentials and the folder _delta_log"
            if version is None
            else "leave the version out to read the newest, or give one that the table still has",
        ) from error


def restored_version(commit: Mapping[str, Any]) -> int | None:
    """Returns the version that a commit of the log has brought back; None if it is not a restore of densecast's."""
    facts = commit.get("densecast")
    version = facts.get("restored") if isinstance(facts, Mapping) else None
    return version if isinstance(version, int) else None


def columns_of(table: DeltaTable) -> pa.Schema:
    """Returns the columns of a version in Arrow's types."""
    return pa.schema(table.schema().to_arrow())  # type: ignore[arg-type] # any Arrow schema


def _check_columns(root: str, table: DeltaTable) -> None:
    """Checks that a Delta table has our columns; it may have more, and may lack `LATER_COLUMNS`."""
    types = {field.name: field.type for field in columns_of(table)}
    expected = [field for field in SCHEMA if field.name in types or field.name not in LATER_COLUMNS]
    wrong = [f"{f.name} ({types.get(f.name, 'missing')})" for f in expected if types.get(f.name) != f.type]
    if wrong:
        raise TableError(
            f"is a Delta table, but not one of densecast's: it has no {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=root,
            why="the columns of a table of maps have fixed names and types",
            remedy="give the path of a table that densecast has written, or of a new folder to write one to",
        )
