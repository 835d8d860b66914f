"""The folder that the addresses of a table are relative to: every run records it in its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deltalake import DeltaTable

from pipeline.errors import TableError
from pipeline.table.log import FOLDER, active_parts
from pipeline.table.paths import TableRoot
from pipeline.table.summaries import read_json, run_path

ROOT = "root"
"""The entry of a run's summary that names the folder; it is left out where addresses are absolute."""

_RECENT = 20  # commits among which there is mostly one of a run


def recorded_root(table_root: str, table: DeltaTable) -> str | None:
    """Returns the folder that the newest run of a table has recorded; empty for absolute addresses, None without a run.

    Raises:
        TableError: A summary is damaged.
    """
    summary = next(newest_summaries(table_root, table), None)
    return None if summary is None else str(summary.get(ROOT) or "")


def check_image_root(table_root: str, table: DeltaTable | None, root: str, *, rescore: bool) -> None:
    """Checks that the addresses of a run have the form of those that the table has.

    Args:
        table_root: The table.
        table: Its newest version; None if there is no table.
        root: The folder that the run's addresses are relative to; empty for absolute ones.
        rescore: Whether the run scores all images again anyway.

    Raises:
        TableError: The table has absolute addresses and the run relative ones, or the other way round.
    """
    if table is None or rescore or not active_parts(table):
        return
    known = recorded_root(table_root, table)
    if known is None or bool(known) == bool(root):
        return
    again = "to score all images again under other addresses, give --rescore --prune --max-pruned 100%"
    raise TableError(
        f"its addresses are absolute, and those of this run are relative to {root}"
        if root
        else f"its addresses are relative to a root, which was {known}, and those of this run are absolute",
        where=table_root,
        why="every image would be scored again, and the rows under the old addresses would stay",
        remedy=f"{'leave --root out' if root else 'give --root'}, or score into a new table; {again}",
    )


def newest_summaries(table_root: str, table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Yields the summaries of a table's runs, the newest first; reads no more of them than are asked for, as a rule.

    Raises:
        TableError: A summary is damaged.
    """
    store = TableRoot(table_root).store
    for commit in table.history(_RECENT):
        run_id = (commit.get("densecast") or {}).get("run_id")
        if run_id and store.facts(path := run_path(table_root, run_id)) is not None:
            yield read_json(table_root, path)
    paths = store.list_files(TableRoot(table_root).path(FOLDER, "runs"), ".json")
    summaries = (read_json(table_root, path) for path in paths)
    known = [summary for summary in summaries if summary.get("version", 0) <= table.version()]
    yield from sorted(known, key=lambda summary: int(summary.get("version", 0)), reverse=True)
