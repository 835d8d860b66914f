"""Where the tests of this folder find what they run against; `make test-cluster` and `.ci/run` install it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DENSECAST = ROOT / ".venv/bin/densecast"


def installed(pattern: str, installer: str) -> Path:
    """A file below .cluster; skips the test where it is not, or fails it where it was to be installed.

    Args:
        pattern: Its name.
        installer: What brings it.
    """
    for path in (ROOT / ".cluster").glob(pattern):
        return path
    missing = f"{pattern} is not there: {installer} brings it"
    if os.environ.get("DENSECAST_CLUSTER_TOOLS") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
