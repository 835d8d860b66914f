"""The report of a nightly job: one line of JSON."""

from __future__ import annotations

import html

from pydantic import BaseModel, ConfigDict

from conversion.errors import printable
from pipeline.exit_codes import ExitCode

_MOST_NIGHTS = 10  # in a text for people


class Failure(BaseModel):
    """An error: the name of its type, and its message; see `conversion.errors.DensecastError`."""

    type: str
    message: str


class Night(BaseModel):
    """The result of one date.

    Attributes:
        date: The date, ISO 8601.
        run_id: The run of that date.
        exit_code: See `pipeline.exit_codes.ExitCode`.
        status: `done`, `done-before`, `planned` (a dry run), `rejected`, `drifted`, `busy`, `failed`, `interrupted`.
        table: The table.
        version: The version that the run made; None where it made none.
        model: The model directory, with links resolved.
        model_digest: The model's digest.
        images: Counts of the listed images by outcome, see `RunSummary.images`.
        left_out: Counts of files in listed folders that are not images by their name, by extension.
        scored: How many maps the run added.
        rejected: How many rejections the run added.
        reasons: The new rejections by reason.
        seconds: From the start to the commit, or to the failure.
        drift: What exceeded its threshold, in words; None where drift was not measured.
        drift_report: The file of the whole drift report.
        lease_lost: Why the lease was lost while the run worked; such a run continues.
        error: What went wrong.
    """

    model_config = ConfigDict(extra="forbid")

    date: str
    run_id: str
    exit_code: int = ExitCode.FAILED
    status: str = "failed"
    table: str
    version: int | None = None
    model: str = ""
    model_digest: str = ""
    images: dict[str, int] = {}
    left_out: dict[str, int] = {}
    scored: int = 0
    rejected: int = 0
    reasons: dict[str, int] = {}
    seconds: float = 0.0
    drift: tuple[str, ...] | None = None
    drift_report: str | None = None
    lease_lost: str = ""
    error: Failure | None = None

    @property
    def text(self) -> str:
        """Returns the result in one line for people."""
        if self.error is not None:
            return f"{self.date}: {self.status}, {_brief(self.error)}"
        counts = f"{self.images.get('listed', 0):,} images, {self.scored:,} new maps, {self.rejected:,} rejected"
        drift = f", drift: {'; '.join(map(printable, self.drift))}" if self.drift else ""
        return f"{self.date}: {self.status}, {counts}{drift}"


class Report(BaseModel):
    """The result of a command: the last line on standard output.

    Attributes:
        job: The job's name.
        exit_code: The command's exit code: that of a night that failed, or else the first that is not 0.
        status: The status of that night, or of the last one; `unreported` if only the webhook or the metrics failed.
        nights: The results of the dates, in order; dates after a failure are missing.
        backfill: Whether the command was for a range of dates.
        error: What went wrong before the first date.
        webhook: `sent`, or why the report was not sent; None where the job has no webhook.
        metrics: `written`, or why the metrics were not written; None where the job has no metrics file.
    """

    model_config = ConfigDict(extra="forbid")

    job: str
    exit_code: int
    status: str
    nights: tuple[Night, ...] = ()
    backfill: bool = False
    error: Failure | None = None
    webhook: str | None = None
    metrics: str | None = None

    def as_json(self) -> dict[str, object]:
        """Returns what is printed, in JSON's types: each fact once.

        Of one date it has the fields of the night beside those of the report, of a backfill the list `nights`.
        """
        return self._flat().model_dump(mode="json")

    def posted(self) -> dict[str, object]:
        """Returns the content of `as_json` without the outcome of its own delivery, which is not known yet."""
        return self._flat().model_dump(mode="json", exclude={"webhook"})

    @property
    def text(self) -> str:
        """Returns the result in lines for people; `&`, `<` and `>` are escaped, as chat programs ask for."""
        lines = [f"{printable(self.job)}: {self.status}, exit code {self.exit_code}"]
        if self.error is not None:
            lines.append(_brief(self.error))
        shown = self.nights if len(self.nights) <= _MOST_NIGHTS else self.nights[-_MOST_NIGHTS:]
        if len(shown) < len(self.nights):
            lines.append(f"{len(self.nights):,} dates, the last of them:")
        return html.escape("\n".join((*lines, *(night.text for night in shown))), quote=False)

    def _flat(self) -> _Flat:
        fields = {**self.model_dump(exclude={"nights", "backfill"}), "text": self.text}
        if self.backfill:
            return _Flat(**{**fields, "nights": [night.model_dump() for night in self.nights]})
        night = self.nights[-1] if self.nights else None
        own = night.model_dump(exclude={"exit_code", "status", "error"}) if night is not None else {}
        return _Flat(**{**own, **fields, "error": self.error or (night.error if night is not None else None)})


class _Flat(BaseModel):
    model_config = ConfigDict(extra="allow")

    job: str
    exit_code: int
    status: str
    error: Failure | None = None


def _brief(error: Failure) -> str:
    """Returns an error in one line."""
    return f"{error.type}: {printable(error.message.splitlines()[0]) if error.message else 'no reason given'}"
