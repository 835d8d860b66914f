"""Access to a Flink cluster by its REST interface: the flags for a job, its progress, its end, and its cancellation.

Beam's own launcher does not know the slots and the version of the cluster, and knows the counters of a job only after
its end. It checks for the end at most once a minute, and cannot cancel a job that was submitted as a jar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypedDict, TypeVar

import requests
from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PortableMetrics
from google.protobuf import json_format
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipeline import beam_counters
from pipeline.errors import JobError

WORKERS = "localhost:50000"
"""The default address of the pool of Python workers: each task manager has one on its own machine."""

_TIMEOUT_S = (1.5, 10.0)  # to connect, to answer
_ATTEMPTS = 16  # over two minutes, in which a job manager that was killed restarts
# How many requests, two seconds apart, may miss a job that was seen before, and one that was not.
_MISSES_AFTER_START, _MISSES_BEFORE_START = 15, 60
_ENDED = ("FINISHED", "FAILED", "CANCELED")
_ACCUMULATOR = "__metricscontainers"

T = TypeVar("T")


class _Job(TypedDict("_JobKeys", {"start-time": int})):
    """An entry of Flink's `jobs/overview`."""

    jid: str
    name: str
    state: str


class Overview(NamedTuple):
    """The version and size of a cluster.

    Attributes:
        version: The version of Flink, such as `1.19.3`.
        slots: The number of slots of all task managers; 0 where task managers start on demand.
    """

    version: str
    slots: int


class JobState(NamedTuple):
    """The state of a job at one moment.

    Attributes:
        state: Flink's name of the state.
        counts: The counters of its workers, by name.
        failures: The stack traces of failed tasks, the last failure first; Flink retries failed tasks.
    """

    state: str
    counts: Mapping[str, int]
    failures: Sequence[str]


