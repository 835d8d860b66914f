"""Which tables densecast reads and writes: features of Delta, and the version of densecast's own format.

`pipeline.table.log.open_delta` asks this of every table that it opens, so all commands and `MapTable` refuse alike.

The version of the format is in the metadata of the Delta table, which other programs keep, whatever they do with rows
and columns. A new table has it in its name, since deltalake (1.6) gives no new table a property that it does not know.
A table of an earlier version gets a property, since its name may be its user's. A table without either is of version 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from deltalake import CommitProperties, DeltaTable, Field, Schema

from pipeline.errors import TableError
from pipeline.table.schema import COMMENTS, SCHEMA

FORMAT = 2
"""The version of the format that this version of densecast writes. It reads this one and all before it."""

PROPERTY = "densecast.format"
"""The property of a table that says its format."""

NAME = f"densecast format {FORMAT}"
"""The name of a new table."""

_NAME = re.compile(r"densecast format ([0-9]{1,9})")

_READER_VERSION = 1  # of Delta's protocol
# A table may name these features without using them: `_unmet` looks whether it does.
_WRITER_FEATURES = frozenset(
    {"appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns", "identityColumns"}
)
# Keys in the metadata of a column: its values have to meet a condition, or are computed by the writer.
_COLUMN_RULES = {
    "delta.invariants": "an invariant",
    "delta.generationExpression": "a generated value",
    "delta.identity.start": "an identity",
}


def check_format(root: str, table: DeltaTable) -> None:
    """Checks that this version of densecast knows the format of a table.

    Raises:
        TableError: A newer version has written the table, or the property is not a version.
    """
    written = format_of(root, table)
    if written > FORMAT:
        raise TableError(
            f"the table has format {written}, and this version of densecast knows the formats 1 to {FORMAT}",
            where=root,
            why="a newer version of densecast has written it",
            remedy="use that version or a newer one",
        )


def format_of(root: str, table: DeltaTable) -> int:
    """Returns the version of a table's format, 1 or more.

    Raises:
        TableError: The property is not a version.
    """
    name = _NAME.fullmatch(table.metadata().name or "")
    text = table.metadata().configuration.get(PROPERTY, "1") or ""
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise TableError(
            f"the property {PROPERTY} of the table is {text[:40]!r}, which is not the version of a format",
            where=root,
            remedy=f"set it to {FORMAT} if this version of densecast was the last to write the table",
        )
    return max(int(text), int(name[1]) if name else 1)


def check_features(root: str, table: DeltaTable, *, writes: bool) -> None:
    """Checks that the rows of the files are the rows of the table, and that densecast may change the table.

    Raises:
        TableError: Another program has given the table features that densecast does not have.
    """
    protocol = table.protocol()
    if protocol.min_reader_version > _READER_VERSION:
        features = ", ".join(protocol.reader_features or ()) or f"reader version {protocol.min_reader_version}"
        raise TableError(
            f"the table has Delta features that densecast does not read: {features}",
            where=root,
            why="with these features the rows of a file need not be rows of the table",
            remedy="use the program that added them, or copy the table without them",
        )
    if partitions := table.metadata().partition_columns:
        raise TableError(
            f"the table is partitioned by {', '.join(partitions)}",
            where=root,
            why="the files of a partitioned table lack these columns, and densecast reads tables file by file",
            remedy="write the table again without partitions, with the program that partitioned it",
        )
    if writes and (unmet := list(_unmet(table))):
        raise TableError(
            f"the table has Delta features that densecast does not write: {', '.join(unmet)}",
            where=root,
            why="they demand more of what is written than densecast does",
            remedy="drop them with the program that added them, or score into a new table; reading is possible",
        )


def upgrade(root: str, table: DeltaTable) -> None:
    """Gives a table of an earlier version the columns, comments and version of today's format, if it lacks them.

    Columns that an earlier version lacks are nullable. A change of the columns is a commit of its own in Delta, and so
    is one of the properties; a killed upgrade is finished by the next one.
    """
    present = {field.name: field for field in table.schema().fields}
    later = [name for name in SCHEMA.names if name not in present]
    if later:
        # deltalake joins the metadata of a column that is present.
        fields = [
            Field(field.name, field.type, nullable=field.nullable, metadata={"comment": COMMENTS[field.name]})
            for field in (present.get(each.name, each) for each in delta_schema().fields)
        ]
        table.alter.add_columns(fields, commit_properties=_properties({"added_columns": later}))
    if format_of(root, table) < FORMAT:
        table.alter.set_table_properties(
            {PROPERTY: str(FORMAT)}, raise_if_not_exists=False, commit_properties=_properties({"format": FORMAT})
        )


def delta_schema() -> Schema:
    """Returns the columns of a new table, with their comments."""
    fields = Schema.from_arrow(SCHEMA).fields
    return Schema([Field(f.name, f.type, nullable=f.nullable, metadata={"comment": COMMENTS[f.name]}) for f in fields])


def _properties(facts: dict[str, object]) -> CommitProperties:
    return CommitProperties(custom_metadata={"densecast": facts}, max_commit_retries=0)


def _unmet(table: DeltaTable) -> Iterator[str]:
    """Yields what a table demands of writers that densecast does not do."""
    properties = table.metadata().configuration
    if (properties.get("delta.appendOnly") or "").lower() == "true":
        yield "appendOnly"
    for name in sorted(properties):
        if name.startswith("delta.constraints."):
            yield f"the constraint {name.removeprefix('delta.constraints.')}"
    for field in table.schema().fields:
        for key, rule in _COLUMN_RULES.items():
            if key in field.metadata:
                yield f"{rule} of the column {field.name}"
    yield from sorted(set(table.protocol().writer_features or ()) - _WRITER_FEATURES)
