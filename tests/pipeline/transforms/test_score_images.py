"""The whole job with a fake engine on the pinned local runner: the invariant, and what the caller is told."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from deltalake import DeltaTable
from PIL import Image

from pipeline import MapTable, ScoreImages
from pipeline.errors import JobError, SourceError, TableError, WorkerError
from pipeline.jobs.run import run_job
from pipeline.jobs.spec import describe_job
from pipeline.jobs.submit import worker_error
from pipeline.maintenance.check import check
from pipeline.maps.recipe import Recipe
from pipeline.runners.registry import open_runner
from pipeline.transforms.list_images import ListImages
from pipeline.units import parse_share
from tests.support.fakes import FakeEngine, probabilities, write_model

RECIPE = Recipe(k=2)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(24):
        height, width = (32, 40) if n % 4 else (48, 24)
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{n:02d}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    (folder / "tiny.png").write_bytes((folder / "i00.png").read_bytes())
    Image.new("RGB", (4, 4)).save(folder / "tiny.png")
    return folder


def score(collection: Path, output: Path, model: Path, run_id: str = "", flush_bytes: int = 4000) -> None:
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        published = (
            pipeline
            | ListImages([str(collection)])
            | ScoreImages(
                str(model), str(output), RECIPE, run_id=run_id, flush_bytes=flush_bytes, open_engine=FakeEngine
            )
        )
        assert_that(published | beam.Map(lambda run: (run.scored, run.rejected)), equal_to([(24, 2)]))


def test_every_image_is_one_row_and_every_map_its_own(tmp_path: Path, collection: Path):
    score(collection, tmp_path / "maps", write_model(tmp_path / "model"))
    table = MapTable(str(tmp_path / "maps"))
    uris = table.to_arrow(["uri"])["uri"].to_pylist()
    assert sorted(map(str, uris)) == sorted(str(path) for path in collection.iterdir())
    assert len(table.files()) > 1, "parts are flushed by size while the bundle runs"
    assert {Path(r.uri).name: r.reason for r in table.rejections()} == {
        "broken.jpg": "truncated",
        "tiny.png": "too-small",
    }
    for found in table:
        expected = probabilities(np.asarray(Image.open(found.uri)))
        np.testing.assert_array_equal(found.classes[..., 0], expected.argmax(-1))
        assert found.label(0, 0) == ("red", "green", "blue", "dark")[expected[0, 0].argmax()]
        assert found.window(1, 1) == (8, 8, 24, 24)


def test_rows_name_their_best_classes(tmp_path: Path, collection: Path):
    score(collection, tmp_path / "maps", write_model(tmp_path / "model"))
    table = MapTable(str(tmp_path / "maps"))
    names = {row["uri"]: row["best_labels"] for row in table.to_arrow(["uri", "best_labels"]).to_pylist()}
    for cells in table:
        best = cells.classes[..., 0].ravel().tolist()
        in_order = sorted(set(best), key=lambda number: (-best.count(number), number))
        assert names.pop(cells.uri) == [cells.labels[number] for number in in_order]
    assert list(names.values()) == [None, None], "rejections have no classes"


def test_two_tables_of_the_same_images_are_identical(tmp_path: Path, collection: Path):
    model = write_model(tmp_path / "model")
    tables = []
    for name, flush in (("a", 4000), ("b", 10**8)):
        score(collection, tmp_path / name, model, flush_bytes=flush)
        rows = MapTable(str(tmp_path / name)).to_arrow().drop_columns(["run_id", "scored_at"])
        tables.append(rows.sort_by("uri"))
    assert tables[0].equals(tables[1])


def test_publishing_a_run_twice_changes_nothing(tmp_path: Path, collection: Path):
    model = write_model(tmp_path / "model")
    for _ in range(2):
        score(collection, tmp_path / "maps", model, run_id="one")
    assert MapTable(str(tmp_path / "maps")).version == 0
    assert MapTable(str(tmp_path / "maps")).to_arrow(["uri"]).num_rows == 26


def test_rows_that_another_program_deleted_are_scored_again(tmp_path: Path, collection: Path):
    model, maps = write_model(tmp_path / "model"), tmp_path / "maps"
    score(collection, maps, model)
    before = MapTable(str(maps)).to_arrow().drop_columns(["run_id", "scored_at"]).sort_by("uri")
    DeltaTable(maps).delete(f"uri = '{collection}/i03.png'")
    DeltaTable(maps).optimize.z_order(["map_digest"])
    assert len(MapTable(str(maps))) == 23
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        _ = (
            pipeline
            | ListImages([str(collection)])
            | ScoreImages(str(model), str(maps), RECIPE, run_id="again", open_engine=FakeEngine)
        )
    summary = MapTable(str(maps)).runs()[-1]
    assert (summary["scored"], summary["rejected"], summary["images"]["keep"]) == (1, 0, 25)
    after = MapTable(str(maps)).to_arrow().drop_columns(["run_id", "scored_at"]).sort_by("uri")
    assert after.equals(before)
    assert check(str(maps)).clean


def test_labels_of_a_list_reach_the_table(tmp_path: Path, collection: Path):
    listed = collection / "train.txt"
    listed.write_text("i00.png 3\ni01.png 0\nbroken.jpg 7\n")
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        _ = (
            pipeline
            | ListImages([str(listed)])
            | ScoreImages(str(write_model(tmp_path / "model")), str(tmp_path / "maps"), RECIPE, open_engine=FakeEngine)
        )
    rows = MapTable(str(tmp_path / "maps")).to_arrow(["uri", "status", "label"]).to_pylist()
    assert {(Path(row["uri"]).name, row["status"], row["label"]) for row in rows} == {
        ("i00.png", "scored", "3"),
        ("i01.png", "scored", "0"),
        ("broken.jpg", "rejected", "7"),
    }


def test_an_empty_collection_publishes_an_empty_table(tmp_path: Path):
    model = write_model(tmp_path / "model")
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        _ = pipeline | beam.Create([]) | ScoreImages(model, tmp_path / "maps", open_engine=FakeEngine)
    assert len(MapTable(tmp_path / "maps")) == 0


class TestJob:
    """`run_job`, with the engine of ScoreImages replaced."""

    @pytest.fixture(autouse=True)
    def _fake(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pipeline.jobs.submit.ScoreImages", functools.partial(ScoreImages, open_engine=FakeEngine))

    def test_result_and_summary(self, tmp_path: Path, collection: Path):
        model, output = write_model(tmp_path / "model"), tmp_path / "maps"
        for name in ("phone.HEIC", "notes.txt", "more.heic", ".DS_Store", "half.heic.partial"):
            (collection / name).touch()
        job = describe_job(model=str(model), images=[str(collection)], output=str(output), max_rejected="10%")
        result = run_job(job)
        assert result.left_out == {".heic": 2, ".txt": 1, "hidden files": 1, "unfinished files": 1}
        assert (result.summary.scored, result.summary.rejected) == (24, 2)
        assert result.summary.reasons == {"truncated": 1, "too-small": 1}
        assert result.summary.images["listed"] == result.summary.images["read"] == 26
        assert not result.failed, "2 of 26 is below 10 %"
        (summary,) = MapTable(str(output)).runs()
        assert summary["job"]["images"] == [str(collection)]
        assert summary["run_id"] == job.run_id

    def test_too_many_rejections_fail_the_run_but_keep_the_table(self, tmp_path: Path, collection: Path):
        model, output = write_model(tmp_path / "model"), tmp_path / "maps"
        result = run_job(
            describe_job(model=str(model), images=[str(collection)], output=str(output), max_rejected=0.05)
        )
        assert result.failed
        assert len(MapTable(str(output))) == 24

    def test_a_worker_that_fails_is_reported_in_its_own_words_and_nothing_is_published(self, tmp_path: Path):
        listing = tmp_path / "list.csv"
        listing.write_text("uri,id\na.png,1\na.png,2\n")
        model, output = write_model(tmp_path / "model"), tmp_path / "maps"
        with pytest.raises(SourceError, match=r"failed: .*listed with the id"):
            run_job(describe_job(model=str(model), images=[f"@{listing}"], output=str(output)))
        with pytest.raises(TableError):
            MapTable(str(output))


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", 0), ("max_rejected", "200%"), ("images", []), ("scores", "float64"), ("colour", "red"), ("output", "")],
)
def test_a_bad_job_names_its_field(field: str, value: object):
    good = {"model": "m", "images": ["i"], "output": "o"}
    with pytest.raises(JobError) as caught:
        describe_job(**{**good, field: value})
    assert field in str(caught.value)


@pytest.mark.parametrize("text", ["", "five", "-1%", "101%", "1.01", "5%%", "nan"])
def test_share_refuses(text: str):
    with pytest.raises(JobError):
        parse_share(text)


def test_direct_runner_is_refused_with_its_reason():
    with pytest.raises(JobError, match="offline"):
        open_runner("DirectRunner")
    with pytest.raises(JobError, match="there is no runner"):
        open_runner("NoSuchRunner")


def test_worker_error_takes_the_last_exception_of_a_chain():
    text = "ValueError: first\n\nDuring handling:\n\nTraceback:\nbuiltins.OSError: disk full\nsecond line"
    assert worker_error(text + " [while running 'X']") == (WorkerError, "disk full\nsecond line")
    assert worker_error("") == (WorkerError, "no reason given")


def test_summary_is_json(tmp_path: Path, collection: Path):
    score(collection, tmp_path / "maps", write_model(tmp_path / "model"), run_id="named")
    summary = json.loads((tmp_path / "maps" / "_densecast" / "runs" / "named.json").read_text())
    assert summary["images"]["listed"] == 26
    assert sum(part["rows"] for part in summary["parts"]) == 26


class Endless(dict[str, object]):
    """A mapping that contains itself."""

    def __init__(self) -> None:
        super().__init__()
        self["self"] = self


@pytest.mark.parametrize(
    "summary",
    [
        {"folder": Path("photos")},
        {"share": float("nan")},
        {"share": float("inf")},
        {"names": {"a"}},
        {(1, 2): "a"},
        {"name": "\udcff"},
        Endless(),
        {"count": np.int64(3)},
        7,
    ],
    ids=str,
)
def test_a_summary_that_is_not_json_is_refused_before_anything_runs(tmp_path: Path, summary: Any):
    model = write_model(tmp_path / "model")
    with pytest.raises(JobError, match="summary cannot be written as JSON"):
        ScoreImages(str(model), str(tmp_path / "maps"), summary=summary)


def test_entries_of_a_summary_are_kept_as_they_were_given(tmp_path: Path, collection: Path):
    model, maps, entries = (
        write_model(tmp_path / "model"),
        tmp_path / "maps",
        {"night": {"names": ["Übung"], "part": 3}},
    )
    transform = ScoreImages(str(model), str(maps), RECIPE, open_engine=FakeEngine, summary=entries)
    entries["night"]["part"] = Path("changed later")
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        _ = pipeline | ListImages([str(collection)]) | transform
    assert MapTable(str(maps)).runs()[-1]["night"] == {"names": ["Übung"], "part": 3}
