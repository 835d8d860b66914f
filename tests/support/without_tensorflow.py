"""Runs a program where TensorFlow is not installed, as far as the program can see."""

from __future__ import annotations

import os
import subprocess
import sys

_HIDE = """
import importlib.util, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in {hidden} else find(name, package)
"""


def run_without_tensorflow(code: str, *arguments: str, also: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own; `also` names more packages that are not there."""
    hidden = repr({"tensorflow", "keras", *also})
    return subprocess.run(
        [sys.executable, "-c", _HIDE.format(hidden=hidden) + code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )
