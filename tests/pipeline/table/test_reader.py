"""What readers see of a table: maps by image and scale, tiles put together, what was rejected and what was deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from deltalake import DeltaTable

from pipeline.errors import TableError
from pipeline.maps.classification_map import MapError
from pipeline.maps.recipe import Form, Recipe
from pipeline.rejection import Reason
from pipeline.storage.address import local_path
from pipeline.storage.factory import open_store
from pipeline.table.reader import Deletion, MapTable, Rejection
from pipeline.table.rows import MapRow
from pipeline.table.schema import SCHEMA
from pipeline.table.summaries import RunSummary
from tests.support.stored_rows import MODEL, MODEL_JSON, publish_rows, rejected, scored, write

FLOAT32 = Recipe(MODEL, Form.FLOAT32)


def publish(root: Path | str, *rows: MapRow, run_id: str = "r1") -> RunSummary:
    """Rows that join those that are there, unlike a run's: tests read tables that no run leaves."""
    path = local_path(str(root))
    base = DeltaTable(path).version() if path.exists() else -1
    return publish_rows(root, *rows, run_id=run_id, base=base)


def deleted(uri: str, run_id: str = "r1", **options: Any) -> MapRow:
    """As `pipeline.table.rewrite` leaves it."""
    row = scored(uri, run_id, **options)
    bulk = ("classes", "scores", "residual", "probabilities", "features", "map_height", "map_width", "geometry")
    nulls: dict[str, Any] = dict.fromkeys(bulk)
    return dataclasses.replace(row, status="deleted", map_digest=None, class_count=None, **nulls)


def tiles(uri: str, run_id: str = "r1", count: int = 3, **options: Any) -> list[MapRow]:
    """A map of 3 x 9 cells in tiles side by side."""
    return [scored(uri, run_id, tile=(index, count), **options) for index in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # Characters that a path and a URL spell differently, or that a glob would expand.
    return tmp_path / "maps [50% é]"


def test_what_is_published_is_read(root: Path) -> None:
    half = scored("x/b.jpg", recipe=Recipe(MODEL, Form.FLOAT16))
    publish(root, scored("x/a.jpg"), half, rejected("x/c.jpg"), *tiles("x/t.tif"))
    publish(root, scored("x/d.jpg", "r2"), run_id="r2")

    table = MapTable(str(root))
    assert table.version == 1
    assert table.schema == SCHEMA
    assert len(table) == 4
    assert sorted(found.uri for found in table) == ["x/a.jpg", "x/b.jpg", "x/d.jpg", "x/t.tif"]
    assert list(table.rejections()) == [Rejection("x/c.jpg", "corrupt", "no end marker")]
    assert list(table.deleted()) == []
    assert table.counts() == ({"scored": 4, "rejected": 1, "deleted": 0}, {"corrupt": 1})
    assert table.labels == {MODEL: ("ant", "bee", "cat, feline", "dog")}
    assert table.to_arrow().num_rows == 7
    assert table.to_arrow(["uri", "scale"]).column_names == ["uri", "scale"]
    assert [(run["run_id"], run["version"], run["scored"]) for run in table.runs()] == [("r1", 0, 3), ("r2", 1, 1)]
    found = table.read("x/b.jpg")
    assert found.label(0, 0) in MODEL_JSON["labels"]
    assert found.probabilities is not None
    assert found.probabilities.dtype == np.float16


def test_a_table_without_images_is_read_too(root: Path) -> None:
    publish(root)
    table = MapTable(str(root))
    assert (len(table), list(table), list(table.rejections())) == (0, [], [])
    assert table.counts() == ({"scored": 0, "rejected": 0, "deleted": 0}, {})
    with pytest.raises(TableError, match="among 0"):
        table.read("a.jpg")


def test_tiles_are_read_as_one_map_wherever_they_lie(root: Path) -> None:
    first, second, third = tiles("t.tif")
    publish(root, third, scored("a.jpg"))
    publish(root, dataclasses.replace(first, run_id="r2"), dataclasses.replace(second, run_id="r2"), run_id="r2")
    table = MapTable(str(root))
    found = table.read("t.tif")
    assert found.size == (3, 9)
    expected = [np.asarray(row.scores).reshape(3, 3, 2) for row in (first, second, third)]
    np.testing.assert_array_equal(found.scores, np.concatenate(expected, axis=1))
    assert [(each.uri, each.size) for each in table] == [("a.jpg", (3, 3)), ("t.tif", (3, 9))]
    assert len(table) == 2
    assert table.counts().by_status["scored"] == 2


def test_a_missing_tile_is_told(root: Path) -> None:
    publish(root, *tiles("t.tif")[:2])
    table = MapTable(str(root))
    with pytest.raises(MapError, match="2 of 3 tiles; missing: 2") as caught:
        table.read("t.tif")
    assert caught.value.where == "t.tif"
    with pytest.raises(MapError, match="missing: 2"):
        list(table)


def test_a_map_is_found_by_its_scale(root: Path) -> None:
    publish(root, *(scored("a.jpg", scale=scale) for scale in (1, 0.5, 0.7)), rejected("a.jpg", scale=0.25))
    table = MapTable(str(root))
    assert table.scales("a.jpg") == (0.5, 0.7, 1.0)
    assert table.read("a.jpg", scale=0.7).scale == 0.7
    with pytest.raises(TableError, match="has 3 maps") as caught:
        table.read("a.jpg")
    assert "one of the scales 0.5, 0.7, 1, or ask for the fused map" in caught.value.remedy
    with pytest.raises(TableError, match=r"no map at scale 2\n") as caught:
        table.read("a.jpg", scale=2)
    assert caught.value.remedy == "it has maps at 0.5, 0.7, 1"
    with pytest.raises(TableError, match=r"no map at scale 0.25: rejected as corrupt") as caught:
        table.read("a.jpg", scale=0.25)
    assert caught.value.why == "no end marker"


def test_maps_of_all_scales_are_fused(root: Path) -> None:
    maps = [scored("a.jpg", scale=scale, size=size, recipe=FLOAT32) for scale, size in ((1, 4), (0.5, 2))]
    publish(root, *maps, rejected("a.jpg", scale=0.1), scored("b.jpg", scale=0.5))
    table = MapTable(str(root))
    found = table.fused("a.jpg")
    assert (found.size, found.scale, found.fused_from, found.key) == ((4, 4), 1, (0.5, 1), "")
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1, atol=1e-6)
    # Of top-k maps, all the classes of the model are there, labelled or not.
    alone = table.fused("b.jpg")
    assert alone.fused_from == (0.5,)
    assert alone.probabilities is not None
    assert alone.probabilities.shape == (3, 3, 4)
    np.testing.assert_array_equal(alone.scores, table.read("b.jpg").scores)


