"""A Flink cluster by its REST interface: what a job is submitted with, how far it is, whether it ended, and its end.

Beam's own launcher knows neither what the cluster has (slots, version) nor, until a job is over, what it counted; it
looks for a job's end at most once a minute, and cannot cancel one that was submitted as a jar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import requests
from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PortableMetrics
from google.protobuf import json_format
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipeline import beam_counters
from pipeline.errors import JobError

RUNNER = "FlinkRunner"
WORKERS = "localhost:50000"
"""Where each task manager finds a pool of Python workers if the job does not say: beside it."""

_TIMEOUT_S = 10.0
_ATTEMPTS = 16  # over two minutes: a job manager that was killed and started again answers by then
_FORGOTTEN, _UNHEARD = 15, 60  # looks, two seconds apart, before a job is given up
_ENDED = ("FINISHED", "FAILED", "CANCELED")
_ACCUMULATOR = "__metricscontainers"


class Overview(NamedTuple):
    """What a cluster has.

    Attributes:
        version: Of Flink, as `1.19.3`.
        slots: Of its task managers, those in use too; 0 where task managers are started as they are needed.
    """

    version: str
    slots: int


class JobState(NamedTuple):
    """A job at one moment.

    Attributes:
        state: Flink's word for it.
        counts: What its workers have counted.
        failures: Why its tasks have failed so far, the last one first; Flink has tried again what failed before.
    """

    state: str
    counts: Mapping[str, int]
    failures: Sequence[str]


class FlinkCluster:
    """A job manager.

    Args:
        master: `host:port` or a URL of its REST interface.
        sleep: Waits so many seconds.

    Attributes:
        url: Of its REST interface.
    """

    def __init__(self, master: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url = (master if "://" in master else f"http://{master}").rstrip("/")
        self._sleep = sleep

    def overview(self) -> Overview:
        """What the cluster has.

        Raises:
            JobError: Nothing answers there, or it is no Flink.
        """
        try:
            return Overview(str(self._get("config")["flink-version"]), int(self._get("overview")["slots-total"]))
        except (requests.RequestException, KeyError, TypeError, ValueError) as error:
            raise JobError(
                f"no Flink job manager answers: {error}",
                where=self.url,
                remedy="name the REST address of a running one (its web page is there too) with --flink-master",
            ) from error

    def flags(self, given: Sequence[str], name: str) -> list[str]:
        """All of Beam's flags for a job.

        Args:
            given: What the user wants of Beam; it goes before what we would take.
            name: The job's name, by which it is found again.

        Raises:
            JobError: The cluster does not answer, is of a version that Beam has no job server for, or has no slots yet
                and the user does not say how many to use.
        """
        chosen = {flag.split("=", 1)[0] for flag in given}
        if "--flink_master" in chosen:
            raise JobError("--flink_master is given twice", remedy="give --flink-master alone")
        if "--job_name" in chosen:
            raise JobError("--job_name is ours: jobs are found again by it", remedy="leave it out")
        has = self.overview()
        flags = [f"--flink_master={self.url}", f"--job_name={name}"]
        if "--flink_job_server_jar" not in chosen | {"--flink_version"}:
            flags.append(f"--flink_version={_published(has.version, self.url)}")
        if "--parallelism" not in chosen:
            if has.slots < 1:
                raise JobError(
                    "the cluster has no slots yet", where=self.url, remedy="say how many to use: -- --parallelism=N"
                )
            flags.append(f"--parallelism={has.slots}")
        if "--environment_type" not in chosen:
            flags += ["--environment_type=EXTERNAL", f"--environment_config={WORKERS}"]
        return [*flags, *given]

    def follow(self, name: str, interval_s: float = 2.0) -> Iterator[JobState]:
        """A job, again and again until it has ended, whatever its end.

        A job manager that is gone for a moment is waited for.

        Raises:
            JobError: The job manager does not answer any more, has forgotten the job, or never heard of it.
        """
        missing, seen = 0, False
        while missing <= (_FORGOTTEN if seen else _UNHEARD):
            job = self._patiently(partial(self._find, name))
            if job is None:
                missing += 1
            else:
                missing, seen = 0, True
                yield JobState(job["state"], *self._patiently(partial(self._told, job["jid"])))
                if job["state"] in _ENDED:
                    return
            self._sleep(interval_s)
        raise JobError(
            f"the job manager {'does not know the job any more' if seen else 'never got the job'}",
            where=self.url,
            why="it was started anew: without high availability it forgets its jobs" if seen else "",
            remedy="look at its log, then run again: what was written is not scored twice",
        )

    def cancel(self, name: str, *, wait: bool = False) -> None:
        """Cancels a job; one that has ended is left alone.

        Args:
            name: The job.
            wait: Whether it may be on its way to the cluster: then half a minute is waited for it.

        Raises:
            JobError: It cannot be cancelled.
        """
        try:
            job = self._find(name)
            for _ in range(_FORGOTTEN if wait else 0):
                if job is not None:
                    break
                self._sleep(2.0)
                job = self._find(name)
            if job is not None and job["state"] not in _ENDED:
                answer = requests.patch(f"{self.url}/jobs/{job['jid']}", params={"mode": "cancel"}, timeout=_TIMEOUT_S)
                answer.raise_for_status()
        except requests.RequestException as error:
            raise JobError(
                f"the job {name} goes on: it could not be cancelled: {error}",
                where=self.url,
                remedy="cancel it on the web page of the job manager",
            ) from error

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        retrying = Retrying(
            retry=retry_if_exception_type(requests.RequestException),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(max=10),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(ask)
        except requests.RequestException as error:
            raise JobError(
                f"the job manager does not answer any more: {error}",
                where=self.url,
                remedy="look after the cluster, then run again: what was written is not scored twice",
            ) from error

    def _find(self, name: str) -> dict[str, Any] | None:
        """The latest job of a name."""
        jobs = [job for job in self._get("jobs/overview")["jobs"] if job["name"] == name]
        return max(jobs, key=lambda job: job["start-time"], default=None)

    def _told(self, job: str) -> tuple[dict[str, int], list[str]]:
        accumulators = self._get(f"jobs/{job}/accumulators")["user-task-accumulators"]
        text = next((entry["value"] for entry in accumulators if entry["name"] == _ACCUMULATOR), "{}")
        history = self._get(f"jobs/{job}/exceptions")["exceptionHistory"]["entries"]
        return counters(text), [entry["stacktrace"] for entry in history]

    def _get(self, path: str) -> Any:
        answer = requests.get(f"{self.url}/{path}", timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return answer.json()


def counters(text: str) -> dict[str, int]:
    """Our counters, from the JSON of Beam's GetJobMetricsResponse (beam_job_api.proto) that Flink keeps.

    Nothing where Flink has a message in its place, as while a task is cancelled: it is progress, no more.
    """
    try:
        response = json_format.Parse(text, beam_job_api_pb2.GetJobMetricsResponse(), ignore_unknown_fields=True)
    except json_format.ParseError:
        return {}
    return beam_counters.totals(PortableMetrics(response))


def _published(version: str, url: str) -> str:
    """The version that Beam names its job server by.

    >>> _published("1.20.1", "")
    '1.20'
    """
    minor, known = ".".join(version.split(".")[:2]), FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if minor not in known:
        raise JobError(
            f"Beam has no job server for Flink {version}",
            where=url,
            why=f"it knows {', '.join(known)}",
            remedy="run one of those, or give the jar of one that fits: -- --flink_job_server_jar=JAR",
        )
    return minor
