"""The programs that read what is in infra/, and the versions that the project pins. `infra/validate` installs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TOOLS = ROOT / ".venv-infra"


def tool(name: str, *, anywhere: bool = True) -> str:
    """The path of a program or file that `infra/validate` installs; skips the test where that has not been run.

    Args:
        name: Its name.
        anywhere: Whether one that the machine has does as well.
    """
    for found in (TOOLS / "bin" / name, TOOLS / "share" / name):
        if found.exists():
            return str(found)
    if anywhere and (elsewhere := shutil.which(name)):
        return elsewhere
    missing = f"{name} is not installed: infra/validate installs it, and then runs this test"
    if os.environ.get("DENSECAST_INFRA_TOOLS") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


def tools_python() -> str:
    """The Python that has the tools' libraries, and Beam with Google's."""
    return tool("python", anywhere=False)


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a program, its output and errors in one text."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(name: str = "constraints.txt") -> dict[str, str]:
    """The exact versions of a file of constraints."""
    lines = (ROOT / name).read_text().splitlines()
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines)}


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, in order: the word and what follows, lines joined."""
    lines = [line for line in (INFRA / "docker/Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in split]


def docker_arguments() -> dict[str, str]:
    """The Dockerfile's ARGs and their defaults."""
    return dict(rest.split("=", 1) for word, rest in dockerfile() if word == "ARG" and "=" in rest)
