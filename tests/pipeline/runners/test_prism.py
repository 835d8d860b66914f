"""Prism is found where it is, and never downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from apache_beam.runners.portability.prism_runner import PrismJobServer

from pipeline.errors import JobError
from pipeline.runners import prism


def program(path: Path, version: str = "v2.77.0") -> Path:
    """What a Go program says of itself lies somewhere in it."""
    lines = f"path\tcommand\nmod\tgithub.com/apache/beam/sdks/v2\t{version}\th1:abc=\ndep\tcloud.google.com/go\tv0.1\n"
    path.write_bytes(b"\x7fELF" + bytes(5000) + lines.encode() + bytes(100))
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty PATH; and a download, which Beam would start, fails the test."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(PrismJobServer, "_download_to_local_path", lambda *_: pytest.fail("a download"))


def test_the_one_on_the_path_is_taken(tmp_path: Path):
    found = program(tmp_path / "prism")
    assert prism.with_location(["--job_name=a"]) == ["--job_name=a", f"--prism_location={found}"]
    assert prism.describe([]) == {"prism": "v2.77.0", "program": str(found)}


def test_the_one_that_is_named_is_taken_whatever_is_on_the_path(tmp_path: Path):
    program(tmp_path / "prism")
    flags = [f"--prism_location={program(tmp_path / 'mine', 'v2.78.0')}"]
    assert prism.with_location(flags) == flags
    assert prism.describe(flags)["prism"] == "v2.78.0"


def test_without_one_the_error_says_how_to_build_it():
    with pytest.raises(JobError, match="not on the PATH") as raised:
        prism.with_location([])
    assert raised.value.remedy is not None
    assert "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2." in raised.value.remedy


@pytest.mark.parametrize(
    "location",
    [
        "https://github.com/apache/beam/releases/tag/v2.77.0",
        "gs://bucket/prism",
        "/no/such/file",
        "/bin/sh",
        "/",
    ],
)
def test_what_is_no_prism_on_this_machine_is_refused(location: str):
    with pytest.raises(JobError, match="is not a Prism program"):
        prism.with_location([f"--prism_location={location}"])


def test_an_empty_file_is_no_prism(tmp_path: Path):
    (tmp_path / "prism").touch(mode=0o755)
    with pytest.raises(JobError, match="is not a Prism program"):
        prism.with_location([])


def test_one_that_runs_already_needs_no_program():
    flags = ["--job_endpoint=localhost:8073"]
    assert prism.with_location(flags) == flags
    assert prism.describe(flags) == {}
