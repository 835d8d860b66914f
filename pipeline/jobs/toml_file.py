"""Job files: a scoring job for every night, in TOML."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.drift.statistics import Thresholds
from pipeline.errors import JobError
from pipeline.jobs.spec import ScoringJob, describe_job, problems
from pipeline.sources.file_types import is_web
from pipeline.storage import files
from pipeline.storage.options import CredentialsError, StorageOptions
from pipeline.table.lease import DEFAULT_MINUTES
from pipeline.units import parse_share

_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
_PLACE = re.compile(r"\{([^{}]*)\}")

# What changes how a run works and not what it makes: a date that is done stays done when they are changed.
_OPERATIONAL = {"run_id", "runner", "flink_master", "beam_options", "max_rejected", "max_pruned", "decode_timeout"}
_OPERATIONAL |= {"device", "max_parity_error", "max_parity_flips", "xla", "xla_shapes"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftSettings(Thresholds):
    """`[nightly.drift]`: thresholds as numbers or as `5%`.

    Attributes:
        enabled: Whether drift is measured after a night.
    """

    enabled: bool = True

    @field_validator("max_area", "max_distance", "max_confidence", "max_rejections", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        return parse_share(value) if isinstance(value, str) else value


class NightlySettings(_Frozen):
    """`[nightly]`: what is there besides the job.

    Attributes:
        name: What messages and metrics call the job; by default the file's name.
        webhook: An address that the result is posted to; `env:NAME` takes it from the environment, for it is a secret.
        metrics: A file of Prometheus metrics, `*.prom`, for node_exporter's textfile collector.
        lease_minutes: How long a run's lease on the table holds unless it is renewed; 0: no lease is taken.
        drift: What is told and judged of drift.
    """

    name: str = ""
    webhook: str = ""
    metrics: str = ""
    lease_minutes: float = Field(default=DEFAULT_MINUTES, ge=0, allow_inf_nan=False)
    drift: DriftSettings = DriftSettings()

    @field_validator("webhook")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://", "env:")):
            raise ValueError("write https://..., or env:NAME")
        return value

    @field_validator("metrics")
    @classmethod
    def _prom(cls, value: str) -> str:
        if value and not value.endswith(".prom"):
            raise ValueError("node_exporter reads files that end in .prom only")
        return value


@dataclasses.dataclass(frozen=True)
class JobFile:
    """A job file that was read.

    Attributes:
        path: The file.
        values: The fields of ScoringJob that it gives, with absolute paths, `{date}` as it stands.
        nightly: What is there besides the job.
        storage: `[storage]`: how object stores are opened.
    """

    path: Path
    values: Mapping[str, Any]
    nightly: NightlySettings
    storage: StorageOptions = dataclasses.field(default_factory=StorageOptions)

    @property
    def name(self) -> str:
        """What messages and metrics call the job."""
        return self.nightly.name or self.path.stem

    @property
    def identity(self) -> str:
        """8 hex digits of what the job makes, whatever the date, the runner and what it puts up with."""
        job = describe_job(**self.values).model_dump(mode="json", exclude=_OPERATIONAL, exclude_defaults=True)
        return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]

    def job(self, day: date, **changes: Any) -> ScoringJob:
        """The job of a date.

        Args:
            day: What `{date}` stands for.
            changes: Fields to set otherwise.

        Raises:
            JobError: It is not valid.
        """
        values = dict(self.values)
        values["images"] = tuple(dated(pattern, day) for pattern in _several(values.get("images", ())))
        values["output"] = dated(str(values.get("output", "")), day)
        return describe_job(**{**values, **changes})


def load_jobfile(path: str | Path) -> JobFile:
    """Reads a job file.

    Keys are the fields of ScoringJob, with dashes or underscores, and the tables `[nightly]` and `[storage]`. Relative
    paths are relative to the file. In images and output `{date}` stands for the date, `{date:%Y/%m/%d}` for it in that
    form.

    Raises:
        JobError: It cannot be read, is no TOML, has an unknown key, or describes no valid job.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(
            f"the job file cannot be read: {error.strerror}", where=str(path), remedy="check the path"
        ) from error
    except ValueError as error:
        raise JobError(f"the job file is not TOML: {error}", where=str(path), remedy="mend that line") from error
    values = _fields(found, {*ScoringJob.model_fields, "nightly", "storage"} - {"run_id"}, str(path), "")
    nightly = _nightly(values.pop("nightly", {}), path)
    options = _storage(values.pop("storage", {}), path)
    folder = path.absolute().parent
    for name in ("model", "output"):
        if isinstance(values.get(name), str):
            values[name] = _located(values[name], folder)
    if "images" in values:
        values["images"] = tuple(_located(pattern, folder) for pattern in _several(values["images"]))
    file = JobFile(path, values, nightly, options)
    try:
        file.job(date.min)  # what is wrong is said now, not when its date has come
    except JobError as error:
        raise JobError(error.what, where=str(path), remedy=error.remedy) from error
    return file


