"""The S3-compatible server of `infra/s3/server`: started, killed and started again by tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.tools import ROOT, installed

BUILT = "s3/bin/versitygw-*"
PROGRAM = ROOT / "infra/s3/server"
PATIENCE_S = 60.0


class Server:
    """A server with a bucket, its data in a folder.

    Args:
        state: The folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self.environment: dict[str, str] = {}

    @property
    def bucket(self) -> str:
        """The bucket's address."""
        return f"s3://{self.environment['DENSECAST_S3_BUCKET']}"

    def start(self, *flags: str) -> None:
        """Starts it, on the port that it had; returns when it answers."""
        told = self._do("start", *flags)
        self.environment = dict(re.findall(r"^export (\w+)=(.*)$", told, re.MULTILINE))

    def stop(self) -> None:
        self._do("stop")

    def crash(self) -> None:
        """Kills it, as a machine that loses its power does; returns when nothing listens any more."""
        pid = int((self._state / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while self.answers():
            assert time.monotonic() < deadline, "the server did not die"

    def answers(self) -> bool:
        return subprocess.run([PROGRAM, "status", "--state", self._state], capture_output=True).returncode == 0

    def add_user(self, name: str, secret: str) -> None:
        """An account that is allowed nothing."""
        program = installed(BUILT, "infra/s3/server build")
        keys = [
            "--access",
            self.environment["AWS_ACCESS_KEY_ID"],
            "--secret",
            self.environment["AWS_SECRET_ACCESS_KEY"],
        ]
        place = ["--endpoint-url", self.environment["AWS_ENDPOINT_URL"]]
        user = ["create-user", "--access", name, "--secret", secret, "--role", "user"]
        subprocess.run([program, "admin", *keys, *place, *user], check=True, capture_output=True, timeout=PATIENCE_S)

    def _do(self, command: str, *flags: str) -> str:
        done = subprocess.run(
            [PROGRAM, command, "--state", self._state, *flags], capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def served(state: Path) -> Iterator[Server]:
    """A server, for a fixture."""
    installed(BUILT, "infra/s3/server build")
    server = Server(state)
    server.start()
    try:
        yield server
    finally:
        server.stop()
