"""Runs into a table that is there: what is new is scored, what is not is left alone, and no image is twice in it."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import ListImages, MapTable, ScoreImages
from pipeline.images import decoding_rules
from pipeline.images.decoding_rules import Decoding, Rules
from pipeline.jobs.run import too_many_rejected
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.maps.recipe import Recipe
from pipeline.runners.options import SharedViews
from pipeline.runners.registry import open_runner
from pipeline.settings import Frames
from pipeline.table.schema import IDENTITY
from pipeline.table.summaries import RunSummary, read_summary
from tests.support.fakes import METADATA, FakeEngine, write_model


class Collection:
    """A folder of images, its model and its table."""

    def __init__(self, root: Path) -> None:
        self.images, self.output = root / "images", root / "maps"
        self.images.mkdir()
        self.model = write_model(root / "model")
        self._runs = 0

    def put(self, name: str, seed: int) -> None:
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.images / name)

    def run(
        self,
        recipe: Recipe | None = None,
        output: Path | None = None,
        sources: Sequence[str] = (),
        frames: Frames = Frames.FIRST,
        **options: Any,
    ) -> RunSummary:
        self._runs += 1
        run_id = f"run{self._runs}"
        listing = ListImages([*(sources or [str(self.images)])], frames=frames)
        score = ScoreImages(
            self.model, output or self.output, recipe or Recipe(k=2), run_id=run_id, open_engine=FakeEngine, **options
        )
        with beam.Pipeline(runner=open_runner("local"), options=SharedViews([])) as pipeline:
            _ = pipeline | listing | score
        return read_summary(str(output or self.output), run_id)

    def rows(self, output: Path | None = None) -> pa.Table:
        """The table's rows, each identity once."""
        rows = MapTable(output or self.output).to_arrow()
        identities = rows.select(list(IDENTITY)).to_pylist()
        assert len({tuple(row.values()) for row in identities}) == len(identities)
        return rows.sort_by([(name, "ascending") for name in IDENTITY])

    def statuses(self) -> dict[str, str]:
        return {Path(row["uri"]).name: row["status"] for row in self.rows().select(["uri", "status"]).to_pylist()}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    made = Collection(tmp_path)
    for number in range(6):
        made.put(f"{number}.png", number)
    (made.images / "bad.jpg").write_bytes(b"no image")
    return made


def same_maps(left: pa.Table, right: pa.Table) -> bool:
    return bool(left.drop_columns(["run_id", "scored_at"]).equals(right.drop_columns(["run_id", "scored_at"])))


def test_an_unchanged_collection_is_not_read(collection: Collection):
    first = collection.run()
    assert (first.images["read"], first.scored, first.rejected) == (7, 6, 1)
    before = collection.rows()
    second = collection.run()
    assert "read" not in second.images
    assert (second.scored, second.rejected, second.images["keep"], second.images["still_rejected"]) == (0, 0, 7, 1)
    assert second.version == 1
    assert collection.rows().equals(before)


def test_what_changed_is_superseded_and_what_was_touched_is_not_scored(collection: Collection):
    collection.run()
    before = {row["uri"]: row for row in collection.rows().to_pylist()}
    collection.put("1.png", 100)
    os.utime(collection.images / "2.png", ns=(1, 1))
    collection.put("new.png", 7)
    second = collection.run()
    assert (second.scored, second.rejected) == (2, 0)
    assert (second.images["read"], second.images["probed"], second.images["update"]) == (4, 2, 1)
    after = {row["uri"]: row for row in collection.rows().to_pylist()}
    assert len(after) == 8
    for uri, row in before.items():
        name = Path(uri).name
        assert (after[uri]["map_digest"] == row["map_digest"]) == (name != "1.png")
        assert (after[uri]["run_id"] == "run1") == (name != "1.png")
        assert (after[uri] == row) == (name not in ("1.png", "2.png"))
    assert collection.run().images["keep"] == 8
    assert len(MapTable(collection.output, version=0)) == 6, "the first night can still be read"


def test_another_recipe_replaces_all_rows(collection: Collection):
    collection.run()
    second = collection.run(Recipe(k=2, scales=(1.0, 0.75)))
    assert (second.scored, second.rejected) == (12, 2)
    assert collection.rows().num_rows == 14
    assert collection.run(Recipe(k=2)).scored == 6
    assert collection.rows().num_rows == 7