def test_maps_of_two_models_are_not_fused(root: Path) -> None:
    other = scored("a.jpg", "r2", recipe=dataclasses.replace(FLOAT32, k=3))
    publish(root, scored("a.jpg"))
    publish(root, other, run_id="r2")
    for method in (MapTable(str(root)).fused, MapTable(str(root)).scales):
        with pytest.raises(TableError, match="has 2 maps") as caught:
            method("a.jpg")
        assert "key" in caught.value.remedy


def test_a_deleted_image_says_where_its_last_map_is(root: Path) -> None:
    publish(root, scored("z.jpg", "r0"), run_id="r0")
    publish(root, deleted("a.jpg", id_="cat-1"), deleted("a.jpg", scale=2, id_="cat-1"), scored("b.jpg"))
    table = MapTable(str(root))
    for name in ("a.jpg", "cat-1"):
        with pytest.raises(TableError, match=r"a.jpg no longer has a map: it was deleted") as caught:
            table.read(name)
        assert caught.value.why == "run r1, which made version 1, no longer found it"
        assert "version=0" in caught.value.remedy
    with pytest.raises(TableError, match="deleted"):
        table.fused("a.jpg")
    assert list(table.deleted()) == [Deletion("a.jpg", "cat-1", "r1")]
    assert table.counts() == ({"scored": 2, "rejected": 0, "deleted": 2}, {})
    assert sorted(found.uri for found in table) == ["b.jpg", "z.jpg"]
    assert len(table) == 2
    (root / "_densecast" / "runs" / "r1.json").unlink()
    with pytest.raises(TableError, match="deleted") as caught:
        table.read("a.jpg")
    assert "an earlier version" in caught.value.remedy


def test_an_image_rejected_at_every_scale_is_listed_once(root: Path) -> None:
    small = rejected("b.jpg", scale=0.5, reason=Reason.TOO_SMALL)
    publish(root, *(rejected("c.jpg", scale=scale) for scale in (1, 0.5)), small, scored("b.jpg"))
    publish(root, rejected("a.jpg", "r2", scale=2), run_id="r2")
    table = MapTable(str(root))
    assert list(table.rejections()) == [
        Rejection("a.jpg", "corrupt", "no end marker", (2.0,)),
        Rejection("b.jpg", "too-small", "no end marker", (0.5,)),
        Rejection("c.jpg", "corrupt", "no end marker", (0.5, 1.0)),
    ]
    assert table.counts() == ({"scored": 1, "rejected": 4, "deleted": 0}, {"corrupt": 3, "too-small": 1})


