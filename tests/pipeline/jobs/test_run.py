"""What a run checks before it reads an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.jobs import run
from pipeline.jobs.spec import describe_job
from pipeline.storage.errors import StorageError
from pipeline.table.paths import TableRoot


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
