"""What start-up loads, in fresh processes: help, completion and light imports load nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Each takes tenths of a second, or more, to import.
HEAVY = {
    *("PIL", "apache_beam", "deltalake", "google", "grpc", "h5py", "keras", "numpy", "obstore", "prometheus_client"),
    *("pyarrow", "pydantic", "pydantic_core", "pyvips", "requests", "rich", "tensorflow", "tenacity"),
}

# Help and completion end in SystemExit, so the modules are listed at exit.
REPORT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
"""


def loaded(code: str, *arguments: str, **environment: str) -> tuple[set[str], str]:
    """Runs code in a fresh process; returns the names of all modules that it loaded, and its output."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


def heavy(modules: set[str]) -> set[str]:
    """Returns what is too heavy for start-up."""
    layers = {name for name in modules if name.startswith("conversion.layers")}
    return {name.split(".")[0] for name in modules} & HEAVY | layers


COMMAND = "from pipeline.cli.main import main; main(sys.argv[1:])"
COMMANDS = [
    *(
        "demo",
        "convert",
        "inspect",
        "models",
        "export",
        "compare",
        "score",
        "show",
        "rejected",
        "nightly",
        "drift",
        "runs",
        "check",
    ),
    *("compact", "vacuum", "restore", "verify", "verify-runner", "bench", "cast", "upgrade"),
]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS), ["models", "fetch"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]):
    modules, output = loaded(COMMAND, *arguments, "--help")
    assert output.startswith(f"Usage: {' '.join(['densecast', *arguments])}")
    assert not heavy(modules)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("densecast ", COMMANDS),
        ("densecast ver", ["verify", "verify-runner"]),
        ("densecast convert --output-", ["--output-blob", "--output-stride"]),
        ("densecast score --precision b", ["bfloat16"]),
    ],
)
def test_completion_loads_nothing_heavy(words: str, expected: list[str]):
    modules, output = loaded(
        COMMAND,
        _DENSECAST_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert [line.partition(",")[2] for line in output.splitlines()] == expected
    assert not heavy(modules)


def test_a_command_loads_its_own_module_alone():
    modules, _ = loaded(COMMAND, "compact", "--help")
    commands = {name for name in modules if name.startswith("pipeline.cli.commands.")}
    assert commands == {"pipeline.cli.commands.maintenance", "pipeline.cli.commands.options"}


def test_errors_of_conversion_load_nothing_else_of_it():
    modules, _ = loaded("from conversion import errors")
    assert {name for name in modules if name.startswith("conversion.")} == {"conversion.errors"}
    assert not heavy(modules)


def test_reading_a_table_loads_neither_beam_nor_tensorflow_nor_rich():
    modules, _ = loaded("from pipeline import MapTable; MapTable")
    assert not {name.split(".")[0] for name in modules} & {"apache_beam", "tensorflow", "keras", "rich", "click"}


LEAN = """
from pipeline.quiet_beam import import_lean_beam
import_lean_beam()
import pipeline.jobs.run, pyarrow, numpy
pyarrow.array([numpy.zeros(3, "f4"), None], type=pyarrow.list_(pyarrow.float32()))
"""


def test_a_command_that_scores_loads_nothing_for_packages_that_it_does_not_use():
    modules, _ = loaded(LEAN)
    assert "apache_beam" in modules
    packages = {name.split(".")[0] for name in modules}
    assert not packages & {"pandas", "pymongo", "bson", "tensorflow", "onnx", "onnxruntime"}
    assert "apache_beam.io.gcp.bigquery" not in modules


def test_garbage_collection_leaves_out_what_a_command_has_imported():
    loaded(f"{LEAN}import gc\nif gc.get_freeze_count() < 10_000: raise SystemExit('collected')")


def test_what_is_not_loaded_at_the_start_can_be_imported_later():
    modules, _ = loaded(f"{LEAN}import bson, apache_beam.io.gcp.bigquery, apache_beam.io.mongodbio")
    assert {"bson", "apache_beam.io.gcp.bigquery"} <= modules