def test_deleted_images_are_marked_if_asked_and_come_back(collection: Collection):
    collection.run()
    kept = (collection.images / "3.png").read_bytes()
    (collection.images / "3.png").unlink()
    assert collection.run().images["absent"] == 1
    assert collection.statuses()["3.png"] == "scored"
    assert collection.run(prune=True).images["delete"] == 1
    assert collection.statuses()["3.png"] == "deleted"
    assert collection.run(prune=True).images["absent"] == 1
    (collection.images / "3.png").write_bytes(kept)
    assert collection.run(prune=True).scored == 1
    assert collection.statuses() == {**{f"{n}.png": "scored" for n in range(6)}, "bad.jpg": "rejected"}


def test_a_folder_that_is_not_mounted_does_not_delete_the_table(collection: Collection, tmp_path: Path):
    collection.run()
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(collection.images / "0.png", tmp_path / "elsewhere" / "other.png")
    with pytest.raises(RuntimeError, match="7 of the table's 7 images are not listed"):
        collection.run(sources=[str(tmp_path / "elsewhere")], prune=True)
    assert MapTable(collection.output).version == 0
    collection.run(sources=[str(tmp_path / "elsewhere")], prune=True, max_pruned=1.0)
    assert set(collection.statuses().values()) == {"deleted", "scored"}


def test_rejected_images_are_tried_again_on_demand(collection: Collection):
    collection.run()
    assert collection.run(retry_rejected=True).images["read"] == 1
    assert collection.run(rescore=True).scored == 6
    assert collection.rows().num_rows == 7


def test_a_resumed_run_is_row_for_row_an_undisturbed_one(collection: Collection, tmp_path: Path, monkeypatch: Any):
    undisturbed = tmp_path / "undisturbed"
    collection.run(output=undisturbed)
    with monkeypatch.context() as patch:

        def die(*_: Any, **__: Any) -> None:
            raise OSError("killed before the commit")

        patch.setattr("pipeline.transforms.publish_fn.commit", die)
        with pytest.raises(OSError, match="killed before the commit"):
            collection.run(flush_bytes=1)
    assert len(list(collection.output.glob("part-run2-*.parquet"))) == 7
    resumed = collection.run()
    assert (resumed.images["adopt"], resumed.images["score"], resumed.images["read"]) == (6, 1, 1)
    assert (resumed.scored, resumed.rejected) == (6, 1)
    assert same_maps(collection.rows(), collection.rows(undisturbed))
    assert set(collection.rows()["run_id"].to_pylist()) == {"run3"}
    assert collection.run().images["keep"] == 7


def test_of_a_dead_run_only_what_is_still_true_is_adopted(collection: Collection, monkeypatch: Any):
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.transforms.publish_fn.commit", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            collection.run(flush_bytes=1)
    damaged, *_ = sorted(collection.output.glob("part-*.parquet"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data)
    collection.put("1.png", 100)
    (collection.images / "2.png").unlink()
    summary = collection.run()
    adopted = summary.images["adopt"]
    assert adopted in (3, 4), "one image changed, one is gone, and one part is damaged, perhaps that of the bad image"
    assert summary.scored == 5
    assert collection.rows().num_rows == 6


def test_an_image_that_is_listed_twice_counts_once(collection: Collection):
    sources = [str(collection.images), str(collection.images / "*.png"), str(collection.images / "1.png")]
    assert collection.run(sources=sources).images["listed"] == 7
    assert collection.rows().num_rows == 7


def test_a_file_that_is_still_missing_keeps_its_row_and_one_that_came_is_scored(collection: Collection, tmp_path: Path):
    """Else every night would rewrite the parts that hold such rows."""
    listing = tmp_path / "list.txt"
    listing.write_text("images/0.png\nimages/late.png\nimages/never.png\n")
    collection.run(sources=[str(listing)])
    before = collection.rows()
    again = collection.run(sources=[str(listing)])
    assert (again.images["keep"], again.images["still_rejected"], again.images.get("read", 0)) == (3, 2, 0)
    assert collection.rows().equals(before)
    collection.put("late.png", 9)
    assert collection.run(sources=[str(listing)]).scored == 1
    assert collection.statuses() == {"0.png": "scored", "late.png": "scored", "never.png": "rejected"}


def test_an_orphan_that_was_used_is_not_read_every_night(collection: Collection, monkeypatch: Any):
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.transforms.publish_fn.commit", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            collection.run(flush_bytes=1)
    assert collection.run().images["adopt"] == 6
    read: list[str] = []
    monkeypatch.setattr("pipeline.transforms.inventory.read_orphan", lambda _, part, rounding: read.append(part) or [])
    assert collection.run().images["keep"] == 7
    assert len(read) <= 1, "no map was in that of the rejected image, so nothing was taken from it"


def test_the_share_of_rejections_is_the_same_when_nothing_changes(collection: Collection):
    job = describe_job(model="m", images=["i"], output="o", scales=(1.0, 0.5), max_rejected=0.5)
    recipe = Recipe(k=2, scales=(1.0, 0.5))  # at half size all are too small
    first, second = collection.run(recipe), collection.run(recipe)
    assert (first.rejected, second.images["still_rejected"]) == (8, 8)
    assert too_many_rejected(job, first)
    assert too_many_rejected(job, second)


def test_a_web_address_with_an_etag_is_neither_read_nor_scored_again(tmp_path: Path):
    collection = Collection(tmp_path)
    collection.put("0.png", 0)
    data = (collection.images / "0.png").read_bytes()
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.headers.get('If-None-Match', '')}".strip())
            known = self.headers.get("If-None-Match") == '"one"'
            self.send_response(304 if known else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(0 if known else len(data)))
            self.end_headers()
            if not known and self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - http.server asks for the name

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        listing = tmp_path / "list.txt"
        listing.write_text(f"http://127.0.0.1:{server.server_port}/0.png\n")
        first = collection.run(sources=[str(listing)])
        second = collection.run(sources=[str(listing)])
        server.shutdown()
        thread.join()
    assert (first.scored, first.images["read"]) == (1, 1)
    assert (second.scored, second.images["keep"], second.images.get("read", 0)) == (0, 1, 0)
    assert '"one"' in asked[-1]


