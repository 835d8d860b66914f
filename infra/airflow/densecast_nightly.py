"""Every night: score what is new in the collection (`densecast nightly`).

For Airflow 3. densecast is installed apart from Airflow, in an environment of its own; two variables of the worker's
environment say where: `DENSECAST` (the command, by default `densecast`) and `DENSECAST_JOB` (the job file, by default
`/etc/densecast/job.toml`).

A night that was missed needs no making up, for the next one scores what it would have scored. To run past dates all
the same: `airflow backfill create --dag-id densecast_nightly --from-date ... --to-date ...`; each becomes `--date`.
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

# Wrong usage, too many rejections, drift: the next try would end in the same way.
FINAL = {2: "wrong usage", 3: "more images rejected than allowed", 6: "the maps drifted"}
BUSY = 5
SECONDS_TO_STOP = 120


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command, its output in the task's log, and returns its exit code and last line.

    When Airflow ends the task, the command is asked to end first, so that it gives its lease on the table back.
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


@dag(
    # The run of 2 November is the one that begins on 2 November; without it, `ds` would be the day before.
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
    """One task a night."""

    @task
    def score(ds: str | None = None) -> dict[str, Any]:
        """Runs the night of `ds`; what it did, as `densecast nightly` says it on its last line, is the result."""
        command = [os.environ.get("DENSECAST", "densecast"), "nightly"]
        command.append(os.environ.get("DENSECAST_JOB", "/etc/densecast/job.toml"))
        if ds is not None:
            command += ["--date", ds]
        code, last = run(command)
        if code in FINAL:
            raise AirflowFailException(f"exit code {code}, {FINAL[code]}: {last}")
        if code == BUSY:
            raise AirflowException(f"another run holds the lease on the table: {last}")
        if code != 0:
            raise AirflowException(f"exit code {code}: {last}")
        result: dict[str, Any] = json.loads(last)
        return result

    score()


densecast_nightly()