class FlinkCluster:
    """A Flink cluster, reached by the REST interface of its job manager.

    Args:
        master: `host:port` or the URL of the REST interface.
        sleep: Waits a number of seconds.

    Attributes:
        url: The URL of the REST interface.
    """

    def __init__(self, master: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url = (master if "://" in master else f"http://{master}").rstrip("/")
        self._sleep = sleep

    def overview(self) -> Overview:
        """Returns the version and size of the cluster.

        Raises:
            JobError: The address does not answer, or not as Flink does.
        """
        try:
            return Overview(str(self._get("config")["flink-version"]), int(self._get("overview")["slots-total"]))
        except (requests.RequestException, KeyError, TypeError, ValueError) as error:
            raise JobError(
                f"no Flink job manager answers: {error}",
                where=self.url,
                remedy="give --flink-master the REST address of a running job manager (its web page has the same one)",
            ) from error

    def flags(self, given: Sequence[str], name: str) -> list[str]:
        """Returns all of Beam's flags for a job.

        Args:
            given: The user's flags, which replace densecast's.
            name: The name of the job, which identifies it in the cluster.

        Raises:
            JobError: The cluster does not answer, Beam has no job server for its version, or it has no slots yet and
                the flags do not say how many to use.
        """
        chosen = {flag.split("=", 1)[0] for flag in given}
        if "--job_name" in chosen:
            raise JobError(
                "--job_name cannot be given", why="densecast finds the job by its name", remedy="leave it out"
            )
        overview = self.overview()
        flags = [f"--flink_master={self.url}", f"--job_name={name}"]
        if "--flink_job_server_jar" not in chosen | {"--flink_version"}:
            flags.append(f"--flink_version={_published(overview.version, self.url)}")
        if "--parallelism" not in chosen:
            if overview.slots < 1:
                raise JobError(
                    "the cluster has no slots yet", where=self.url, remedy="say how many to use: -- --parallelism=N"
                )
            flags.append(f"--parallelism={overview.slots}")
        if "--environment_type" not in chosen:
            flags += ["--environment_type=EXTERNAL", f"--environment_config={WORKERS}"]
        return [*flags, *given]

    def follow(self, name: str, interval_s: float = 2.0) -> Iterator[JobState]:
        """Yields the state of a job repeatedly until the job has ended.

        Waits for a job manager that does not answer for a short time.

        Raises:
            JobError: The job manager no longer answers, no longer knows the job, or never got it.
        """
        missing, seen = 0, False
        while missing <= (_MISSES_AFTER_START if seen else _MISSES_BEFORE_START):
            job = self._patiently(partial(self._find, name))
            if job is None:
                missing += 1
            else:
                missing, seen = 0, True
                yield JobState(job["state"], *self._patiently(partial(self._progress, job["jid"])))
                if job["state"] in _ENDED:
                    return
            self._sleep(interval_s)
        raise JobError(
            f"the job manager {'no longer knows the job' if seen else 'never got the job'}",
            where=self.url,
            why="it was restarted; without high availability it then loses its jobs" if seen else "",
            remedy="check its log, then run again: images whose maps were written are not scored twice",
        )

    def cancel(self, name: str, *, wait: bool = False) -> None:
        """Cancels a job that has not ended.

        Args:
            name: The name of the job.
            wait: Whether to wait half a minute for the job to appear, which may still be on its way to the cluster.

        Raises:
            JobError: The job cannot be cancelled.
        """
        try:
            job = self._find(name)
            for _ in range(_MISSES_AFTER_START if wait else 0):
                if job is not None:
                    break
                self._sleep(2.0)
                job = self._find(name)
            if job is not None and job["state"] not in _ENDED:
                answer = requests.patch(f"{self.url}/jobs/{job['jid']}", params={"mode": "cancel"}, timeout=_TIMEOUT_S)
                answer.raise_for_status()
        except requests.RequestException as error:
            raise JobError(
                f"the job {name} could not be cancelled and still runs: {error}",
                where=self.url,
                remedy="cancel it on the web page of the job manager",
            ) from error

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Returns the result of `ask`, which it repeats while the job manager does not answer."""
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
                f"the job manager no longer answers: {error}",
                where=self.url,
                remedy="check the cluster, then run again: images whose maps were written are not scored twice",
            ) from error

    def _find(self, name: str) -> _Job | None:
        """Returns the latest job with a name; None where there is none."""
        jobs: list[_Job] = [job for job in self._get("jobs/overview")["jobs"] if job["name"] == name]
        return max(jobs, key=lambda job: job["start-time"], default=None)

    def _progress(self, job: str) -> tuple[dict[str, int], list[str]]:
        """Returns the counters of a job's workers, and the stack traces of its failed tasks."""
        accumulators = self._get(f"jobs/{job}/accumulators")["user-task-accumulators"]
        text = next((entry["value"] for entry in accumulators if entry["name"] == _ACCUMULATOR), "{}")
        history = self._get(f"jobs/{job}/exceptions")["exceptionHistory"]["entries"]
        return counters(text), [entry["stacktrace"] for entry in history]

    def _get(self, path: str) -> Any:
        answer = requests.get(f"{self.url}/{path}", timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return answer.json()


def counters(text: str) -> dict[str, int]:
    """Returns densecast's counters from the JSON of Beam's GetJobMetricsResponse (beam_job_api.proto) that Flink keeps.

    Returns an empty dictionary where Flink has a message in its place, as while a task is cancelled: the counters only
    show progress.
    """
    try:
        response = json_format.Parse(text, beam_job_api_pb2.GetJobMetricsResponse(), ignore_unknown_fields=True)
    except json_format.ParseError:
        return {}
    return beam_counters.totals(PortableMetrics(response))


def _published(version: str, url: str) -> str:
    """Returns the Flink version in the name of Beam's job server for it.

    Raises:
        JobError: Beam does not publish a job server for `version`.

    >>> _published("1.20.1", "")
    '1.20'
    """
    minor, published = ".".join(version.split(".")[:2]), FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if minor not in published:
        raise JobError(
            f"Beam has no job server for Flink {version}",
            where=url,
            why=f"it has them for {', '.join(published)}",
            remedy="run one of those, or give the jar of a job server that fits: -- --flink_job_server_jar=JAR",
        )
    return minor
