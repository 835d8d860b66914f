"""Job files: a scoring job for every night, in TOML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conversion import nearest
from pipeline.drift.statistics import Thresholds
from pipeline.errors import JobError, SettingError
from pipeline.jobs.spec import JOB_KEYS, ScoringJob, describe_job, problems, read_share
from pipeline.sources.file_types import is_web
from pipeline.storage.address import is_remote
from pipeline.storage.options import CredentialsError, StorageOptions
from pipeline.table.lease import DEFAULT_MINUTES, LONGEST_MINUTES

_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
_PLACE = re.compile(r"\{([^{}]*)\}")
_DATE_FORMS = "write {date}, or {date:%Y-%m-%d} and the like"
_DIRECTIVE = re.compile(r"%-?(.?)", re.DOTALL)
_OF_DATES = "aAbBdjmyYuwUWGV%"
"""The directives of `strftime` that say something about a date, on every platform."""
_LONGEST_WAIT_MINUTES = 7 * 24 * 60.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftSettings(Thresholds):
    """`[nightly.drift]`: thresholds as numbers or as `5%`.

    Attributes:
        enabled: Whether drift is measured after a night.
    """

    enabled: bool = True

    _read_shares = field_validator("max_area", "max_distance", "max_confidence", "max_rejections", mode="before")(
        read_share
    )


class NightlySettings(_Frozen):
    """`[nightly]`: the settings of a job file that do not describe the job.

    Attributes:
        name: The job's name in messages and metrics; by default the file's name.
        webhook: An address that the result is posted to. It is a secret: `env:NAME` takes it from the environment.
        metrics: A file of Prometheus metrics, `*.prom`, for node_exporter's textfile collector.
        lease_minutes: Minutes that a run's lease on the table lasts unless it is renewed; 0: no lease is taken.
        lease_wait_minutes: Minutes that a run waits for a lease that another run holds. A lease outlives the machine of
            its run by its term, so a run that is to follow a dead one waits longer than that.
        drift: Whether drift is measured, and its thresholds.
    """

    name: str = ""
    webhook: str = ""
    metrics: str = ""
    lease_minutes: float = Field(default=DEFAULT_MINUTES, ge=0, le=LONGEST_MINUTES, allow_inf_nan=False)
    lease_wait_minutes: float = Field(default=0.0, ge=0, le=_LONGEST_WAIT_MINUTES, allow_inf_nan=False)
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
    """The content of a job file.

    Attributes:
        path: The file.
        values: The values of the job by their flat names, with absolute paths; `{date}` is not filled in.
        nightly: `[nightly]`.
        storage: `[storage]`: how object stores are opened.
    """

    path: Path
    values: Mapping[str, object]
    nightly: NightlySettings
    storage: StorageOptions = dataclasses.field(default_factory=StorageOptions)

    @property
    def name(self) -> str:
        """The job's name in messages and metrics."""
        return self.nightly.name or self.path.stem

    @property
    def is_dated(self) -> bool:
        """Whether the images depend on the date."""
        return any(_DATE.search(pattern) for pattern in _patterns(self.values.get("images", ())))

    @property
    def identity(self) -> str:
        """8 hex digits of what the rows of the table depend on, except the date."""
        makes = describe_job(**self.values).what_it_makes()
        return hashlib.sha256(json.dumps(makes, sort_keys=True).encode()).hexdigest()[:8]

    def job(self, day: date, **changes: object) -> ScoringJob:
        """Returns the job of a date.

        Args:
            day: What `{date}` stands for.
            changes: Values that replace those of the file.

        Raises:
            SettingError: The job is not valid.
        """
        values = dict(self.values)
        values["images"] = tuple(dated(pattern, day) for pattern in _patterns(values.get("images", ())))
        values["output"] = dated(str(values.get("output", "")), day)
        # Without [storage] the default holds.
        return describe_job(**{"storage": self.storage or None, **values, **changes})


