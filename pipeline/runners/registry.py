"""Which Beam runner runs a job.

Beam's own default, `DirectRunner`, downloads a runner where it can and takes another where it cannot. A local run must
be the same online and offline, so `local` is pinned to the FnApiRunner, which is part of the Python SDK.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import create_runner

from pipeline.errors import JobError
from pipeline.runners import prism

LOCAL = "local"

_OF_A_RUNNER = re.compile(r"org\.apache\.beam\.runners\.(\w+)\.")

RUNNER_LOST = (grpc.RpcError, grpc.FutureTimeoutError)
"""What submitting or watching a job raises when nobody answers, or no longer."""


def open_runner(name: str) -> Any:
    """The runner of that name: `local`, or any name that Beam knows (FlinkRunner, PrismRunner, ...).

    Raises:
        JobError: Beam knows no such runner, or cannot make it.
    """
    if name == LOCAL:
        return FnApiRunner()
    if name == "DirectRunner":
        raise JobError(
            "DirectRunner is another runner online than offline",
            remedy=f"use {LOCAL}, or name FnApiRunner or PrismRunner",
        )
    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise JobError(f"no runner {name!r}: {error}", remedy=f"use {LOCAL}, or the name of a Beam runner") from error


def beam_flags(runner: Any, flags: Sequence[str]) -> list[str]:
    """The flags for a runner: those that were given, and those that densecast can find out by itself.

    Raises:
        JobError: What the runner needs is not there.
    """
    return prism.with_location(flags) if isinstance(runner, PrismRunner) else list(flags)


def about_runner(runner: Any, flags: Sequence[str]) -> dict[str, str]:
    """What is known of a runner: its class, and what it says of itself.

    Raises:
        JobError: What the runner needs is not there, or its job server does not answer.
    """
    kind = type(runner)
    about = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(runner, PrismRunner):
        about |= prism.about(flags)
    options = PipelineOptions(list(flags)).view_as(PortableOptions)
    if isinstance(runner, PortableRunner) and options.job_endpoint and options.job_endpoint != "embed":
        about["job server"] = _job_server(about["class"], options.job_endpoint, options.job_server_timeout)
    return about


def _job_server(name: str, address: str, timeout_s: float) -> str:
    """Which runners a job server has: their options are among those that it names."""
    try:
        with grpc.insecure_channel(address) as channel:
            describe = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions
            request = beam_job_api_pb2.DescribePipelineOptionsRequest()
            answer = describe(request, timeout=timeout_s, wait_for_ready=True)
    except RUNNER_LOST as error:
        raise runner_lost(name, error) from error
    found = {match[1] for option in answer.options if (match := _OF_A_RUNNER.match(option.group))}
    return f"{', '.join(sorted(found)) or 'says nothing of itself'} at {address}"


def runner_lost(name: str, error: Any) -> JobError:
    """The error of a run whose runner does not answer, from one of `RUNNER_LOST`."""
    status = error.code() if isinstance(error, grpc.Call) else None
    return JobError(
        f"the runner {name} does not answer" + (f": {status.name}, {error.details()}" if status else ""),
        why="it was not started, or it died; the table is as it was, or as the run was to leave it",
        remedy="look at its log and at the address that was given to it, then run again: what was written is adopted",
    )
