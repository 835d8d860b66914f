"""Beam runners by name.

Beam's default, `DirectRunner`, downloads a runner where it can, and otherwise uses another one. A local run must be the
same online and offline, so `local` always is the FnApiRunner, which is part of the Python SDK.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.runners.worker.statesampler import StateSampler

from pipeline.errors import JobError
from pipeline.runners import prism
from pipeline.runners.flags import check_flags, parse_flags
from pipeline.settings import LOCAL

_CONNECT_S = 1.5
_SAMPLING_MS = 10
_OF_A_RUNNER = re.compile(r"org\.apache\.beam\.runners\.(\w+)\.")

RUNNER_LOST = (grpc.RpcError, grpc.FutureTimeoutError)
"""The errors of submitting or watching a job whose runner does not answer."""


def open_runner(name: str) -> PipelineRunner:
    """Returns the runner with a name: `local`, or any name that Beam knows (FlinkRunner, PrismRunner, ...).

    Raises:
        JobError: Beam does not know the runner, or cannot make it.
    """
    if name == LOCAL:
        # Beam's sampler of what a stage spends its time on has no setting for its period, of 0.2 s. At the end of each
        # stage the runner waits for it.
        StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
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
        JobError: Beam does not know a flag, a program that the runner needs is missing, or its job server does not
            answer.
    """
    parse_flags(flags)  # Beam would end this process at a wrong value
    of_server: list[str] = []
    if endpoint := _endpoint(runner, flags):
        name = type(runner).__name__
        options = _server_options(name, endpoint, _portable(flags).job_server_timeout)
        of_server = [f"--{option.name}" for option in options]
    check_flags(runner, flags, of_server)
    if type(runner) is PortableRunner and not _portable(flags).job_endpoint:
        raise JobError(
            "PortableRunner needs the address of a job server", remedy="give it: -- --job_endpoint=HOST:PORT"
        )
    return prism.with_location(flags) if isinstance(runner, PrismRunner) else list(flags)


def describe_runner(runner: PipelineRunner, flags: Sequence[str]) -> dict[str, str]:
    """Returns facts about a runner, by name: its class, and its program or job server.

    Raises:
        JobError: As `beam_flags`.
    """
    flags, kind = beam_flags(runner, flags), type(runner)
    facts = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(runner, PrismRunner):
        facts |= prism.describe(flags)
    if endpoint := _endpoint(runner, flags):
        options = _server_options(facts["class"], endpoint, _portable(flags).job_server_timeout)
        runners = {match[1] for option in options if (match := _OF_A_RUNNER.match(option.group))}
        facts["job server"] = f"{', '.join(sorted(runners)) or 'an unknown runner'} at {endpoint}"
    return facts


def _portable(flags: Sequence[str]) -> PortableOptions:
    return PipelineOptions(list(flags)).view_as(PortableOptions)


def _endpoint(runner: PipelineRunner, flags: Sequence[str]) -> str:
    """Returns the address of the job server that the flags name; empty where Beam starts one itself."""
    address = _portable(flags).job_endpoint if isinstance(runner, PortableRunner) else None
    return address if address and address != "embed" else ""


def _server_options(name: str, address: str, timeout_s: float) -> Sequence[beam_job_api_pb2.PipelineOptionDescriptor]:
    """Returns the options that a job server lists; none where it lists none.

    Raises:
        JobError: Nothing listens at the address, which is found within seconds, or it does not answer in time.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise JobError(
            f"the runner {name} does not answer: {error}",
            where=f"--job_endpoint={address}",
            remedy="start the job server, or give the HOST:PORT at which it listens",
        ) from error
    try:
        with grpc.insecure_channel(address) as channel:
            describe = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions
            answer = describe(beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=timeout_s)
    except RUNNER_LOST as error:
        if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return []
        raise runner_lost(name, error, f"--job_endpoint={address}") from error
    options: Sequence[beam_job_api_pb2.PipelineOptionDescriptor] = answer.options
    return options


def runner_lost(name: str, error: grpc.RpcError | grpc.FutureTimeoutError, where: str = "") -> JobError:
    """Returns the `JobError` for an error of `RUNNER_LOST`."""
    status = error.code() if isinstance(error, grpc.Call) else None
    return JobError(
        f"the runner {name} does not answer" + (f": {status.name}, {error.details()}" if status else ""),
        where=where,
        why="it was not started, or it died; the table has either all of the run's changes or none",
        remedy="check its log and its address, then run again: the run reuses maps that were written",
    )