def load_jobfile(path: str | Path) -> JobFile:
    """Reads a job file.

    Keys are `model`, `images`, `output` and the settings of `pipeline.settings`, with dashes or underscores, and the
    tables `[nightly]` and `[storage]`. Relative paths are relative to the file. In images and output `{date}` stands
    for the date, and `{date:%Y/%m/%d}` for the date in that form.

    Raises:
        SettingError: The file is not TOML, has an unknown key, or does not describe a valid job.
        JobError: The file cannot be read.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(
            f"the job file cannot be read: {error.strerror}", where=str(path), remedy="check the path"
        ) from error
    except ValueError as error:
        raise SettingError(f"the job file is not TOML: {error}", where=str(path), remedy="correct that line") from error
    except RecursionError as error:
        raise SettingError(
            "the job file is nested too deeply", where=str(path), remedy="a job has two levels"
        ) from error
    values = _fields(table, {*JOB_KEYS, "nightly", "storage"} - {"run_id"}, str(path), "")
    nightly = _nightly(values.pop("nightly", {}), path)
    options = _storage(values.pop("storage", {}), path)
    folder = path.absolute().parent
    for name in ("model", "output", "root"):
        if isinstance(address := values.get(name), str):
            values[name] = _absolute(address, folder)
    if "images" in values:
        values["images"] = tuple(_absolute(pattern, folder) for pattern in _patterns(values["images"]))
    if "allow_root" in values:
        values["allow_root"] = tuple(_absolute(root, folder) for root in _patterns(values["allow_root"]))
    file = JobFile(path, values, nightly, options)
    try:
        file.job(date.min)  # a mistake is reported now, not when its date comes
    except JobError as error:
        raise SettingError(error.what, where=str(path), why=error.why, remedy=error.remedy) from error
    return file


def dated(text: str, day: date) -> str:
    """Returns a text with the date in the place of `{date}`.

    Raises:
        SettingError: The text has something else in braces, or a form that is not one of dates.

    >>> dated("photos/{date:%Y/%m}/{date}/*.jpg", date(2026, 11, 23))
    'photos/2026/11/2026-11-23/*.jpg'
    """
    for place in _PLACE.finditer(text):
        if not _DATE.fullmatch(place.group()):
            raise SettingError(
                f"{place.group()} in {text!r} has no meaning",
                remedy=_DATE_FORMS,
            )
    for match in _DATE.finditer(text):
        _check_form(match[1] or "", match.group())
    return _DATE.sub(lambda match: format(day, match[1]) if match[1] else day.isoformat(), text)


def _check_form(form: str, place: str) -> None:
    directives = _DIRECTIVE.findall(form)
    unknown = [f"%{directive}" for directive in directives if not directive or directive not in _OF_DATES]
    if unknown:
        raise JobError(
            f"{', '.join(unknown)} in {place!r} does not stand for a part of a date",
            why="a date has no time of day: %m is the month, %M would be the minute",
            remedy=_DATE_FORMS,
        )
    if form and not set(directives) - {"%"}:
        raise JobError(f"{place!r} is the same for every date", remedy=_DATE_FORMS)


def _nightly(table: object, path: Path) -> NightlySettings:
    values = _fields(table, set(NightlySettings.model_fields), str(path), "nightly.")
    if "drift" in values:
        values["drift"] = _fields(values["drift"], set(DriftSettings.model_fields), str(path), "nightly.drift.")
    if isinstance(metrics := values.get("metrics"), str) and metrics:
        values["metrics"] = _absolute(metrics, path.absolute().parent)
    try:
        return NightlySettings.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"[nightly] is not valid: {problems(error)}", where=str(path)) from error


def _storage(table: object, path: Path) -> StorageOptions:
    if not isinstance(table, dict):
        raise SettingError("storage is not a table", where=str(path), remedy="write [storage]")
    # TOML has its own numbers and truth values, and the other keys of the file may be written with dashes.
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


def _fields(table: object, known: Iterable[str], where: str, prefix: str) -> dict[str, object]:
    """Returns a table with its keys as names of fields."""
    if not isinstance(table, dict):
        raise SettingError(f"{prefix.rstrip('.')} is not a table", where=where, remedy=f"write [{prefix.rstrip('.')}]")
    fields: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            close = nearest(name, known)
            remedy = f"did you mean {close[0].replace('_', '-')}?" if close else f"keys are {', '.join(sorted(known))}"
            raise SettingError(f"there is no key {prefix}{key}", where=where, remedy=remedy)
        if name in fields:
            raise SettingError(f"{prefix}{key} is given twice, with dashes and with underscores", where=where)
        fields[name] = value
    return fields


def _patterns(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise SettingError("images are neither a text nor a list of texts", remedy='write images = ["photos/"]')


def _absolute(address: str, folder: Path) -> str:
    """Returns an address as an absolute one; the job file's folder is what it is relative to.

    >>> _absolute("@list.csv", Path("/jobs")), _absolute("s3://bucket/a", Path("/jobs")), _absolute("a/", Path("/jobs"))
    ('@/jobs/list.csv', 's3://bucket/a', '/jobs/a/')
    """
    listing, path = ("@", address[1:]) if address.startswith("@") else ("", address)
    if not path or is_remote(path) or is_web(path) or path.startswith("file:") or Path(path).is_absolute():
        return address
    return f"{listing}{folder.as_posix()}/{path.removeprefix('./')}"
