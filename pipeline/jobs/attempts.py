"""Which run a date of a nightly job gets: the one by which the date is done, or another attempt."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

from deltalake import DeltaTable

from pipeline.jobs.calibrate import BEGAN_AT
from pipeline.jobs.toml_file import JobFile
from pipeline.table.commit import Changes, commit
from pipeline.table.log import FOLDER, open_delta
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.schema import strings
from pipeline.table.summaries import read_json, run_path


class JobDate(NamedTuple):
    """A date of a job, with its model.

    Attributes:
        base: How the run ids of the date begin.
        day: The date.
        dated: Whether the images depend on the date.
        model_digest: The digest of the model that scores today.
    """

    base: str
    day: date
    dated: bool
    model_digest: str

    @property
    def pattern(self) -> str:
        """Returns the regular expression of the date's run ids."""
        return rf"{re.escape(self.base)}(?:-r\d+)?"

    def is_done_by(self, summary: Mapping[str, Any]) -> bool:
        """Returns whether a run is the last that the date needs: another would find nothing new.

        So the images must be those of the date, the date must have been over when the run listed them, and there must
        have been some. A date is done for the model that scored it.

        Args:
            summary: The run's.
        """
        images = summary.get("images")
        listed = isinstance(images, Mapping) and bool(images.get("listed"))
        # Earlier versions kept the time of the commit only.
        began = summary.get(BEGAN_AT) or summary.get("published_at")
        return (
            self.dated and listed and summary.get("model_digest") == self.model_digest and _local_date(began) > self.day
        )


class Attempt(NamedTuple):
    """The run of a date.

    Attributes:
        run_id: The run.
        done: Whether the date is done by it.
        unfinished: Runs of the date that have committed their maps and died before they wrote their summaries.
    """

    run_id: str
    done: bool
    unfinished: tuple[str, ...] = ()


class RunsBefore(NamedTuple):
    """The runs before an attempt.

    Attributes:
        attempts: Those of the same date that come right before it, the newest first.
        other: The last run before these that added maps; None where there is none.
    """

    attempts: tuple[str, ...]
    other: str | None


def make_date(file: JobFile, day: date, model_digest: str) -> JobDate:
    """Returns a date of a job.

    Args:
        file: The job.
        day: The date.
        model_digest: The digest of the model that scores today.
    """
    return JobDate(f"nightly-{day.isoformat()}-{file.identity}", day, file.is_dated, model_digest)


def find_attempt(root: str, night: JobDate, *, force: bool = False, avoid: Collection[str] = ()) -> Attempt:
    """Returns the run of a date: the run by which it is done, or the next one to try.

    Each attempt has an id of its own: parts of a run that died are adopted by runs with other ids only, and a commit
    under an id that has committed changes nothing.

    Args:
        root: The table.
        night: The date of the job.
        force: Whether to find another run though the date is done.
        avoid: Ids of runs that may still work.

    Raises:
        TableError: The table cannot be opened, or the summary of a run is damaged.
        StorageError: It cannot be listed.
    """
    table_root = TableRoot(root)
    written = _runs_named(_parts_in(table_root), rf"part-(?P<run>{night.pattern})-[0-9a-f]{{32}}\.parquet")
    summaries = table_root.store.list_files(table_root.path(FOLDER, "runs"), ".json")
    summarized = _runs_named(summaries, rf"(?P<run>{night.pattern})\.json")
    table = open_delta(root, writes=True)
    published = {run for run in written | summarized if _is_published(table, run)}
    finished = sorted(published & summarized, key=lambda run: (len(run), run))
    if finished and not force and night.is_done_by(read_json(root, run_path(root, finished[-1]))):
        return Attempt(finished[-1], done=True)
    spent = {*written, *summarized, *avoid}
    names = itertools.chain([night.base], (f"{night.base}-r{number}" for number in itertools.count(2)))
    free = next(name for name in names if name not in spent and not _is_published(table, name))
    return Attempt(free, done=False, unfinished=tuple(sorted(published - summarized)))


def finish(root: str, run_id: str) -> None:
    """Writes the summary of a run that died between its commit and its summary.

    Its maps are in the table. Without a summary no list of runs has them, and drift is not measured against them.

    Raises:
        TableError: Its parts cannot be read.
        StorageError: The summary cannot be written.
    """
    name = re.compile(rf"part-{re.escape(run_id)}-[0-9a-f]{{32}}\.parquet")
    parts = (path.rsplit("/", 1)[-1] for path in _parts_in(TableRoot(root)))
    part = next(part for part in parts if name.fullmatch(part))
    # The model's metadata was written before the commit.
    commit(root, Changes(-1, ()), run_id=run_id, model_json={"digest": _model_of(root, part)}, summary={})


def runs_before(root: str, run_id: str, night: JobDate) -> RunsBefore:
    """Returns what a date's last attempt is compared with.

    Args:
        root: The table.
        run_id: The attempt.
        night: The date of the job.
    """
    runs = MapTable(root).runs()
    last = next((run for run in runs if run.get("run_id") == run_id), None)
    earlier = [run for run in runs if last is not None and run["version"] < last["version"]]
    own = re.compile(night.pattern)
    attempts = list(itertools.takewhile(lambda run: own.fullmatch(str(run["run_id"])), reversed(earlier)))
    others = itertools.islice(reversed(earlier), len(attempts), None)
    return RunsBefore(
        tuple(str(run["run_id"]) for run in attempts),
        next((str(run["run_id"]) for run in others if run.get("scored")), None),
    )


def _is_published(table: DeltaTable | None, run_id: str) -> bool:
    return table is not None and table.transaction_version(run_id) is not None


def _parts_in(root: TableRoot) -> Iterable[str]:
    return root.store.list_files(root, ".parquet")


def _runs_named(paths: Iterable[str], pattern: str) -> set[str]:
    matches = (re.fullmatch(pattern, path.rsplit("/", 1)[-1]) for path in paths)
    return {match["run"] for match in matches if match}


def _model_of(root: str, part: str) -> str:
    """Returns the digest of the model whose maps a part holds."""

    def digests() -> Iterator[str]:
        with reading_part(root, f"the part {part} cannot be read", remedy="run again"), open_part(root, part) as file:
            for batch in file.batches(["model_digest"]):
                yield from strings(batch.column(0))

    return next(iter(digests()))


def _local_date(moment: object) -> date:
    """Returns the date of an instant by the clock of this machine; the first of all dates for what is not one."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().date()
    except (ValueError, OverflowError):
        return date.min
