"""The path and the version of the program of Prism, Beam's runner in Go.

Beam would download the program. densecast runs only a program that the user has built, and reports how to build it.
"""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, PrismRunnerOptions
from apache_beam.version import __version__ as beam_version

from pipeline.errors import JobError

PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"

# Go writes the modules that a program was built from into the program.
_BUILT_FROM = re.compile(rb"(?:mod|dep)\tgithub\.com/apache/beam/sdks/v2\t(v[0-9A-Za-z.+-]{1,64})[\t\n]")


def with_location(flags: Sequence[str]) -> list[str]:
    """Returns Beam's flags with the path of the program, by default that of `prism` on the PATH.

    Raises:
        JobError: The program does not exist, or is not Prism.
    """
    options = PipelineOptions(list(flags))
    if options.view_as(PortableOptions).job_endpoint:
        return list(flags)  # a Prism that is running already
    named = options.view_as(PrismRunnerOptions).prism_location
    location = named or shutil.which("prism")
    if location is None:
        raise JobError(
            "PrismRunner needs the program prism, which is not on the PATH",
            why="Beam would download it, but densecast does not run programs that you did not ask for",
            remedy=f"build it with Go: go install {PACKAGE}@v{beam_version} (or infra/prism/install), then put it"
            " on the PATH, or name it: -- --prism_location=FILE",
        )
    if version(Path(location)) is None:
        raise JobError(
            "is not a Prism program: it does not contain the version of Beam's Go module",
            where=f"--prism_location={location}",
            why="densecast runs a prism that is on this machine, and does not download one",
            remedy=f"name the program that `go install {PACKAGE}@v{beam_version}` builds",
        )
    return list(flags) if named else [*flags, f"--prism_location={location}"]


def describe(flags: Sequence[str]) -> dict[str, str]:
    """Returns the path of the program and its version of Beam; empty where the flags name a running Prism.

    Raises:
        JobError: As `with_location`.
    """
    location = PipelineOptions(with_location(flags)).view_as(PrismRunnerOptions).prism_location
    return {"prism": str(version(Path(location))), "program": location} if location else {}


def version(program: Path) -> str | None:
    """Returns the version of Beam's Go module in a program; None where the program or its version is missing."""
    if not program.is_file() or not program.stat().st_size:
        return None
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = _BUILT_FROM.search(content)
        return match[1].decode() if match else None
