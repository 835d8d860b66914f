"""What a run checks before it reads an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion import read_metadata
from pipeline.errors import TableError
from pipeline.jobs import run
from pipeline.jobs.spec import describe_job
from pipeline.storage.errors import StorageError
from pipeline.table.paths import TableRoot
from tests.support.maintained import MODEL, publish_rows, scored


class Reached(Exception):  # noqa: N818 - the end of the checks
    pass


@pytest.mark.parametrize("output", ["file/maps", "/proc/maps", "dangling/maps"])
def test_an_output_that_cannot_be_written_is_found_before_scoring(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    def calibrate(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(run, "calibrate", calibrate)
    monkeypatch.setattr(run, "decide_engine", lambda *_: None)
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


@pytest.fixture
def two_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two images, whose maps in the table beside it are of another model; a run ends before it scores."""

    def calibrate(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(run, "calibrate", calibrate)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"")
    publish_rows(tmp_path / "maps", [scored(str(folder / name)) for name in ("a.jpg", "b.jpg")])
    return folder


@pytest.mark.parametrize(
    ("images", "policy"), [("", {}), ("a.jpg", {"prune": True}), ("a.jpg", {"mix_models": True})], ids=str
)
def test_maps_of_another_model_are_said_before_scoring(
    small_model: Path, two_images: Path, caplog: pytest.LogCaptureFixture, images: str, policy: dict[str, bool]
) -> None:
    """Another model replaced the maps of a table without a word."""
    output = str(two_images.with_name("maps"))
    job = describe_job(model=str(small_model), images=(str(two_images / images),), output=output, **policy)
    with caplog.at_level("WARNING", "densecast"), pytest.raises(Reached):
        run.run_job(job)
    assert f"used another model (digest {MODEL[:12]})" in caplog.text


def test_a_table_is_not_mixed_by_accident(small_model: Path, two_images: Path) -> None:
    output = str(two_images.with_name("maps"))
    job = describe_job(model=str(small_model), images=(str(two_images / "a.jpg"),), output=output)
    with pytest.raises(TableError, match=r"(?s)1 of its images are not listed.*--mix-models"):
        run.run_job(job)


def test_random_weights_are_said_before_scoring(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = read_metadata(small_model).model_copy(update={"random_weights": True})
    monkeypatch.setattr(run, "read_metadata", lambda _: metadata)
    monkeypatch.setattr(run, "check_root", lambda _: (_ for _ in ()).throw(Reached))
    with caplog.at_level("WARNING", "densecast"), pytest.raises(Reached):
        run.run_job(describe_job(model=str(small_model), images=("a.jpg",), output=str(tmp_path / "maps")))
    assert "are random: its classes mean nothing" in caplog.text