def test_an_older_version_is_as_it_was(root: Path) -> None:
    publish(root, scored("a.jpg"))
    publish(root, scored("b.jpg", "r2"), run_id="r2")
    table = MapTable(str(root), version=0)
    assert [found.uri for found in table] == ["a.jpg"]
    assert [run["run_id"] for run in table.runs()] == ["r1"]
    with pytest.raises(TableError, match="at version 7"):
        MapTable(str(root), version=7)
    with pytest.raises(TableError, match="at version -1"):
        MapTable(str(root), version=-1)


def test_orphans_are_invisible(root: Path) -> None:
    publish(root, scored("a.jpg"))
    write(root, scored("orphan.jpg"))
    assert [found.uri for found in MapTable(str(root))] == ["a.jpg"]


def make_nothing(path: Path) -> None:
    """Leave the path empty."""


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (make_nothing, "does not exist"),
        (lambda path: path.write_bytes(b""), "is a file"),
        (lambda path: path.mkdir(), "is an empty folder"),
        (lambda path: (path / "images").mkdir(parents=True), "is a folder of 1 entries"),
        (
            lambda path: open_store(str(path / "densecast.json")).write_atomically(str(path / "densecast.json"), b"{}"),
            "is a model",
        ),
    ],
)
def test_no_table_says_what_was_found(root: Path, make: Callable[[Path], object], found: str) -> None:
    make(root)
    with pytest.raises(TableError, match=found) as caught:
        MapTable(str(root))
    assert "densecast score" in caught.value.remedy


def test_an_image_is_found_however_it_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = str(tmp_path / "photos" / "a cat.jpg")
    other = (tmp_path / "photos" / "b é.jpg").as_uri()
    publish(
        root,
        scored(absolute, id_="cat-1"),
        scored(other),
        scored("s3://bucket/c.jpg"),
        scored("it's.jpg"),
        scored("caf\udce9.jpg"),
    )
    table = MapTable(str(root))
    monkeypatch.chdir(tmp_path)
    key = table.read(absolute).key
    for name in (absolute, "photos/a cat.jpg", "./photos/../photos/a cat.jpg", "cat-1", key, f"file://{absolute}"):
        assert table.read(name).uri == absolute
    for name in (other, "photos/b é.jpg"):
        assert table.read(name).uri == other
    assert table.read("s3://bucket/c.jpg").uri == "s3://bucket/c.jpg"
    assert table.read("it's.jpg").uri == "it's.jpg"
    assert table.read("caf\udce9.jpg").uri == r"caf\udce9.jpg"


def test_an_unknown_image_brings_near_names(root: Path) -> None:
    publish(root, *(scored(f"s3://bucket/{name}.jpg") for name in ("cat", "dog", "horse")))
    table = MapTable(str(root))
    with pytest.raises(TableError, match=r"among 3") as caught:
        table.read("photos/cta.jpg")
    assert "did you mean s3://bucket/cat.jpg?" in caught.value.remedy
    with pytest.raises(TableError, match="did you mean s3://bucket/dog"):
        table.read("elsewhere/DOG.jpg")
    with pytest.raises(TableError) as caught:
        table.read("zzzzzzzz")
    assert "did you mean" not in caught.value.remedy


def test_a_rejected_image_says_why(root: Path) -> None:
    publish(root, rejected("a.jpg"), scored("b.jpg"))
    with pytest.raises(TableError, match="rejected as corrupt") as caught:
        MapTable(str(root)).read("a.jpg")
    assert caught.value.why == "no end marker"


def test_an_image_rejected_once_and_scored_later_has_a_map(root: Path) -> None:
    publish(root, rejected("a.jpg"))
    publish(root, scored("a.jpg", "r2"), run_id="r2")
    assert MapTable(str(root)).read("a.jpg").run_id == "r2"


def test_several_maps_of_an_image_are_told_apart_by_key(root: Path) -> None:
    publish(root, scored("a.jpg"), scored("a.jpg", scale=2))
    table = MapTable(str(root))
    with pytest.raises(TableError, match=r"has 2 maps") as caught:
        table.read("a.jpg")
    assert "scale 2" in str(caught.value)
    key = scored("a.jpg", scale=2).key
    assert table.read("a.jpg", key=key[:12]).scale == 2
    assert table.read(key).scale == 2
    with pytest.raises(TableError, match="has a key that begins with 'x'"):
        table.read("a.jpg", key="x")


