"""The summaries of runs and the metadata of models: JSON files beside the Delta log."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.errors import TableError
from pipeline.storage.address import join
from pipeline.table.log import FOLDER
from pipeline.table.paths import TableRoot

ADOPTED = "adopted"
"""The entry of a run's summary that names the parts of dead runs from which it adopted rows."""

RESTORED = "restored"
"""The entry, of the summary and in the log, that names the version which a restore has brought back."""


class RunSummary(NamedTuple):
    """What a run has published.

    Attributes:
        run_id: The run.
        version: The version of the table that it made.
        scored: The number of maps that it added.
        rejected: The number of rejections that it added.
        images: Counts of images: `listed`; by `pipeline.transforms.reconcile.Outcome`; `read`, whose files were opened;
            `still_rejected`, which were rejected before and are not tried again; `only_first_frame`, whose files have
            further frames, which were not listed.
        reasons: The rejections that it added, by reason.
        seconds: The duration of the stages, by stage, summed over all workers.
        devices: The number of images that were run, padding included, by device, over all workers.
    """

    run_id: str
    version: int
    scored: int
    rejected: int
    images: Mapping[str, int]
    reasons: Mapping[str, int]
    seconds: Mapping[str, float]
    devices: Mapping[str, int]


def run_path(root: str, run_id: str) -> str:
    """Returns the path of a run's summary."""
    return join(root, FOLDER, "runs", f"{run_id}.json")


def read_model(root: str, digest: str) -> dict[str, Any]:
    """Returns the metadata of a model that has written to the table, as JSON; empty if the table has none.

    Raises:
        TableError: It is damaged.
    """
    path = join(root, FOLDER, "models", f"{digest}.json")
    return read_json(root, path) if TableRoot(root).store.facts(path) is not None else {}


def read_summary(root: str, run_id: str) -> RunSummary:
    """Returns what a run has published, from its summary.

    Raises:
        StorageError: The summary is missing.
        TableError: The summary is damaged.
    """
    summary = read_json(root, run_path(root, run_id))
    return RunSummary(*(summary.get(name, {}) for name in RunSummary._fields))


def read_json(root: str, path: str) -> dict[str, Any]:
    """Returns the JSON object in a file of a table.

    Raises:
        StorageError: The file is missing.
        TableError: The file is not a JSON object.
    """
    try:
        content = json.loads(TableRoot(root).store.read_bytes(path))
    except ValueError as error:
        raise TableError(
            f"is not valid JSON: {error}", where=path, remedy="restore the file, or delete it and publish again"
        ) from error
    if not isinstance(content, dict):
        raise TableError("is not a JSON object", where=path, remedy="restore the file, or delete it and publish again")
    return content


def write_json(root: str, folder: str, name: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file into a folder below `FOLDER`."""
    path = join(root, FOLDER, folder, f"{name}.json")
    TableRoot(root).store.write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
