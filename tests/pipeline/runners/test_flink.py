"""A stand-in for a job manager's REST interface; tests/cluster has a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from apache_beam.portability.api import beam_job_api_pb2, metrics_pb2
from google.protobuf import json_format

from pipeline.errors import JobError
from pipeline.jobs.spec import describe_job
from pipeline.runners.flink import FlinkCluster, JobState, counters


class JobManager(ThreadingHTTPServer):
    """Answers GET with what `pages` has, and notes what is patched; a page that is a list gives one item at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Any] = {"/config": {"flink-version": "1.20.1"}, "/overview": {"slots-total": 3}}
        self.patched: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: JobManager

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        if isinstance(page, list):
            page = page.pop(0) if len(page) > 1 else page[0]
        self._answer(404 if page is None else 200, page)

    def do_PATCH(self) -> None:
        self.server.patched.append(self.path)
        self._answer(202, {})

    def _answer(self, status: int, page: Any) -> None:
        body = page.encode() if isinstance(page, str) else json.dumps(page).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def manager() -> Iterator[JobManager]:
    with JobManager() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def jobs(*found: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "jobs": [
            {"jid": jid, "name": name, "state": state, "start-time": i} for i, (jid, name, state) in enumerate(found)
        ]
    }


def metrics(**counts: int) -> str:
    """What Beam's runner leaves in Flink: an 8-byte varint for each counter of each step."""
    response = beam_job_api_pb2.GetJobMetricsResponse()
    for name, value in counts.items():
        response.metrics.attempted.append(
            metrics_pb2.MonitoringInfo(
                urn="beam:metric:user:sum_int64:v1",
                type="beam:metrics:sum_int64:v1",
                payload=bytes([value]),
                labels={"NAMESPACE": "densecast", "NAME": name, "PTRANSFORM": "step"},
            )
        )
    return json_format.MessageToJson(response)


def accumulators(text: str) -> dict[str, Any]:
    return {"user-task-accumulators": [{"name": "other", "value": "1"}, {"name": "__metricscontainers", "value": text}]}


def test_flags_come_from_the_cluster(manager: JobManager) -> None:
    assert FlinkCluster(manager.address).flags([], "job") == [
        f"--flink_master=http://{manager.address}",
        "--job_name=job",
        "--flink_version=1.20",
        "--parallelism=3",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
    ]


def test_flags_that_are_given_go_before(manager: JobManager) -> None:
    given = ["--parallelism=8", "--environment_type=DOCKER", "--flink_job_server_jar=x.jar", "--other"]
    manager.pages["/overview"] = {"slots-total": 0}
    manager.pages["/config"] = {"flink-version": "9.9"}
    assert FlinkCluster(f"http://{manager.address}/").flags(given, "job") == [
        f"--flink_master=http://{manager.address}",
        "--job_name=job",
        *given,
    ]


@pytest.mark.parametrize(
    ("page", "answer", "given", "told"),
    [
        ("/overview", {"slots-total": 0}, [], "no slots"),
        ("/config", {"flink-version": "1.18.0"}, [], "no job server for Flink 1.18.0"),
        ("/config", {}, [], "no Flink job manager"),
        ("/config", "<html>", [], "no Flink job manager"),
        ("/overview", None, [], "no Flink job manager"),
        ("/config", {"flink-version": "1.20"}, ["--job_name=mine"], "cannot be given"),
    ],
)
def test_a_cluster_that_does_not_do(manager: JobManager, page: str, answer: Any, given: list[str], told: str) -> None:
    manager.pages[page] = answer
    with pytest.raises(JobError, match=told) as error:
        FlinkCluster(manager.address).flags(given, "job")
    assert error.value.remedy


def test_nobody_there() -> None:
    with pytest.raises(JobError, match="no Flink job manager answers") as error:
        FlinkCluster("127.0.0.1:1").overview()
    assert error.value.where == "http://127.0.0.1:1"


