"""Checks a table: reads all of its current version, and compares it with the log, the runs and itself."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from pipeline.maintenance.check_decoding import OutdatedMaps
from pipeline.maintenance.check_images import Fault, RowIdentity, RowLedger, hash_of, image_faults
from pipeline.maintenance.check_parts import Logged, Recorded, check_part, logged_files, narrow_batches
from pipeline.maintenance.check_rows import IDENTITY_COLUMNS, identities
from pipeline.maintenance.current_table import current_table
from pipeline.maintenance.findings import LISTED, Damage, Finding, Findings
from pipeline.maintenance.untracked_files import Kind, Leftover, leftovers, list_table
from pipeline.settings import Rounding
from pipeline.storage.errors import INACCESSIBLE, MissingFileError, StorageError
from pipeline.table.log import FOLDER, restored_version
from pipeline.table.paths import TableRoot
from pipeline.table.schema import Status, strings

_DAMAGE = {Fault.DUPLICATE: Damage.DUPLICATE, Fault.INCOMPLETE: Damage.INCOMPLETE, Fault.MIXED: Damage.MIXED}


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check.

    Attributes:
        table: The table.
        version: The version that was checked.
        files: The number of its files.
        size_bytes: Their size, as the log says.
        rows: The number of rows that were read, by status.
        images: The number of images with rows.
        damage: The number of findings, by kind.
        findings: The first findings of each kind.
        outdated: The number of maps that were made under older decoding rules, by file type.
        rounding: The number of maps by `pipeline.settings.Rounding`: those that another run on machines of the same
            kind makes bit by bit, and those that it makes within `pipeline.table.rounding.TOLERANCE`.
        notes: Facts that are not damage.
        seconds: The duration of the check.
    """

    table: str
    version: int
    files: int
    size_bytes: int
    rows: Mapping[str, int]
    images: int
    damage: Mapping[str, int]
    findings: tuple[Finding, ...]
    outdated: Mapping[str, int]
    rounding: Mapping[str, int]
    notes: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Returns whether there is no damage."""
        return not self.damage

    def as_json(self) -> dict[str, Any]:
        """Returns the report for programs."""
        findings = [finding._asdict() for finding in self.findings]
        return {**asdict(self), "findings": findings, "clean": self.clean}


def check(root: str, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Reads all of the current version of a table, and returns what is damaged.

    It holds a few rows at a time in memory, and 28 bytes for each row of the table; 90 bytes while these are sorted.

    Args:
        root: The table, a local path or `scheme://`.
        on_progress: Is called after each file with the bytes that are done and the bytes in all.

    Raises:
        TableError: There is no table, or its log cannot be read.
        StorageError: The folder cannot be listed.
    """
    started = time.monotonic()
    table = current_table(root)
    logged = logged_files(table)
    entries = list_table(root)
    checker = _Checker(root, logged)
    checker.read_records()
    sizes = {entry.path: entry.size_bytes for entry in entries}
    done, in_all = 0, sum(file.size_bytes for file in logged)
    for file in logged:
        checker.read_part(file, sizes)
        done += file.size_bytes
        if on_progress is not None:
            on_progress(done, in_all)
    images = checker.compare_images()
    checker.compare_counts(table)
    checker.compare_models()
    checker.note_changes_of_others(table)
    checker.note_leftovers(leftovers(entries, table))
    return Report(
        table=str(root),
        version=table.version(),
        files=len(logged),
        size_bytes=in_all,
        rows=dict(checker.statuses),
        images=images,
        damage=checker.findings.counts(),
        findings=checker.findings.listed(),
        outdated=dict(checker.outdated.counts),
        rounding=checker.rounding(),
        notes=(*checker.notes, *checker.outdated.notes()),
        seconds=round(time.monotonic() - started, 3),
    )