def test_an_unknown_column_is_told(root: Path) -> None:
    publish(root, scored("a.jpg"))
    with pytest.raises(TableError, match="there is no column 'url'") as caught:
        MapTable(str(root)).to_arrow(["url"])
    assert "uri" in caught.value.remedy


def test_a_lost_or_damaged_part_is_told(root: Path) -> None:
    publish(root, scored("a.jpg"))
    table = MapTable(str(root))
    part = Path(table.files()[0])
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TableError, match="cannot be read"):
        list(table)
    part.unlink()
    with pytest.raises(TableError, match="cannot be read"):
        MapTable(str(root)).read("a.jpg")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_metadata_are_told(root: Path, text: str) -> None:
    publish(root, scored("a.jpg"))
    for folder, name in (("models", MODEL), ("runs", "r1")):
        (root / "_densecast" / folder / f"{name}.json").write_text(text)
    table = MapTable(str(root))
    with pytest.raises(TableError, match="JSON"):
        _ = table.labels
    with pytest.raises(TableError, match="JSON"):
        table.runs()


def test_maps_without_metadata_have_numbers_for_labels(root: Path) -> None:
    publish(root, scored("a.jpg"))
    (root / "_densecast" / "models" / f"{MODEL}.json").unlink()
    assert MapTable(str(root)).read("a.jpg").label(0, 0).startswith("class ")


def test_iterating_opens_one_part_after_the_other(root: Path) -> None:
    for i in range(8):
        publish(root, scored(f"{i}.jpg", f"r{i}"), run_id=f"r{i}")
    table = MapTable(str(root))
    iterator = iter(table)
    next(iterator)
    # The last part has not been opened yet: it can go, and that shows when its turn comes.
    Path(table.files()[-1]).unlink()
    with pytest.raises(TableError):
        list(iterator)


def test_reading_one_image_opens_only_the_parts_that_may_hold_it(root: Path) -> None:
    for name in "abc":
        publish(root, scored(f"{name}.jpg", name), run_id=name)
    table = MapTable(str(root))
    for name in "ac":
        [part] = root.glob(f"part-{name}-*")
        part.unlink()
    assert table.read("b.jpg").uri == "b.jpg"


def test_compaction_and_vacuum_by_other_tools_keep_the_maps(root: Path) -> None:
    before = {}
    for i in range(3):
        publish(root, scored(f"{i}.jpg", f"r{i}", recipe=FLOAT32), run_id=f"r{i}")
        before[f"{i}.jpg"] = MapTable(str(root)).read(f"{i}.jpg")
    delta = DeltaTable(root)
    delta.optimize.compact()
    delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    table = MapTable(str(root))
    assert len(table.files()) == 1
    assert table.labels
    assert len(table.runs()) == 3
    for found in table:
        assert found.probabilities is not None
        assert np.array_equal(found.probabilities, before[found.uri].probabilities)
        assert np.array_equal(found.scores, before[found.uri].scores)


def test_duckdb_reads_the_table_offline(root: Path) -> None:
    publish(root, scored("a.jpg"), scored("b.jpg", size=5), rejected("c.jpg"))
    table = MapTable(str(root))
    maps = table.dataset()
    with duckdb.connect() as connection:
        connection.register("maps", maps)
        query = "SELECT uri, map_height, len(scores), geometry.stride_y FROM {} WHERE status = 'scored' ORDER BY uri"
        expected = [("a.jpg", 3, 18, 32.0), ("b.jpg", 5, 50, 32.0)]
        assert connection.execute(query.format("maps")).fetchall() == expected
        assert connection.execute(query.format("read_parquet(?)"), [table.files()]).fetchall() == expected
        # Cells by best class, over the whole table: lists are row-major [h, w, k], so every k-th is a best one.
        [(cells,)] = connection.execute("SELECT sum(len(residual)) FROM maps").fetchall()
        assert cells == 9 + 25


def test_pandas_reads_the_table(root: Path) -> None:
    publish(root, scored("a.jpg"), rejected("c.jpg"))
    frame = DeltaTable(root).to_pandas(columns=["uri", "status", "scores", "scored_at"])
    assert sorted(frame["uri"]) == ["a.jpg", "c.jpg"]
    frame = MapTable(str(root)).to_arrow(["uri", "scores"]).to_pandas()
    assert len(frame.set_index("uri").loc["a.jpg", "scores"]) == 18


def test_a_table_opens_by_relative_path_and_file_uri(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(root.name, scored("a.jpg"))
    assert len(MapTable(root.name)) == 1
    assert len(MapTable(root.as_uri())) == 1
    assert publish(root.as_uri(), scored("b.jpg", "r2"), run_id="r2").version == 1
    assert len(MapTable(str(root))) == 2
