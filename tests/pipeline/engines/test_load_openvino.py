"""OpenVINO is loaded without what its import sends and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError("a connection")

socket.socket.connect = socket.create_connection = refuse
from pipeline.engines.load_openvino import import_openvino
openvino = import_openvino()
assert import_openvino() is openvino
assert "openvino_telemetry" not in sys.modules
print("CPU" in openvino.Core().available_devices, sorted(name for name in sys.modules if "telemetry" in name))
"""


def test_the_import_sends_and_writes_nothing(tmp_path: Path):
    """In a home of its own: the package of statistics writes `intel/` into it when it is loaded."""
    pytest.importorskip("openvino_telemetry", reason="OpenVINO is in the extra `openvino`")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ")
    assert "openvino.tools.ovc.telemetry_stub" in done.stdout
    assert list(tmp_path.iterdir()) == []