def test_a_job_is_followed_to_its_end(manager: JobManager) -> None:
    manager.pages["/jobs/overview"] = [
        jobs(("0", "another", "RUNNING")),
        jobs(("0", "job", "FAILED"), ("1", "job", "RUNNING"), ("2", "another", "RUNNING")),
        "gone for a moment",
        jobs(("0", "job", "FAILED"), ("1", "job", "FINISHED")),
    ]
    manager.pages["/jobs/1/exceptions"] = {"exceptionHistory": {"entries": [{"stacktrace": "b"}, {"stacktrace": "a"}]}}
    manager.pages["/jobs/1/accumulators"] = [
        {"user-task-accumulators": []},
        accumulators(metrics(listed=5, scored=3)),
    ]
    slept: list[float] = []
    followed = list(FlinkCluster(manager.address, slept.append).follow("job", 7))
    assert followed == [
        JobState("RUNNING", {}, ["b", "a"]),
        JobState("FINISHED", {"listed": 5, "scored": 3}, ["b", "a"]),
    ]
    assert slept.count(7) == 2


def test_a_job_manager_that_is_gone_for_good(manager: JobManager) -> None:
    manager.pages["/jobs/overview"] = None
    slept: list[float] = []
    with pytest.raises(JobError, match="no longer answers"):
        list(FlinkCluster(manager.address, slept.append).follow("job"))
    assert 100 < sum(slept) < 200


@pytest.mark.parametrize(
    ("pages", "told", "looks"),
    [
        ([jobs(("0", "job", "RUNNING")), jobs()], "no longer knows the job", 17),
        ([jobs(("0", "another", "RUNNING"))], "never got the job", 61),
    ],
)
def test_a_job_that_is_not_there_is_not_waited_for_without_end(
    manager: JobManager, pages: list[Any], told: str, looks: int
) -> None:
    manager.pages["/jobs/overview"] = pages
    manager.pages["/jobs/0/accumulators"] = accumulators("a message in its place")
    manager.pages["/jobs/0/exceptions"] = {"exceptionHistory": {"entries": []}}
    slept: list[float] = []
    with pytest.raises(JobError, match=told):
        list(FlinkCluster(manager.address, slept.append).follow("job"))
    assert len(slept) == looks


def test_a_job_on_its_way_is_waited_for_to_be_cancelled(manager: JobManager) -> None:
    manager.pages["/jobs/overview"] = [jobs(), jobs(), jobs(("1", "job", "CREATED"))]
    slept: list[float] = []
    FlinkCluster(manager.address, slept.append).cancel("job", wait=True)
    assert manager.patched == ["/jobs/1?mode=cancel"]
    assert slept == [2.0, 2.0]


def test_counters_are_summed_over_steps() -> None:
    text = json.loads(metrics(scored=2, rejected=1))
    text["metrics"]["attempted"] += json.loads(metrics(scored=4))["metrics"]["attempted"]
    text["metrics"]["attempted"][-1]["labels"]["PTRANSFORM"] = "another"
    assert counters(json.dumps(text)) == {"scored": 6, "rejected": 1}
    assert counters("{}") == {}


@pytest.mark.parametrize(("state", "patched"), [("RUNNING", 1), ("RESTARTING", 1), ("FINISHED", 0), ("CANCELED", 0)])
def test_only_what_runs_is_cancelled(manager: JobManager, state: str, patched: int) -> None:
    manager.pages["/jobs/overview"] = jobs(("1", "job", state), ("2", "another", "RUNNING"))
    FlinkCluster(manager.address).cancel("job")
    assert manager.patched == ["/jobs/1?mode=cancel"] * patched


def test_a_job_that_cannot_be_cancelled_is_told(manager: JobManager) -> None:
    with pytest.raises(JobError, match="still runs"):
        FlinkCluster(manager.address).cancel("job")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"runner": "FlinkRunner"}, "needs the address of a cluster"),
        ({"runner": "local", "flink_master": "localhost:8081"}, "only, not for local"),
        ({"flink_master": "localhost:8081"}, "only, not for local"),
    ],
)
def test_runner_and_master_go_together(values: dict[str, str], told: str) -> None:
    with pytest.raises(JobError, match=told):
        describe_job(model="m", images=("i",), output="o", **values)
