"""What runs say about themselves: JSON files beside the Delta log."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.errors import TableError
from pipeline.storage.address import join
from pipeline.table.log import FOLDER
from pipeline.table.paths import TableRoot

ADOPTED = "adopted"
"""Where a run's summary names the parts of dead runs that it took rows from."""


class RunSummary(NamedTuple):
    """What a run has published.

    Attributes:
        run_id: The run.
        version: The version of the table that it made.
        scored: How many maps it added.
        rejected: How many rejections it added.
        images: How many images were listed, and what became of them, by `pipeline.transforms.reconcile.Outcome`;
            `read`: how many files were opened; `still_rejected`: how many had no map before and have none now.
        reasons: The rejections it added, by reason.
        seconds: By stage, summed over all workers.
        devices: Images that were run, padding included, by device, over all workers.
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
    """Where the summary of a run is kept."""
    return join(root, FOLDER, "runs", f"{run_id}.json")


def read_summary(root: str, run_id: str) -> RunSummary:
    """What a run has published, from its summary.

    Raises:
        StorageError: There is no such summary.
        TableError: It is damaged.
    """
    about = read_json(root, run_path(root, run_id))
    return RunSummary(*(about.get(name, {}) for name in RunSummary._fields))


def read_json(root: str, path: str) -> dict[str, Any]:
    """Returns the JSON object in a file of a table.

    Raises:
        TableError: The file is damaged.
        StorageError: There is no such file.
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