def test_maps_of_older_decoding_rules_are_made_again(collection: Collection, monkeypatch: pytest.MonkeyPatch):
    """The table was written before rules had versions; then the rules of TIFF changed, and what JPEG accepts."""
    monkeypatch.setattr(decoding_rules, "_RULES", {name: Rules() for name in decoding_rules.rules()})
    collection.put("c.tif", 20)
    shutil.copy(collection.images / "c.tif", collection.images / "tiff")
    shutil.copy(collection.images / "0.png", collection.images / "png")
    everything = [str(collection.images / "*")]
    with monkeypatch.context() as old:
        old.setattr(Recipe, "decoding", lambda recipe, file_type: Decoding())
        collection.run(sources=everything)
    before = collection.rows()
    assert set(before["recipe"].to_pylist()) == {Recipe(k=2).of_model(METADATA.digest).digest}
    assert collection.run(sources=everything).images["keep"] == 10
    changed = {**decoding_rules.rules(), "TIFF": Rules(2, 2), "JPEG": Rules(2, 1)}
    monkeypatch.setattr(decoding_rules, "_RULES", changed)
    report = check(str(collection.output))
    assert (report.outdated, len(report.notes)) == ({"TIFF": 1, "unknown": 2}, 2)
    run = collection.run(sources=everything)
    assert (run.images["score"], run.images["update"], run.images["keep"], run.images["read"]) == (3, 1, 6, 5)
    assert collection.statuses()["bad.jpg"] == "rejected"
    after = {Path(row["uri"]).name: row for row in collection.rows().to_pylist()}
    for row in before.to_pylist():
        name = Path(row["uri"]).name
        new = after[name]
        assert new["map_digest"] == row["map_digest"]
        assert (new["recipe"] == row["recipe"]) == name.endswith(".png")
        assert (new["key"] == row["key"]) == ("tif" not in name)
    assert (check(str(collection.output)).outdated, check(str(collection.output)).damage) == ({}, {})
    last = collection.run(sources=everything).images
    assert (last["keep"], last.get("read", 0)) == (10, 0)


def test_all_frames_are_scored_beside_the_first(collection: Collection):
    first, *more = [Image.new("RGB", (32, 24), (level, 0, 0)) for level in (10, 100, 200)]
    first.save(collection.images / "a.gif", save_all=True, append_images=more)
    assert collection.run().images["only_first_frame"] == 1
    summary = collection.run(frames=Frames.ALL)
    assert (summary.scored, summary.images["keep"], "only_first_frame" in summary.images) == (2, 8, False)
    assert {"a.gif", "a.gif#1", "a.gif#2"} <= collection.statuses().keys()
    assert collection.run(frames=Frames.ALL).images["keep"] == 10
