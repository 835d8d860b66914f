"""Scores the new images of the collection every night (`densecast nightly`).

This DAG is for Airflow 3. densecast is installed in its own environment, apart from Airflow. Two variables of the
worker's environment name it: `DENSECAST` (the command, by default `densecast`) and `DENSECAST_JOB` (the job file, by
default `/etc/densecast/job.toml`).

A missed night does not need a backfill, because the next night scores its images, unless the job's images depend on the
date. To run past dates anyway:
`airflow backfill create --dag-id densecast_nightly --from-date ... --to-date ...`; each date becomes `--date`.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

# A retry would fail in the same way.
FINAL = {
    2: "wrong usage",
    3: "more images rejected than allowed",
    4: "the table is damaged",
    6: "the maps drifted",
}
BUSY = 5
SECONDS_TO_STOP = 120


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command with its output in the task's log, and returns its exit code and its last line.

    When Airflow stops the task, it terminates the command first, so that the command releases its lease on the table.
    """
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - no shell, fixed words
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                print(line, end="", flush=True)  # noqa: T201 - Airflow's log of a task is its output
            return process.wait(), last
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_TO_STOP)
                process.kill()


def describe(last: str) -> str:
    """Returns the result in words; the line itself is in the task's log already."""
    with suppress(ValueError, AttributeError):
        return str(json.loads(last).get("text", last))
    return last


@dag(
    # With this timetable `ds` is the day on which the run begins; by default it would be the day before.
    schedule=CronTriggerTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=10),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=20),
    },
    doc_md=__doc__,
    tags=["densecast"],
)
def densecast_nightly() -> None:
    """Defines one task per night."""

    @task
    def score(ds: str | None = None) -> dict[str, Any]:
        """Runs the night of `ds`; returns the summary that `densecast nightly` prints on its last line."""
        command = [os.environ.get("DENSECAST", "densecast"), "nightly"]
        command.append(os.environ.get("DENSECAST_JOB", "/etc/densecast/job.toml"))
        if ds is not None:
            command += ["--date", ds]
        code, last = run(command)
        if code in FINAL:
            raise AirflowFailException(f"exit code {code}, {FINAL[code]}: {describe(last)}")
        if code == BUSY:
            raise AirflowException(f"another run holds the lease on the table: {describe(last)}")
        if code != 0:
            raise AirflowException(f"exit code {code}: {describe(last)}")
        result: dict[str, Any] = json.loads(last)
        return result

    score()


densecast_nightly()
