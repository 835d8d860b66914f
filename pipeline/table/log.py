"""The Delta log of a table: opens it, checks its columns, lists the parts of a version."""

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline.errors import TableError
from pipeline.storage.address import is_remote, local_path
from pipeline.storage.client_options import delta_options
from pipeline.storage.errors import UnavailableError
from pipeline.storage.options import store_of
from pipeline.table.paths import TableRoot, delta_location
from pipeline.table.schema import SCHEMA, strings

# Delta's vacuum and Spark's listing skip names with a leading underscore.
FOLDER = "_densecast"


def active_parts(table: DeltaTable) -> set[str]:
    """Returns the parts of a version, relative to the table's root."""
    return set(strings(pa.table(table.get_add_actions()).column("path")))


def open_delta(root: str, version: int | None = None) -> DeltaTable | None:
    """Returns the Delta table at `root`, or None if there is none.

    Raises:
        TableError: The table cannot be opened (at that version).
        StorageError: The table's object store cannot be used.
    """
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
            if version is None or isinstance(explained, UnavailableError):
                raise explained from None
        at = "" if version is None else f" at version {version}"
        raise TableError(
            f"the table cannot be opened{at}: {error}",
            where=root,
            remedy="check the credentials and the folder _delta_log"
            if version is None
            else "leave the version out to read the newest, or give one that the table still has",
        ) from error


def check_columns(root: str, table: DeltaTable) -> None:
    """Checks that a Delta table has our columns; it may have more.

    Raises:
        TableError: A column is missing or has another type.
    """
    schema = pa.schema(table.schema().to_arrow())  # type: ignore[arg-type] # any Arrow schema
    types = {field.name: field.type for field in schema}
    wrong = [f"{f.name} ({types.get(f.name, 'missing')})" for f in SCHEMA if types.get(f.name) != f.type]
    if wrong:
        raise TableError(
            f"is a Delta table, but not one of densecast's: it has no {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=root,
            why="the columns of a table of maps have fixed names and types",
            remedy="give the path of a table that densecast has written, or of a new folder to write one to",
        )
