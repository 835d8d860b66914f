"""No attack takes more than 200 MB beyond its file, and none hangs; all of them are run once more, in one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.attacks.measure import attacks

ALLOWED = 200_000_000


@pytest.mark.large
def test_memory_beyond_the_file():
    # The timeout is a guard against hangs: each attack has its own, which prints a stack.
    run = subprocess.run(
        [sys.executable, "-m", "tests.attacks.measure"], capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert sorted(line["attack"] for line in lines) == sorted(name for name, _ in attacks())
    over = [line for line in lines if line["grown"] > ALLOWED + line["size"]]
    assert not over, f"the first: {over[0]}"
