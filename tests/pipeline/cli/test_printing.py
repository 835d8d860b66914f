"""What is printed, and what becomes of a command whose output cannot be printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.table import Table

from pipeline.cli.console import fits, say, say_fields, say_json, say_lines, show, start_printing
from pipeline.cli.main import main
from pipeline.jobs.night_report import Report
from pipeline.jobs.run import JobResult
from pipeline.table.summaries import RunSummary
from tests.support import fakes, maintained
from tests.support.maintained import publish_rows

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
LOST = "densecast: the output cannot be printed: "


@pytest.fixture(autouse=True)
def streams_as_at_the_start() -> Iterator[None]:
    """What a test's streams refused would keep later tests of the process from printing."""
    yield
    start_printing()


def test_a_line_is_one_line_and_fields_stay_fields(capsys: Capture) -> None:
    say("a\nb\tc\x1b[2J\udcff")
    say_fields("a\tb", "c")
    say_lines("a\n  why: b\x1b")
    assert capsys.readouterr().out == "a\\nb\\tc\\x1b[2J\\udcff\na\\tb\tc\na\n  why: b\\x1b\n"


def test_json_is_exact_and_ascii(capsys: Capture) -> None:
    value = {"name": "\x1b\x7f\x9b\u202e\U0001f408\udcff[red]"}
    say_json(value)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert not set("\x1b\x7f") & set(printed)
    assert json.loads(printed) == value


def test_strings_in_tables_are_text(capsys: Capture) -> None:
    table = Table("[red]head[/]", title="[b]title", box=None)
    table.add_row("dig[/z]its :cat:\n\x1b[2J")
    show(table)
    printed = capsys.readouterr().out
    for text in ("[red]head[/]", "[b]title", r"dig[/z]its :cat:\n\x1b[2J"):
        assert text in printed


def test_a_table_fits_or_does_not(capsys: Capture) -> None:
    narrow, wide = (Table("a" * width, box=None) for width in (20, 300))
    assert fits(narrow)
    assert not fits(wide)
    assert not capsys.readouterr().out


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


WHY = {full: "No space left on device", closed: "its reader has closed it"}
each_loss = pytest.mark.parametrize("lost", WHY, ids=lambda kind: kind.__name__)


@contextmanager
def output_lost(kind: Callable[[], int]) -> Iterator[None]:
    """Standard output cannot be written. Not a fixture: pytest's capture puts its own stream in place after them."""
    with os.fdopen(kind(), "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@each_loss
@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 3)])
def test_the_outcome_of_a_run_does_not_depend_on_its_output(
    lost: Callable[[], int], capsys: Capture, monkeypatch: Patch, failed: bool, code: int
) -> None:
    summary = RunSummary("r", 1, 1, 1, {"listed": 2}, {}, {}, {})
    monkeypatch.setattr("pipeline.jobs.run.run_job", lambda _: JobResult(summary, 1.0, failed=failed))
    with output_lost(lost):
        assert run("score", "model", "photos", "-o", "maps") == code
    assert capsys.readouterr().err.splitlines()[0] == f"{LOST}{WHY[lost]}"


@each_loss
def test_a_night_is_reported_as_it_was(
    lost: Callable[[], int], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    fakes.write_model(tmp_path / "model")
    (tmp_path / "job.toml").write_text('model="model"\nimages="photos"\noutput="maps"\n[nightly]\nwebhook="env:HOOK"\n')
    posted: list[Report] = []

    def nights(*_: object, output: object, **__: object) -> Report:
        output.report("a line for people")  # type: ignore[attr-defined]
        return Report(job="job", exit_code=0, status="done")

    def post(_: str, report: Report) -> str:
        posted.append(report)
        return "sent"

    monkeypatch.setattr("pipeline.jobs.nightly.run_nights", nights)
    monkeypatch.setattr("pipeline.jobs.notify.post", post)
    with output_lost(lost):
        assert run("nightly", tmp_path / "job.toml") == 0
    assert [(report.exit_code, report.status) for report in posted] == [(0, "done")]
    assert capsys.readouterr().err == f"{LOST}{WHY[lost]}\n"


@each_loss
def test_a_listing_that_is_lost_has_failed_unless_its_reader_had_enough(
    lost: Callable[[], int], tmp_path: Path, capsys: Capture
) -> None:
    publish_rows(tmp_path / "maps", [maintained.rejected("a.jpg")])
    with output_lost(lost):
        assert run("rejected", tmp_path / "maps") == (0 if lost is closed else 1)
    assert capsys.readouterr().err == ("" if lost is closed else f"{LOST}{WHY[lost]}\n")


def test_a_whole_process_ends_quietly() -> None:
    """Python itself writes what is left at its end."""
    command = [sys.executable, "-m", "pipeline.cli", "models", "list"]
    with open("/dev/full", "w") as nowhere:
        done = subprocess.run(command, stdout=nowhere, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (1, f"{LOST}No space left on device\n")
    done = subprocess.run([*command], stdout=closed(), stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_without_docstrings_is_python_with_them() -> None:
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    for start, variables in (([sys.executable], environment), ([sys.executable, "-OO"], None)):
        command = [*start, "-m", "pipeline.cli", "score", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)
        assert done.returncode == 0, done.stderr
        assert "Write the classification map of every image" in done.stdout
