"""Which Beam runner runs a job.

Beam's own default, `DirectRunner`, downloads a runner where it can and takes another where it cannot. A local run must
be the same online and offline, so `local` is pinned to the FnApiRunner, which is part of the Python SDK.
"""

from __future__ import annotations

from typing import Any

from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner

from pipeline.errors import JobError

LOCAL = "local"


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
