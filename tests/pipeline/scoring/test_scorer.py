"""Images into rows: every image ends in exactly one row, whatever becomes of it and of its neighbours."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Form, Recipe
from pipeline.scoring.batching import BatchBudget
from pipeline.scoring.scorer import Limits, Scorer, Tiles, TilesFailedError
from pipeline.scoring.tiles import tiles_of
from pipeline.sources import ImageReference
from pipeline.table.row_decoding import map_from_rows, scalars
from pipeline.table.rows import MapRow, rows_to_arrow
from tests.support.fakes import METADATA, FakeEngine, FakeMixedEngine, probabilities


def save(path: Path, pixels: np.ndarray) -> ImageReference:
    Image.fromarray(pixels).save(path)
    return ImageReference(str(path))


def noise(seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scorer(engine: FakeEngine, recipe: Recipe | None = None, **limits: Any) -> Scorer:
    return Scorer(engine, recipe or Recipe(METADATA.digest, form=Form.TOP_K, k=2), Limits(**limits), "run")


def run(s: Scorer, references: list[ImageReference]) -> dict[str, MapRow]:
    with contextlib.closing(s):
        found = [row for reference in references for row in s.add(reference)] + list(s.flush())
    rows = [row for row in found if not isinstance(row, Tiles)]
    assert sorted(row.uri for row in rows) == sorted(r.uri for r in references)
    rows_to_arrow(rows)  # what Parquet will be asked to hold
    return {Path(row.uri).stem: row for row in rows}


def test_a_map_is_of_its_own_image_in_batches_of_several_shapes(tmp_path: Path):
    pixels = {f"i{n}": noise(n, *((32, 40) if n % 3 else (24, 16))) for n in range(20)}
    references = [save(tmp_path / f"{name}.png", p) for name, p in pixels.items()]
    engine = FakeEngine()
    rows = run(scorer(engine, budget=BatchBudget(pixel_budget=32 * 40 * 4)), references)
    for name, p in pixels.items():
        expected = probabilities(p)
        row = rows[name]
        assert (row.map_height, row.map_width) == expected.shape[:2]
        assert row.classes is not None
        np.testing.assert_array_equal(row.classes.reshape(*expected.shape[:2], 2)[..., 0], expected.argmax(-1))
    assert {shape[0] for shape in engine.batches if shape[1:3] == (32, 40)} == {4}, "incomplete batches are padded"


def test_an_engine_that_takes_several_sizes_gets_images_as_they_come(tmp_path: Path):
    pixels = {f"i{n}": noise(n, *((32, 40) if n % 3 else (24, 16))) for n in range(20)}
    references = [save(tmp_path / f"{name}.png", p) for name, p in pixels.items()]
    engine = FakeMixedEngine()
    rows = run(scorer(engine, budget=BatchBudget(mixed_pixels=32 * 40 * 4)), references)
    for name, p in pixels.items():
        classes = rows[name].classes
        assert classes is not None
        np.testing.assert_array_equal(classes.reshape(-1, 2)[:, 0], probabilities(p).argmax(-1).ravel())
    assert sum(len(sizes) for sizes in engine.batches) == len(pixels), "no image is computed twice"
    assert any(len(set(sizes)) == 2 for sizes in engine.batches)


def test_a_batch_of_several_sizes_that_fails_loses_nothing(tmp_path: Path):
    pixels = [noise(n, *((32, 40) if n % 3 else (24, 16))) for n in range(7)]
    for n, p in enumerate(pixels):
        p[0, 0, 0] = 77 if n == 2 else 1
    references = [save(tmp_path / f"i{n}.png", p) for n, p in enumerate(pixels)]
    rows = run(scorer(FakeMixedEngine(broken=77)), references)
    assert {name for name, row in rows.items() if row.status == "rejected"} == {"i2"}
    rows = run(scorer(FakeMixedEngine(largest_batch=2)), references)
    assert {row.status for row in rows.values()} == {"scored"}


@pytest.mark.parametrize("largest", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_loses_nothing(tmp_path: Path, largest: int):
    references = [save(tmp_path / f"i{n}.png", noise(n)) for n in range(7)]
    rows = run(scorer(FakeEngine(largest_batch=largest), budget=BatchBudget(pixel_budget=32 * 40 * 7)), references)
    assert {row.status for row in rows.values()} == {"scored"}


def test_an_image_that_never_fits_is_rejected_alone(tmp_path: Path):
    references = [save(tmp_path / f"i{n}.png", noise(n)) for n in range(3)]
    rows = run(scorer(FakeEngine(largest_batch=0)), references)
    assert {(row.status, row.reason) for row in rows.values()} == {("rejected", "out-of-memory")}


def test_one_image_that_breaks_the_engine_does_not_take_its_neighbours_along(tmp_path: Path):
    images = {f"i{n}": noise(n) for n in range(5)}
    for p in images.values():
        p[0, 0, 0] = 1
    images["i2"][0, 0, 0] = 77
    references = [save(tmp_path / f"{name}.png", p) for name, p in images.items()]
    rows = run(scorer(FakeEngine(broken=77)), references)
    assert {name: row.status for name, row in rows.items()} == {
        name: "rejected" if name == "i2" else "scored" for name in images
    }
    assert rows["i2"].reason == "engine-failed"
    assert "cannot do it" in (rows["i2"].detail or "")


def test_every_bad_file_gets_its_reason(tmp_path: Path):
    good = save(tmp_path / "good.png", noise(0))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image at all, whatever the name says")
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 200, 200)).save(buffer, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    small = save(tmp_path / "small.png", noise(2, 15, 40))
    names = ["empty.png", "text.png", "cut.jpg"]
    references = [good, small, ImageReference(str(tmp_path / "gone.png"))]
    references += [ImageReference(str(tmp_path / name)) for name in names]
    rows = run(scorer(FakeEngine()), references)
    assert {name: row.reason for name, row in rows.items()} == {
        "good": None,
        "small": "too-small",
        "gone": "missing",
        "empty": "empty",
        "text": "unknown-format",
        "cut": "truncated",
    }
    assert rows["small"].image_digest is not None
    assert rows["gone"].image_digest is None


def test_a_file_above_the_limit_is_not_read(tmp_path: Path):
    reference = save(tmp_path / "i.png", noise(0))
    rows = run(scorer(FakeEngine(), max_image_bytes=100), [reference])
    assert rows["i"].reason == "too-many-bytes"


def test_a_map_does_not_depend_on_what_else_was_in_the_run(tmp_path: Path):
    references = [save(tmp_path / f"i{n}.png", noise(n)) for n in range(5)]
    together = run(scorer(FakeEngine()), references)
    for reference in references:
        name = Path(reference.uri).stem
        alone = run(scorer(FakeEngine()), [reference])[name]
        np.testing.assert_array_equal(alone.scores, together[name].scores)
        assert alone.key == together[name].key


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_values_that_are_no_probabilities_are_no_map(tmp_path: Path, value: float):
    class Nonsense(FakeEngine):
        def score(self, images: np.ndarray) -> list[CellScores]:
            return [cells._replace(scores=np.full_like(cells.scores, value)) for cells in super().score(images)]

    rows = run(scorer(Nonsense()), [save(tmp_path / "i.png", noise(0))])
    assert (rows["i"].status, rows["i"].reason) == ("rejected", "engine-failed")


def test_a_map_too_large_for_a_row_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.maps.encoding.LARGEST_VALUE_BYTES", 10)

    class Whole(FakeEngine):
        def score(self, images: np.ndarray) -> list[CellScores]:
            maps = zip(super().score(images), images, strict=True)
            return [cells._replace(probabilities=probabilities(image)) for cells, image in maps]

    rows = run(scorer(Whole(), Recipe(METADATA.digest, form=Form.FLOAT32, k=2)), [save(tmp_path / "i.png", noise(0))])
    assert rows["i"].reason == "map-too-large"


def test_too_low_and_too_narrow_are_told_apart_from_each_other(tmp_path: Path):
    """The window is not square: a swap of height and width would go unnoticed otherwise."""
    engine = FakeEngine()
    wide = replace(METADATA.geometry, x=replace(METADATA.geometry.x, window=24.0))
    engine.metadata = METADATA.model_copy(update={"geometry": wide})
    fits = save(tmp_path / "fits.png", noise(0, 16, 24))
    narrow = save(tmp_path / "narrow.png", noise(1, 24, 16))
    rows = run(scorer(engine), [fits, narrow])
    assert (rows["fits"].status, rows["narrow"].reason) == ("scored", "too-small")


def test_each_scale_has_a_map_of_its_own_in_pixels_of_the_image(tmp_path: Path):
    reference = save(tmp_path / "i.png", noise(0, 64, 96))
    s = scorer(FakeEngine(), Recipe(METADATA.digest, k=2, scales=(1.0, 0.5, 0.2)))
    with contextlib.closing(s):
        rows = [*s.add(reference), *s.flush()]
    assert not any(isinstance(row, Tiles) for row in rows)
    by_scale = {row.scale: row for row in rows if isinstance(row, MapRow)}
    assert {scale: row.status for scale, row in by_scale.items()} == {1.0: "scored", 0.5: "scored", 0.2: "rejected"}
    assert by_scale[0.2].reason == "too-small"
    assert (by_scale[0.5].scored_height, by_scale[0.5].scored_width) == (32, 48)
    geometry = by_scale[0.5].geometry
    assert geometry is not None
    assert (geometry["stride_y"], geometry["window_x"], geometry["offset_y"]) == (16, 32, 15.5)
    assert len({row.key for row in by_scale.values()}) == 3


def test_a_file_that_cannot_be_read_is_rejected_at_every_scale(tmp_path: Path):
    s = scorer(FakeEngine(), Recipe(METADATA.digest, k=2, scales=(1.0, 0.5)))
    with contextlib.closing(s):
        rows = [*s.add(ImageReference(str(tmp_path / "none.png"))), *s.flush()]
    assert [(row.scale, row.reason) for row in rows if isinstance(row, MapRow)] == [(1.0, "missing"), (0.5, "missing")]


def tile_rows(tmp_path: Path, pixels: np.ndarray, name: str = "big.png", **limits: Any) -> list[MapRow]:
    reference = save(tmp_path / name, pixels)
    s = scorer(FakeEngine(), tile_pixels=60 * 60, **limits)
    with contextlib.closing(s):
        [tiles] = [*s.add(reference), *s.flush()]
        assert isinstance(tiles, Tiles)
        return list(tiles)


@pytest.mark.parametrize("whole_pixels", [2**26, 1], ids=["cut in memory", "read by window"])
def test_a_large_image_is_scored_in_tiles_that_make_its_map(tmp_path: Path, whole_pixels: int):
    pixels = noise(0, 150, 211)
    rows = tile_rows(tmp_path, pixels, whole_pixels=whole_pixels)
    assert len(rows) == rows[0].tile_count > 4
    table = rows_to_arrow(rows)
    found = map_from_rows([scalars(table, index) for index in range(len(rows))], METADATA.labels)
    expected = probabilities(pixels)
    assert found.size == expected.shape[:2]
    np.testing.assert_array_equal(found.classes[..., 0], expected.argmax(-1))
    np.testing.assert_allclose(found.scores[..., 0], expected.max(-1), atol=1e-6)


def test_the_next_tile_is_read_and_waits_while_the_engine_runs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = [threading.Event() for _ in range(2)]

    def announced(*arguments: Any) -> Iterator[Any]:
        for number, tile in enumerate(tiles_of(*arguments)):
            yield tile
            read[min(number, 1)].set()  # the scorer asks for the one after it

    class Patient(FakeEngine):
        def score(self, images: np.ndarray) -> list[CellScores]:
            if not read[len(self.batches) > 0].wait(30):
                raise EngineError("the next tile was not read")
            return super().score(images)

    monkeypatch.setattr("pipeline.scoring.scorer.tiles_of", announced)
    s = scorer(Patient(), tile_pixels=60 * 60, whole_pixels=1)
    with contextlib.closing(s):
        [tiles] = [*s.add(save(tmp_path / "big.png", noise(0, 80, 80))), *s.flush()]
        assert isinstance(tiles, Tiles)
        rows = list(tiles)
    assert [row.tile_index for row in rows] == list(range(rows[0].tile_count))


def test_a_large_image_that_ends_early_is_one_rejection(tmp_path: Path):
    reference = save(tmp_path / "big.png", noise(0, 200, 200))
    path = Path(reference.uri)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    s = scorer(FakeEngine(), tile_pixels=60 * 60, whole_pixels=1)
    with contextlib.closing(s):
        [tiles] = [*s.add(reference), *s.flush()]
        given: list[Any] = []
        assert not isinstance(tiles, MapRow)
        with pytest.raises(TilesFailedError) as failed:
            given.extend(tiles)
    assert (failed.value.row.status, failed.value.row.reason) == ("rejected", "truncated")


def test_where_images_cannot_be_cut_large_ones_are_rejected_and_others_scored(tmp_path: Path):
    s = Scorer(FakeEngine(), Recipe(METADATA.digest, k=2), Limits(tile_pixels=60 * 60), "run", uncut="it cannot")
    with contextlib.closing(s):
        found = [*s.add(save(tmp_path / "big.png", noise(0, 80, 80))), *s.add(save(tmp_path / "i.png", noise(1)))]
        found += s.flush()
    tiles, row = sorted(found, key=lambda item: isinstance(item, MapRow))
    assert isinstance(row, MapRow)
    assert row.status == "scored"
    assert isinstance(tiles, Tiles)
    with pytest.raises(TilesFailedError) as failed:
        list(tiles)
    assert (failed.value.row.reason, failed.value.row.detail) == ("too-many-pixels", "80 x 80: it cannot")
