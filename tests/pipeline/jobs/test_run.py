"""What a run checks before it reads an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion import read_metadata
from pipeline.jobs import run
from pipeline.jobs.spec import describe_job
from pipeline.storage.errors import StorageError
from pipeline.table.paths import TableRoot
from tests.support.maintained import MODEL, mixed_rows, publish_rows


class Reached(Exception):  # noqa: N818 - the end of the checks
    pass


@pytest.mark.parametrize("output", ["file/maps", "/proc/maps", "dangling/maps"])
def test_an_output_that_cannot_be_written_is_found_before_scoring(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    def calibrate(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(run, "calibrate", calibrate)
    monkeypatch.setattr("pipeline.jobs.run.TensorFlowEngineFactory.check", lambda _: None)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("dangling").symlink_to("/proc/nowhere")
    Path("a.jpg").write_bytes(b"")
    job = {"model": str(small_model), "images": ("a.jpg",)}
    with pytest.raises(StorageError, match=r"cannot be (written|listed)|no such file") as caught:
        run.run_job(describe_job(**job, output=output))
    assert caught.value.remedy
    with pytest.raises(Reached):
        run.run_job(describe_job(**job, output="maps"))


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    run.check_writable(TableRoot(str(tmp_path / "new" / "maps")))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "maps").mkdir()
    run.check_writable(TableRoot(str(tmp_path / "maps")))
    assert list((tmp_path / "maps").iterdir()) == []


def test_maps_of_another_model_are_said_before_scoring(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another model replaced the maps of a table, or some of them, without a word."""

    def calibrate(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(run, "calibrate", calibrate)
    publish_rows(tmp_path / "maps", mixed_rows())
    job = describe_job(model=str(small_model), images=("a.jpg",), output=str(tmp_path / "maps"))
    with caplog.at_level("WARNING", "densecast"), pytest.raises(Reached):
        run.run_job(job)
    assert f"used another model (digest {MODEL[:12]})" in caplog.text


def test_random_weights_are_said_before_scoring(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = read_metadata(small_model).model_copy(update={"random_weights": True})
    monkeypatch.setattr(run, "read_metadata", lambda _: metadata)
    monkeypatch.setattr(run, "check_root", lambda _: (_ for _ in ()).throw(Reached))
    with caplog.at_level("WARNING", "densecast"), pytest.raises(Reached):
        run.run_job(describe_job(model=str(small_model), images=("a.jpg",), output=str(tmp_path / "maps")))
    assert "are random: its classes mean nothing" in caplog.text