def dated(text: str, day: date) -> str:
    """`text` with the date in the place of `{date}`.

    Raises:
        JobError: Something else is in braces.

    >>> dated("photos/{date:%Y/%m}/{date}/*.jpg", date(2026, 11, 23))
    'photos/2026/11/2026-11-23/*.jpg'
    """
    for place in _PLACE.finditer(text):
        if not _DATE.fullmatch(place.group()):
            raise JobError(
                f"{place.group()} in {text!r} stands for nothing",
                remedy="write {date}, or {date:%Y-%m-%d} and the like",
            )
    return _DATE.sub(lambda match: format(day, match[1]) if match[1] else day.isoformat(), text)


def _nightly(table: object, path: Path) -> NightlySettings:
    values = _fields(table, set(NightlySettings.model_fields), str(path), "nightly.")
    if "drift" in values:
        values["drift"] = _fields(values["drift"], set(DriftSettings.model_fields), str(path), "nightly.drift.")
    if isinstance(values.get("metrics"), str) and values["metrics"]:
        values["metrics"] = _located(values["metrics"], path.absolute().parent)
    try:
        return NightlySettings(**values)
    except ValidationError as error:
        raise JobError(f"[nightly] is not valid: {problems(error)}", where=str(path)) from error


def _storage(table: object, path: Path) -> StorageOptions:
    if not isinstance(table, dict):
        raise JobError("storage is no table", where=str(path), remedy="write [storage]")
    # TOML has numbers and truths of its own, and keys are written with dashes elsewhere in the file.
    texts = {key.replace("-", "_"): _text(value) for key, value in table.items()}
    try:
        return StorageOptions(texts)
    except CredentialsError as error:
        where = f"{path}, [storage]{f', {error.where}' if error.where else ''}"
        raise CredentialsError(error.what, where=where, why=error.why, remedy=error.remedy) from error


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def _fields(table: object, known: Iterable[str], where: str, prefix: str) -> dict[str, Any]:
    """The keys of a table as names of fields."""
    if not isinstance(table, dict):
        raise JobError(f"{prefix.rstrip('.')} is no table", where=where, remedy=f"write [{prefix.rstrip('.')}]")
    fields: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            remedy = f"did you mean {close[0].replace('_', '-')}?" if close else f"there are {', '.join(sorted(known))}"
            raise JobError(f"there is no key {prefix}{key}", where=where, remedy=remedy)
        if name in fields:
            raise JobError(f"{prefix}{key} is given twice, with dashes and underscores", where=where)
        fields[name] = value
    return fields


def _several(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise JobError("images are no text and no list of texts", remedy='write images = ["photos/"]')


def _located(address: str, folder: Path) -> str:
    """An address as seen from the folder of the job file.

    >>> _located("@list.csv", Path("/jobs")), _located("s3://bucket/a", Path("/jobs")), _located("a/", Path("/jobs"))
    ('@/jobs/list.csv', 's3://bucket/a', '/jobs/a/')
    """
    listing, path = ("@", address[1:]) if address.startswith("@") else ("", address)
    if not path or files.is_remote(path) or is_web(path) or path.startswith("file:") or Path(path).is_absolute():
        return address
    return f"{listing}{folder.as_posix()}/{path.removeprefix('./')}"
