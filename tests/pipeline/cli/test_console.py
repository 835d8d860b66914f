"""What is kept quiet is noise, and nothing else."""

from __future__ import annotations

import subprocess
import sys

DYING = """
import threading
from pipeline.cli.console import quiet_threads

class Rpc(Exception):
    def __init__(self, status):
        self.status = status
    def code(self):
        return self.status

def fail(error):
    raise error

quiet_threads()
for error in (Rpc("StatusCode.CANCELLED"), Rpc("StatusCode.UNAVAILABLE"), ValueError("news")):
    thread = threading.Thread(target=fail, args=(error,))
    thread.start()
    thread.join()
"""


def test_only_a_hang_up_is_kept_still():
    """In a process of its own, since pytest has a hook of its own."""
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stderr.count("Traceback") == 2
    assert "StatusCode.UNAVAILABLE" in done.stderr
    assert "ValueError: news" in done.stderr
    assert "CANCELLED" not in done.stderr
