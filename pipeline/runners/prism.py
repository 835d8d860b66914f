"""Prism, Beam's runner in Go: where its program is, and which version it is.

Beam would download it. What runs here was built here: densecast finds it, and says how to build it where it is not.
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

# Go writes into every program which modules it was built of.
_BUILT_OF = re.compile(rb"(?:mod|dep)\tgithub\.com/apache/beam/sdks/v2\t(v[0-9A-Za-z.+-]{1,64})[\t\n]")


def with_location(flags: Sequence[str]) -> list[str]:
    """Beam's flags, with the place of the program where they lack it: the `prism` that is on the PATH.

    Raises:
        JobError: There is no such program, or what the flags name is no file.
    """
    options = PipelineOptions(list(flags))
    if options.view_as(PortableOptions).job_endpoint:
        return list(flags)  # one that runs already
    named = options.view_as(PrismRunnerOptions).prism_location
    location = named or shutil.which("prism")
    if location is None:
        raise JobError(
            "PrismRunner needs the program prism, which is not on the PATH",
            why="Beam would download it; densecast runs nothing that was downloaded unasked",
            remedy=f"build it with Go: go install {PACKAGE}@v{beam_version} (or infra/prism/install), then put it"
            " on the PATH, or name it: -- --prism_location=FILE",
        )
    if version(Path(location)) is None:
        raise JobError(
            "is no Prism program: it does not say that it was built of Beam's Go module",
            where=f"--prism_location={location}",
            why="densecast runs a prism that is on this machine, and downloads none",
            remedy=f"name the program that `go install {PACKAGE}@v{beam_version}` builds",
        )
    return list(flags) if named else [*flags, f"--prism_location={location}"]


def about(flags: Sequence[str]) -> dict[str, str]:
    """Which program would run, and the version of Beam that it says it was built of; nothing of one that runs already.

    Raises:
        JobError: As `with_location`.
    """
    location = PipelineOptions(with_location(flags)).view_as(PrismRunnerOptions).prism_location
    return {"prism": str(version(Path(location))), "program": location} if location else {}


def version(program: Path) -> str | None:
    """The version of Beam's Go module that a program says it was built of; None where there is none that says so."""
    if not program.is_file() or not program.stat().st_size:
        return None
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _BUILT_OF.search(content)
        return found[1].decode() if found else None
