"""Check a table: everything in its current version is read again and held against the log, the runs and itself."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deltalake import DeltaTable

from pipeline.maintenance.check_images import Fault, RowIdentity, RowLedger, hash_of, image_faults
from pipeline.maintenance.check_parts import Logged, Recorded, check_part, logged_files, narrow_batches
from pipeline.maintenance.check_rows import IDENTITY_COLUMNS, identities
from pipeline.maintenance.current_table import current_table
from pipeline.maintenance.findings import LISTED, Damage, Finding, Findings
from pipeline.maintenance.untracked_files import Kind, Leftover, leftovers, list_table
from pipeline.storage.errors import MissingFileError, StorageError, UnavailableError
from pipeline.table.log import FOLDER
from pipeline.table.paths import TableRoot
from pipeline.table.schema import Status

_DAMAGE = {Fault.DUPLICATE: Damage.DUPLICATE, Fault.INCOMPLETE: Damage.INCOMPLETE, Fault.MIXED: Damage.MIXED}


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has found.

    Attributes:
        table: The table.
        version: The version that was checked.
        files: How many files it has.
        size_bytes: Their size, as the log says.
        rows: How many rows were read, by status.
        images: How many images have rows.
        damage: How many findings there are, by kind.
        findings: The first findings of each kind.
        notes: What is no damage, but worth knowing.
        seconds: How long it took.
    """

    table: str
    version: int
    files: int
    size_bytes: int
    rows: Mapping[str, int]
    images: int
    damage: Mapping[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        findings = [finding._asdict() for finding in self.findings]
        return {**asdict(self), "findings": findings, "clean": self.clean}


def check(root: str, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Read everything in the current version of a table and report what is wrong with it.

    Held in memory are a few rows at a time, and 28 bytes for each row of the table; 90 while they are sorted.

    Args:
        root: The table, a local path or `scheme://`.
        on_progress: Gets bytes done and bytes in all, after each file.

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
        notes=tuple(checker.notes),
        seconds=round(time.monotonic() - started, 3),
    )


class _Checker:
    """The state of one check."""

    def __init__(self, root: str, logged: list[Logged]) -> None:
        self.root, self.logged = TableRoot(root), logged
        self.findings = Findings()
        self.notes: list[str] = []
        self.statuses: Counter[str] = Counter({status.value: 0 for status in Status})
        self._ledger = RowLedger(sum(file.rows or 0 for file in logged))
        self._models: set[str] = set()
        self._by_run: Counter[tuple[str, str]] = Counter()
        self._runs: dict[str, Mapping[str, Any]] = {}
        self._recorded: dict[str, Recorded] = {}

    def read_records(self) -> None:
        """What runs and compactions have recorded of the files that they wrote."""
        wanted = {file.path for file in self.logged}
        for folder in ("runs", "compactions"):
            for path in self.root.store.list_files(self.root.path(FOLDER, folder), ".json"):
                record, fault = _read_record(self.root, path)
                if record is None:
                    self.findings.add([Finding(Damage.RECORD, f"{folder}/{_name(path)}", fault)])
                    continue
                if folder == "runs":
                    self._runs[_name(path).removesuffix(".json")] = record
                for part in record.get("parts") or ():
                    if part["path"] in wanted:
                        self._recorded[part["path"]] = Recorded(part["sha256"], part["rows"])

    def read_part(self, file: Logged, sizes: Mapping[str, int]) -> None:
        """Reads a part and takes note of its rows."""
        size = sizes.get(file.path)
        if size is None and "/" in file.path:
            facts = self.root.store.facts(self.root.path(*file.path.split("/")))
            size = facts.size_bytes if facts else None
        self.findings.add(check_part(self.root, file, size, self._recorded.get(file.path), self._take))

    def _take(self, batch: Any) -> None:
        columns = (batch.column(name).to_pylist() for name in ("run_id", "status", "tile_index"))
        self._by_run.update((run, status) for run, status, tile in zip(*columns, strict=True) if tile == 0)
        self.statuses.update(batch.column("status").to_pylist())
        self._models.update(batch.column("model_digest").unique().to_pylist())
        self._ledger.add(identities(batch))

    def compare_images(self) -> int:
        """Whether each image has the rows that it should have, over all files; returns how many images there are."""
        suspects = self._ledger.suspects()
        unread = self._unread()
        if len(suspects):
            # What is wrong with the first few is told in full; reading on for millions would help nobody.
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
                self.notes.append(f"{len(suspects) - len(named):,} more images have wrong rows and were not looked at")
        if unread:
            self.notes.append("some rows could not be read: whether others are missing was not checked")
        return self._ledger.images()

    def compare_counts(self, table: DeltaTable) -> None:
        """Whether the runs have the rows that their summaries say; superseded ones are gone from all but the newest."""
        known = {run: about for run, about in self._runs.items() if 0 <= _version(about) <= table.version()}
        runs = {run for run, _ in self._by_run}
        if strange := sorted(runs - known.keys()):
            self.notes.append(
                f"{len(strange)} runs have no summary, since they died after they published: {strange[0]}"
            )
        if self._unread():
            return
        newest = max(known, key=lambda run: _version(known[run]), default=None)
        if newest is not None and (strange or _changed_by_others(table, _version(known[newest]))):
            newest = None
        for run, about in sorted(known.items()):
            for status in (Status.SCORED.value, Status.REJECTED.value):
                claimed, found = about.get(status), self._by_run[run, status]
                if not isinstance(claimed, int):
                    continue
                if found > claimed or (run == newest and found != claimed):
                    what = f"the table has {found:,} {status} images of it, where its summary says {claimed:,}"
                    self.findings.add([Finding(Damage.COUNTS, f"run {run}", what)])

    def compare_models(self) -> None:
        """Whether the metadata of every model are there."""
        for digest in sorted(self._models):
            where = f"models/{digest}.json"
            record, fault = _read_record(self.root, self.root.path(FOLDER, "models", f"{digest}.json"))
            if record is not None and record.get("digest") != digest:
                fault = f"is about the model {record.get('digest')}"
            if fault:
                self.findings.add([Finding(Damage.RECORD, where, fault)])

    def note_leftovers(self, files: list[Leftover]) -> None:
        """What lies in the folder besides the version that was checked."""
        meaning = {
            Kind.ORPHAN: "never published: of runs at work, or that died, or repeated an attempt; a later run adopts"
            " what it can use, and `densecast vacuum` deletes them in time",
            Kind.SUPERSEDED: "of earlier versions: `densecast vacuum` deletes them in time",
            Kind.PARTIAL: "unfinished: being written, or left by a run that died",
            Kind.FOREIGN: "not densecast's: nothing of densecast's touches them",
        }
        for kind, text in meaning.items():
            sizes = [file.size_bytes for file in files if file.kind is kind]
            if sizes:
                self.notes.append(f"{len(sizes):,} files ({sum(sizes):,} bytes) {text}")

    def _unread(self) -> bool:
        kinds = (Damage.MISSING_FILE, Damage.UNREADABLE, Damage.COLUMNS)
        return any(self.findings.count(kind) for kind in kinds)


def _changed_by_others(table: DeltaTable, version: int) -> bool:
    """Whether another program than ours has changed the table since a version."""
    commits = table.history(table.version() - version) if table.version() > version else []
    return any("densecast" not in commit for commit in commits)


def _read_record(root: TableRoot, path: str) -> tuple[dict[str, Any] | None, str]:
    """The JSON object in a file, or None and what is wrong."""
    try:
        content = json.loads(root.store.read_bytes(path))
    except MissingFileError:
        return None, "is missing"
    except UnavailableError:
        raise
    except (ValueError, StorageError) as error:
        return None, f"cannot be read: {error}"
    if not isinstance(content, dict) or not _well_formed(content.get("parts")):
        return None, "is not what densecast writes there"
    return content, ""


def _well_formed(parts: Any) -> bool:
    if parts is None:
        return True
    return isinstance(parts, list) and all(
        isinstance(part, dict)
        and isinstance(part.get("path"), str)
        and isinstance(part.get("sha256"), str)
        and isinstance(part.get("rows"), int)
        for part in parts
    )


def _version(about: Mapping[str, Any]) -> int:
    version = about.get("version")
    return version if isinstance(version, int) else -1


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
