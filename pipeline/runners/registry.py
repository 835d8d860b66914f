"""Beam runners by name.

Beam's default, `DirectRunner`, downloads a runner where it can, and otherwise uses another one. A local run must be the
same online and offline, so `local` always is the FnApiRunner, which is part of the Python SDK.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipeline.errors import JobError
from pipeline.runners import prism
from pipeline.settings import LOCAL

_OF_A_RUNNER = re.compile(r"org\.apache\.beam\.runners\.(\w+)\.")

RUNNER_LOST = (grpc.RpcError, grpc.FutureTimeoutError)
"""The errors of submitting or watching a job whose runner does not answer."""


def open_runner(name: str) -> PipelineRunner:
    """Returns the runner with a name: `local`, or any name that Beam knows (FlinkRunner, PrismRunner, ...).

    Raises:
        JobError: Beam does not know the runner, or cannot make it.
    """
    if name == LOCAL:
        return FnApiRunner()
    if name == "DirectRunner":
        raise JobError(
            "DirectRunner is a different runner online and offline",
            remedy=f"use {LOCAL}, FnApiRunner or PrismRunner",
        )
    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise JobError(
            f"there is no runner {name!r}: {error}", remedy=f"use {LOCAL}, or the name of a Beam runner"
        ) from error


def beam_flags(runner: PipelineRunner, flags: Sequence[str]) -> list[str]:
    """Returns the flags for a runner: the given ones, and those that densecast adds.

    Raises:
        JobError: A program that the runner needs is missing.
    """
    return prism.with_location(flags) if isinstance(runner, PrismRunner) else list(flags)


def describe_runner(runner: PipelineRunner, flags: Sequence[str]) -> dict[str, str]:
    """Returns facts about a runner, by name: its class, and its program or job server.

    Raises:
        JobError: A program that the runner needs is missing, or its job server does not answer.
    """
    kind = type(runner)
    facts = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(runner, PrismRunner):
        facts |= prism.describe(flags)
    options = PipelineOptions(list(flags)).view_as(PortableOptions)
    if isinstance(runner, PortableRunner) and options.job_endpoint and options.job_endpoint != "embed":
        facts["job server"] = _job_server(facts["class"], options.job_endpoint, options.job_server_timeout)
    return facts


def _job_server(name: str, address: str, timeout_s: float) -> str:
    """Returns the names of the runners of a job server, from the options that it lists, with its address."""
    try:
        with grpc.insecure_channel(address) as channel:
            describe = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions
            request = beam_job_api_pb2.DescribePipelineOptionsRequest()
            answer = describe(request, timeout=timeout_s, wait_for_ready=True)
    except RUNNER_LOST as error:
        raise runner_lost(name, error) from error
    runners = {match[1] for option in answer.options if (match := _OF_A_RUNNER.match(option.group))}
    return f"{', '.join(sorted(runners)) or 'an unknown runner'} at {address}"


def runner_lost(name: str, error: grpc.RpcError | grpc.FutureTimeoutError) -> JobError:
    """Returns the `JobError` for an error of `RUNNER_LOST`."""
    status = error.code() if isinstance(error, grpc.Call) else None
    return JobError(
        f"the runner {name} does not answer" + (f": {status.name}, {error.details()}" if status else ""),
        why="it was not started, or it died; the table has either all of the run's changes or none",
        remedy="check its log and its address, then run again: the run reuses maps that were written",
    )