class _Checker:
    """The state of one check."""

    def __init__(self, root: str, logged: list[Logged]) -> None:
        self.root, self.logged = TableRoot(root), logged
        self.findings = Findings()
        self.notes: list[str] = []
        self.statuses: Counter[str] = Counter({status.value: 0 for status in Status})
        self.outdated = OutdatedMaps()
        self._ledger = RowLedger(sum(file.rows or 0 for file in logged))
        self._models: set[str] = set()
        self._model_records: dict[str, tuple[dict[str, Any] | None, str]] = {}
        self._by_run: Counter[tuple[str, str]] = Counter()
        self._runs: dict[str, Mapping[str, Any]] = {}
        self._recorded: dict[str, Recorded] = {}

    def read_records(self) -> None:
        """Reads what runs and compactions have recorded about the files that they wrote."""
        wanted = {file.path for file in self.logged}
        for folder in ("runs", "compactions"):
            for path in self.root.store.list_files(self.root.path(FOLDER, folder), ".json"):
                record, fault = _read_record(self.root, path)
                if record is None:
                    self.findings.add([Finding(Damage.RECORD, f"{folder}/{_name(path)}", fault)])
                    continue
                if folder == "runs":
                    self._runs[_name(path).removesuffix(".json")] = record
                    self._add_recipe(record)
                for part in record.get("parts") or ():
                    if part["path"] in wanted:
                        self._recorded[part["path"]] = Recorded(part["sha256"], part["rows"])

    def _add_recipe(self, summary: Mapping[str, Any]) -> None:
        model, _ = self._read_model(str(summary.get("model_digest")))
        self.outdated.add_run(summary, model or {})

    def _read_model(self, digest: str) -> tuple[dict[str, Any] | None, str]:
        """Returns what `_read_record` does for a model. It is read once: most runs of a table have the same model."""
        if digest not in self._model_records:
            path = self.root.path(FOLDER, "models", f"{digest}.json")
            self._model_records[digest] = _read_record(self.root, path)
        return self._model_records[digest]

    def read_part(self, file: Logged, sizes: Mapping[str, int]) -> None:
        """Reads and checks a part, and gathers facts about its rows."""
        size = sizes.get(file.path)
        if size is None and "/" in file.path:
            facts = self.root.store.facts(self.root.path(*file.path.split("/")))
            size = facts.size_bytes if facts else None
        recorded = self._recorded.get(file.path)
        self.findings.add(check_part(self.root, file, size=size, recorded=recorded, on_batch=self._add_batch))

    def _add_batch(self, batch: pa.RecordBatch) -> None:
        columns = (batch.column(name).to_pylist() for name in ("run_id", "status", "tile_index"))
        self._by_run.update((run, status) for run, status, tile in zip(*columns, strict=True) if tile == 0)
        self.statuses.update(strings(batch.column("status")))
        self._models.update(strings(batch.column("model_digest").unique()))
        self._ledger.add(identities(batch))
        self.outdated.add_rows(batch)

    def compare_images(self) -> int:
        """Checks that each image has the rows that it should have, over all files; returns the number of images."""
        suspects = self._ledger.suspects()
        unread = self._has_unread_rows()
        if len(suspects):
            # Only the first few images are described in full.
            named = {int(image) for image in suspects[: 10 * LISTED]}
            rows: defaultdict[str, list[RowIdentity]] = defaultdict(list)
            for file in self.logged:
                for batch in narrow_batches(self.root, file.path, list(IDENTITY_COLUMNS)):
                    for row in identities(batch):
                        if hash_of(row.uri) in named:
                            rows[row.uri].append(row)
            for uri in sorted(rows):
                faults = image_faults(rows[uri])
                self.findings.add(
                    Finding(_DAMAGE[fault], uri, what)
                    for fault, what in faults
                    if not (unread and fault is Fault.INCOMPLETE)
                )
            if len(suspects) > len(named):
                self.notes.append(f"{len(suspects) - len(named):,} more images have wrong rows and are not described")
        if unread:
            self.notes.append("some rows could not be read, so missing rows were not checked")
        return self._ledger.images()

    def compare_counts(self, table: DeltaTable) -> None:
        """Compares the rows of runs with their summaries; only the newest run still has all of its rows."""
        summaries = {run: summary for run, summary in self._runs.items() if 0 <= _version(summary) <= table.version()}
        runs = {run for run, _ in self._by_run}
        if without_summary := sorted(runs - summaries.keys()):
            self.notes.append(
                f"{len(without_summary)} runs have no summary, since they died after they published:"
                f" {without_summary[0]}"
            )
        if self._has_unread_rows():
            return
        newest = max(summaries, key=lambda run: _version(summaries[run]), default=None)
        if newest is not None and (without_summary or _rows_were_changed(table, _version(summaries[newest]))):
            newest = None
        for run, summary in sorted(summaries.items()):
            for status in (Status.SCORED.value, Status.REJECTED.value):
                claimed, counted = summary.get(status), self._by_run[run, status]
                if not isinstance(claimed, int):
                    continue
                if counted > claimed or (run == newest and counted != claimed):
                    what = f"the table has {counted:,} {status} images of it, where its summary says {claimed:,}"
                    self.findings.add([Finding(Damage.COUNTS, f"run {run}", what)])

    def compare_models(self) -> None:
        """Checks that the metadata of every model exists."""
        for digest in sorted(self._models):
            where = f"models/{digest}.json"
            record, fault = self._read_model(digest)
            if record is not None and record.get("digest") != digest:
                fault = f"describes the model {record.get('digest')}"
            if fault:
                self.findings.add([Finding(Damage.RECORD, where, fault)])

    def rounding(self) -> dict[str, int]:
        """Returns the number of maps by the rounding of their runs; older runs do not name theirs: it is `BOUNDED`."""
        maps = dict.fromkeys(map(str, Rounding), 0)
        for (run, status), count in self._by_run.items():
            if status == Status.SCORED:
                is_exact = self._runs.get(run, {}).get("rounding") == Rounding.EXACT
                maps[Rounding.EXACT if is_exact else Rounding.BOUNDED] += count
        return maps

    def note_changes_of_others(self, table: DeltaTable) -> None:
        """Notes the versions that other programs have made: what they changed on purpose is not damage."""
        commits = _commits_of_others(table)
        if commits:
            newest = commits[0]
            program = newest.get("engineInfo") or newest.get("clientVersion") or "an unknown program"
            what = f"version {newest.get('version')} by {program} ({newest.get('operation', 'unknown operation')})"
            self.notes.append(
                f"{len(commits):,} versions were made by other programs, the last of them {what}: what they changed on"
                " purpose is not damage, and images whose rows they deleted are scored again"
            )

    def note_leftovers(self, files: list[Leftover]) -> None:
        """Notes the files in the folder that do not belong to the version that was checked."""
        meaning = {
            Kind.ORPHAN: "were never published: they are from runs that are at work, that died, or that repeated an"
            " attempt; a later run adopts what it can use, and `densecast vacuum` deletes the others",
            Kind.SUPERSEDED: "belong to earlier versions: `densecast vacuum` deletes them",
            Kind.PARTIAL: "are unfinished: they are being written, or were left by a dead run",
            Kind.FOREIGN: "are not densecast's: densecast never changes them",
        }
        for kind, text in meaning.items():
            sizes = [file.size_bytes for file in files if file.kind is kind]
            if sizes:
                self.notes.append(f"{len(sizes):,} files ({sum(sizes):,} bytes) {text}")

    def _has_unread_rows(self) -> bool:
        kinds = (Damage.MISSING_FILE, Damage.UNREADABLE, Damage.COLUMNS)
        return any(self.findings.count(kind) for kind in kinds)


