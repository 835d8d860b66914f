"""A runner is one that was named, and one that does not answer is an error that says so."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc, beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.utils.counters import CounterFactory

from pipeline import beam_counters
from pipeline.errors import JobError
from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.runners.registry import beam_flags, describe_runner, open_runner, runner_lost
from pipeline.transforms.list_images import ListImages
from pipeline.transforms.score_images import ScoreImages
from tests.support.fakes import write_model


def test_flags_go_through_as_they_are():
    runner = open_runner("local")
    assert beam_flags(runner, ("--job_name=a",)) == ["--job_name=a"]
    assert describe_runner(runner, ()) == {
        "class": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
    }


@pytest.mark.parametrize("name", ["PrismRunner", "prismrunner"])
def test_prism_is_looked_for_under_any_of_its_names(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="needs the program prism"):
        beam_flags(open_runner(name), ())


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    model = write_model(tmp_path / "model")
    return {"model": str(model), "images": (str(tmp_path / "images"),), "output": str(tmp_path / "maps")}


def test_a_runner_that_is_not_there_is_an_error_of_ours(job: dict[str, Any]):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(JobError, match="PortableRunner does not answer") as caught:
            run_job(describe_job(**job, runner="PortableRunner", beam_options=(f"--job_endpoint={address}",)))
    assert caught.value.where == f"--job_endpoint={address}"


@pytest.mark.parametrize("address", ["localhost", "localhost:a", "localhost:99999", "[::1"])
def test_an_address_that_cannot_be_one_is_named(address: str):
    with pytest.raises(JobError, match="does not answer") as caught:
        beam_flags(open_runner("PortableRunner"), (f"--job_endpoint={address}",))
    assert address in str(caught.value)


def test_what_listens_and_is_not_a_job_server_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(JobError, match="does not answer") as caught:
            beam_flags(open_runner("PortableRunner"), (f"--job_endpoint={address}", "--job_server_timeout=1"))
    assert address in str(caught.value)


def test_a_wrong_value_does_not_end_the_process():
    with pytest.raises(JobError, match=r"job_server_timeout.*: invalid int value"):
        beam_flags(open_runner("PortableRunner"), ("--job_endpoint=127.0.0.1:1", "--job_server_timeout=x"))


def test_a_run_checks_its_runner_before_it_opens_anything(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def work(*_: object, **__: object) -> Any:
        raise AssertionError("the model is opened, or images are read, before the runner is checked")

    monkeypatch.setattr("pipeline.jobs.run.decide_engine", work)
    monkeypatch.setattr("pipeline.jobs.run.calibrate", work)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(JobError, match="needs the program prism"):
        run_job(describe_job(**job, runner="PrismRunner"))
    with pytest.raises(JobError, match="did you mean --direct_num_workers"):
        run_job(describe_job(**job, beam_options=("--direct_num_worker=2",)))


def test_a_runner_that_needs_an_address_says_so(job: dict[str, Any]):
    with pytest.raises(JobError, match="--job_endpoint"):
        run_job(describe_job(**job, runner="PortableRunner"))


class JobServer(beam_job_api_pb2_grpc.JobServiceServicer):
    """Names options as Beam's Java job servers do."""

    def DescribePipelineOptions(self, request: Any, context: Any) -> Any:  # noqa: N802 - Beam's name
        groups = ("org.apache.beam.sdk.options.PipelineOptions", "org.apache.beam.runners.spark.SparkPipelineOptions")
        options = [beam_job_api_pb2.PipelineOptionDescriptor(name="a", group=group) for group in groups]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=options)


def test_a_job_server_is_asked_what_it_is():
    server = grpc.server(ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(JobServer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        about = describe_runner(open_runner("PortableRunner"), [f"--job_endpoint=127.0.0.1:{port}"])
        given = beam_flags(open_runner("PortableRunner"), ["--a=1", f"--job_endpoint=127.0.0.1:{port}"])
    finally:
        server.stop(None).wait()
    assert about["job server"] == f"spark at 127.0.0.1:{port}"
    assert given == ["--a=1", f"--job_endpoint=127.0.0.1:{port}"], "an option that only the job server knows"
    with pytest.raises(JobError, match="does not answer"):
        describe_runner(open_runner("PortableRunner"), [f"--job_endpoint=127.0.0.1:{port}", "--job_server_timeout=1"])


def test_the_pipeline_asks_for_nothing_that_older_runners_lack(job: dict[str, Any]):
    """A Java runner may be versions behind this SDK: what it must know of Beam's model is known since long."""
    options = PipelineOptions(["--environment_type=EXTERNAL", "--environment_config=none"])
    pipeline = beam.Pipeline(options=options, runner="FnApiRunner")
    _ = pipeline | ListImages(list(job["images"])) | ScoreImages(job["model"], job["output"])
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    assert list(proto.requirements) == []
    transforms = proto.components.transforms.values()
    asked = {transform.spec.urn.removeprefix("beam:transform:") for transform in transforms}
    assert {urn for urn in asked if not urn.startswith("combine_per_key")} == {
        *("pardo:v1", "group_by_key:v1", "flatten:v1", "reshuffle:v1", "impulse:v1"),
        *("", "generic_composite:v1", "pickled_python:v1"),  # of these a runner sees what is in them
    }
    for transform in transforms:
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            assert not payload.restriction_coder_id
            assert not payload.state_specs
            assert not payload.timer_family_specs


class Lost(grpc.RpcError, grpc.Call):
    """What gRPC raises when the other side goes away."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"

    # What else a call has to have.
    initial_metadata = trailing_metadata = is_active = time_remaining = cancel = add_callback = lambda *_: None


def test_a_runner_that_dies_is_told_with_its_last_word():
    assert "FlinkRunner does not answer: UNAVAILABLE, Socket closed" in str(runner_lost("FlinkRunner", Lost()))
    assert "does not answer\n" in str(runner_lost("FlinkRunner", grpc.FutureTimeoutError()))


def counter(name: str, attempted: int, committed: int | None) -> Any:
    return SimpleNamespace(
        key=SimpleNamespace(metric=SimpleNamespace(name=name)), attempted=attempted, committed=committed
    )


def result(query: Any) -> Any:
    return SimpleNamespace(metrics=lambda: SimpleNamespace(query=query))


def test_counters_are_summed_over_the_steps_that_count():
    """Where a runner tells only what was attempted, that is what there is."""
    found = {"counters": [counter("kept", 3, 2), counter("kept", 5, 5), counter("scored", 4, None)]}
    assert beam_counters.counters(result(lambda _: found)) == {"kept": 7, "scored": 4}


def refuse(error: Exception) -> Any:
    def query(_: Any) -> Any:
        raise error

    return query


@pytest.mark.parametrize("query", [refuse(NotImplementedError()), refuse(Lost()), lambda _: {"counters": []}])
def test_a_runner_without_counters_has_none(query: Any):
    assert beam_counters.counters(result(query)) is None


def test_the_local_runner_does_not_wait_long_for_beams_sampler():
    open_runner("local")
    assert StateSampler("stage", CounterFactory()).sampling_period_ms == 10
