"""Addresses do not depend on the locale: a process that does not read file names as UTF-8 is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources.reference import resolve
from pipeline.storage.errors import UnavailableError
from pipeline.storage.factory import open_store

_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}


def densecast(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=_ENVIRONMENT | environment,
        cwd=Path(__file__).parents[3],
        check=False,
    )


@pytest.mark.parametrize("command", [("score", "m", "i", "-o", "o"), ("show", "maps", "a.jpg"), ("rejected", "maps")])
def test_names_that_are_not_utf8_are_refused_before_anything_is_done(command: tuple[str, ...]):
    done = densecast(*command, LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 1
    assert "reads file names as" in done.stderr
    assert "LC_ALL=C.UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_utf8_and_the_c_locale_is_utf8_by_default():
    assert densecast("score", "--help", LC_ALL="C", PYTHONUTF8="0").returncode == 0
    assert "reads file names" not in densecast("rejected", "maps", LC_ALL="C").stderr


def test_latin_1_is_refused(tmp_path: Path):
    localedef = shutil.which("localedef")
    if localedef is None or not Path("/usr/share/i18n/charmaps/ISO-8859-1.gz").exists():
        pytest.skip("this machine cannot make a locale")
    made = subprocess.run(
        [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")], check=False
    )
    if made.returncode:
        pytest.skip("this machine cannot make the locale")
    done = densecast("rejected", "maps", LC_ALL="en_US.ISO-8859-1", LOCPATH=str(tmp_path))
    assert "reads file names as iso8859-1" in done.stderr


def test_the_library_and_workers_refuse_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(SourceError, match=r"(?s)reads file names as iso8859-1.*PYTHONUTF8=1"):
        resolve("ü.jpg")
    # Not the fault of one image: a worker ends the run.
    with pytest.raises(UnavailableError):
        open_store("/ü.jpg")
    open_store("s3://bucket/ü.jpg")