def _commits_of_others(table: DeltaTable, version: int = -1) -> list[dict[str, Any]]:
    """Returns the commits after a version, as far as the log knows them, that other programs have made."""
    commits = table.history(table.version() - version) if table.version() > version else []
    return [commit for commit in commits if "densecast" not in commit]


def _rows_were_changed(table: DeltaTable, version: int) -> bool:
    """Returns whether a commit after a version need not have kept the rows: one of another program, or a restore."""
    commits = table.history(table.version() - version) if table.version() > version else []
    return any("densecast" not in commit or restored_version(commit) is not None for commit in commits)


def _read_record(root: TableRoot, path: str) -> tuple[dict[str, Any] | None, str]:
    """Returns the JSON object in a file, or None and what is wrong with it."""
    try:
        content = json.loads(root.store.read_bytes(path))
    except MissingFileError:
        return None, "is missing"
    except INACCESSIBLE:
        raise
    except (ValueError, StorageError) as error:
        return None, f"cannot be read: {error}"
    if not isinstance(content, dict) or not _is_well_formed(content.get("parts")):
        return None, "is not what densecast writes there"
    return content, ""


def _is_well_formed(parts: object) -> bool:
    if parts is None:
        return True
    return isinstance(parts, list) and all(
        isinstance(part, dict)
        and isinstance(part.get("path"), str)
        and isinstance(part.get("sha256"), str)
        and isinstance(part.get("rows"), int)
        for part in parts
    )


def _version(summary: Mapping[str, Any]) -> int:
    version = summary.get("version")
    return version if isinstance(version, int) else -1


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
