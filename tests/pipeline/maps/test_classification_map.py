import dataclasses
import hashlib
import io
import operator
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.maps.classification_map import (
    CellError,
    CellScores,
    ClassificationMap,
    Feature,
    MapError,
    check_values,
    top_k,
)
from pipeline.maps.geometry import Geometry
from pipeline.maps.quantization import dequantize, quantize
from pipeline.maps.recipe import Form, Recipe
from pipeline.rejection import Reason
from pipeline.settings import Precision
from pipeline.table.row_decoding import map_from_rows, scalars
from pipeline.table.rows import ImageFacts, MapRow, Placement, rejected_row, rows_to_arrow, scored_row
from pipeline.table.schema import DETAIL_LENGTH, SCHEMA

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
CAFFENET = Geometry(32, 32, 113, 113, 227, 227, 355, 355)
MODEL = "ab" * 32
IMAGE = ImageFacts("photos/cat.jpg", "cat-1", 1234, hashlib.sha256(b"cat").hexdigest(), 480, 640)


def make_cells(height: int, width: int, classes: int, k: int = 5, form: Form = Form.TOP_K, seed: int = 0) -> CellScores:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (height, width, classes))
    probabilities = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    cells = top_k(probabilities, k)
    if form is Form.TOP_K:
        return cells
    return cells._replace(probabilities=probabilities.astype(np.float16 if form is Form.FLOAT16 else np.float32))


def make_features(height: int, width: int, seed: int = 0) -> tuple[Feature, ...]:
    """One with the cells of a map, and one with finer cells."""
    random = np.random.default_rng(seed)
    fine = random.normal(size=(2 * height, 2 * width + 1, 2)).astype(np.float16)
    return Feature("fc7", random.normal(size=(height, width, 3)).astype(np.float32)), Feature("pool5", fine)


def arrays_of(cells: CellScores) -> dict[str, Any]:
    """As a ClassificationMap takes them."""
    return {**cells._asdict(), "features": {feature.name: feature.values for feature in cells.features}}


def make_map(**changes: Any) -> ClassificationMap:
    cells = make_cells(8, 13, 10)
    values: dict[str, Any] = {
        "uri": "photos/cat.jpg",
        "id": None,
        "image_size": (451, 611),
        "labels": tuple(f"label {i}" for i in range(10)),
        **arrays_of(cells),
        "geometry": CAFFENET,
        "model_digest": MODEL,
        "run_id": "r1",
    }
    return ClassificationMap(**{**values, **changes})


def make_row(form: Form = Form.TOP_K, image: ImageFacts = IMAGE, **size: int) -> MapRow:
    size = {"height": 3, "width": 4, "classes": 7, **size}
    return scored_row(
        image,
        Recipe(MODEL, form=form),
        CAFFENET,
        make_cells(**size, form=form),
        class_count=size["classes"],
        run_id="r1",
        scored_at=NOW,
    )


def through_parquet(rows: list[MapRow]) -> Any:
    file = io.BytesIO()
    pq.write_table(rows_to_arrow(rows), file)
    file.seek(0)
    return pq.read_table(file)


@given(
    form=st.sampled_from(Form),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    classes=st.integers(1, 12),
    k=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    numbers=st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=10),
    scale=st.floats(0.01, 100),
    uri=st.text(min_size=1),
    id_=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
@settings(max_examples=60, deadline=None)
def test_a_map_comes_back_from_its_row_exactly(
    form: Form,
    height: int,
    width: int,
    classes: int,
    k: int,
    seed: int,
    numbers: list[float],
    scale: float,
    uri: str,
    id_: str | None,
) -> None:
    cells = make_cells(height, width, classes, k, form, seed)
    cells = cells._replace(features=make_features(height, width, seed)[: seed % 3])
    geometry = Geometry(*numbers)
    image = dataclasses.replace(IMAGE, uri=uri, id=id_)
    recipe = Recipe(MODEL, form, k)
    place = Placement(scale, 360, 520)
    row = scored_row(image, recipe, geometry, cells, class_count=classes, run_id="r1", scored_at=NOW, placement=place)
    other = rejected_row(image, recipe, Reason.CORRUPT, "bad", run_id="r1", scored_at=NOW)
    table = through_parquet([other, row, other])
    assert table.schema == SCHEMA

    found = map_from_rows([scalars(table, 1)], ("a", "b"))

    assert (found.uri, found.id, found.image_size, found.labels) == (row.uri, id_, (480, 640), ("a", "b"))
    assert (found.geometry, found.scale, found.key, found.scored_size) == (geometry, scale, row.key, (360, 520))
    assert (found.model_digest, found.run_id, found.size) == (MODEL, "r1", (height, width))
    assert list(found.features) == [feature.name for feature in cells.features]
    pairs: list[Any] = [(feature.values, found.features[feature.name]) for feature in cells.features]
    pairs += [(getattr(cells, name), getattr(found, name)) for name in ("classes", "scores", "residual")]
    if form is not Form.LOG_UINT8:
        pairs.append((cells.probabilities, found.probabilities))
    for expected, actual in pairs:
        if expected is None:
            assert actual is None
        else:
            assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
            assert actual.tobytes() == expected.tobytes()
            assert actual.dtype.isnative
            assert not actual.flags.writeable


def test_log_uint8_comes_back_close_and_exact_in_the_top_k() -> None:
    cells = make_cells(6, 7, 30, k=3, form=Form.LOG_UINT8)
    recipe = Recipe(MODEL, Form.LOG_UINT8, 3)
    row = scored_row(IMAGE, recipe, CAFFENET, cells, class_count=30, run_id="r1", scored_at=NOW)
    assert row.probabilities is not None
    assert len(row.probabilities) == 6 * 7 * 30
    found = map_from_rows([scalars(through_parquet([row]), 0)], ()).probabilities
    assert found is not None
    assert cells.probabilities is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.take_along_axis(found, cells.classes, axis=-1), cells.scores)
    np.testing.assert_array_equal(top_k(found, 3).scores, cells.scores)
    # Elsewhere it is what the code says, unless that would be more than the last of the top k.
    expected = np.minimum(dequantize(quantize(cells.probabilities)), cells.scores[..., -1:])
    np.put_along_axis(expected, cells.classes, cells.scores, axis=-1)
    np.testing.assert_array_equal(found, expected)


def make_tiles(cuts: tuple[int, ...], form: Form = Form.FLOAT16, features: int = 1) -> tuple[CellScores, list[MapRow]]:
    """The cells of a map, and its rows: cut before each of the columns `cuts`, and before row 2."""
    whole = make_cells(5, 9, 7, form=form)._replace(features=make_features(5, 9)[:features])
    blocks = [
        (slice(top, bottom), slice(left, right))
        for top, bottom in ((0, 2), (2, 5))
        for left, right in zip((0, *cuts), (*cuts, 9), strict=True)
    ]
    rows = [
        scored_row(
            IMAGE,
            Recipe(MODEL, form=form),
            CAFFENET,
            whole.part(operator.itemgetter(block)),
            class_count=7,
            run_id=f"r{index % 2}",
            scored_at=NOW,
            placement=Placement(1.0, 480, 640, index, len(blocks), block[0].start, block[1].start),
        )
        for index, block in enumerate(blocks)
    ]
    return whole, rows


def rows_of(rows: list[MapRow]) -> list[Mapping[str, Any]]:
    table = through_parquet(rows)
    return [dict(scalars(table, index)) for index in range(len(rows))]


@pytest.mark.parametrize("form", list(Form))
@given(cuts=st.sets(st.integers(1, 8)), order=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_tiles_make_the_map_that_was_cut(form: Form, cuts: set[int], order: Any) -> None:
    whole, rows = make_tiles(tuple(sorted(cuts)), form)
    order.shuffle(rows)
    found = map_from_rows(rows_of(rows), ("a",))
    assert (found.size, found.image_size, found.geometry) == ((5, 9), (480, 640), CAFFENET)
    for name in ("classes", "scores", "residual"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_array_equal(found.features["fc7"], whole.features[0].values)
    if form in (Form.FLOAT16, Form.FLOAT32):
        np.testing.assert_array_equal(found.probabilities, whole.probabilities)


def test_tiles_that_do_not_make_a_map_are_told() -> None:
    _, rows = make_tiles((3, 6))
    assert map_from_rows(rows_of([*rows, rows[2]]), ()).size == (5, 9)  # the same tile twice, from two runs
    other = dataclasses.replace(rows[0], key="0" * 64)
    moved = dataclasses.replace(rows[4], tile_x=4)
    far = dataclasses.replace(rows[5], tile_x=60)
    plain = dataclasses.replace(rows[1], features=None)
    coarse = dataclasses.replace(rows[1], map_width=1, map_height=1, **arrays_of_row(make_row(height=1, width=1)))
    for chosen, message in (
        (rows[:3] + rows[4:], "5 of 6 tiles; missing: 3"),
        (rows[:1], "1 of 6 tiles; missing: 1, 2, 3, 4, 5"),
        ([*rows[:5], dataclasses.replace(rows[5], tile_index=9)], "6 of 6 tiles; missing: 5"),
        ([*rows, dataclasses.replace(rows[5], tile_index=9)], "7 of 6 tiles"),
        ([other, *rows[1:]], "different key"),
        ([*rows[:4], moved, rows[5]], "overlaps another"),
        ([*rows[:5], far], "leave gaps"),
        ([rows[0], plain, *rows[2:]], "different features"),
        ([rows[0], coarse, *rows[2:]], "other cells than its map"),
    ):
        with pytest.raises(MapError, match=message) as caught:
            map_from_rows(rows_of(chosen), ())
        assert caught.value.where == IMAGE.uri


def arrays_of_row(row: MapRow) -> dict[str, Any]:
    feature = {"name": "fc7", "height": 2, "width": 1, "channels": 1, "dtype": "float16", "values": bytes(4)}
    names = ("classes", "scores", "residual")
    half = np.zeros(7, np.float16).tobytes()
    return {**{name: getattr(row, name) for name in names}, "probabilities": half, "features": [feature]}


def test_a_part_of_cells_needs_features_with_the_cells_of_the_map() -> None:
    cells = make_cells(4, 5, 7)._replace(features=make_features(4, 5))
    with pytest.raises(MapError, match="feature pool5 has 8 x 11 cells where the map has 4 x 5"):
        cells.part(lambda array: array[1:, 2:])


def test_features_are_checked() -> None:
    cells = make_cells(2, 2, 4)
    for values in (np.zeros((2, 2), np.float32), np.zeros((2, 0, 1), np.float32), np.zeros((2, 2, 1), np.float64)):
        with pytest.raises(MapError, match="feature fc7 is"):
            make_map(features={"fc7": values})
    dtype: Any
    for dtype, remedy in ((np.float16, "keep it as float32"), (np.float32, "")):
        bad = cells._replace(features=(Feature("fc7", np.array([[[np.inf]]]).astype(dtype)),))
        with pytest.raises(MapError, match="fc7 is not finite") as caught:
            check_values("x", bad)
        assert caught.value.remedy == remedy


def test_the_columns_stay_in_their_order() -> None:
    assert " ".join(SCHEMA.names) == (
        "key uri id status reason detail image_bytes image_digest image_version image_height image_width scale "
        "scored_height scored_width tile_index tile_count tile_y tile_x map_height map_width geometry form classes "
        "scores residual probabilities class_count features map_digest model_digest precision recipe run_id scored_at "
        "label best_labels windows"
    )
    assert [field.name for field in dataclasses.fields(MapRow)] == SCHEMA.names


def test_a_rejection_keeps_what_is_known_and_cuts_long_details() -> None:
    image = ImageFacts("s3://bucket/caf\udce9.jpg", size_bytes=7)
    row = rejected_row(image, Recipe(MODEL), Reason.UNREADABLE, "x" * 9999, run_id="r1", scored_at=NOW)
    [stored] = through_parquet([row]).to_pylist()
    assert stored["uri"] == r"s3://bucket/caf\udce9.jpg"
    assert (stored["status"], stored["reason"], stored["image_bytes"]) == ("rejected", str(Reason.UNREADABLE), 7)
    assert len(stored["detail"]) == DETAIL_LENGTH
    assert stored["scored_at"] == NOW
    assert stored["classes"] is stored["geometry"] is stored["probabilities"] is None
    with pytest.raises(MapError, match="is a rejection"):
        map_from_rows([scalars(rows_to_arrow([row]), 0)], ())


def test_keys_differ_wherever_maps_may() -> None:
    digest = "d" * 64
    recipes = [
        Recipe(MODEL),
        Recipe("m"),
        Recipe(MODEL, Form.FLOAT16),
        Recipe(MODEL, precision=Precision.BFLOAT16),
        Recipe(MODEL, k=10),
        Recipe(MODEL, resize=256),
        Recipe(MODEL, resize=(256, 256)),
        Recipe(MODEL, max_side=256),
        Recipe(MODEL, features=("fc7",)),
    ]
    keys = [recipe.key(digest, 1.0) for recipe in recipes]
    keys += [Recipe(MODEL).key("e" * 64, 1.0), Recipe(MODEL).key(digest, 2.0)]
    digests = [recipe.digest for recipe in [*recipes, Recipe(MODEL, scales=(1.0, 0.5))]]
    assert len(set(digests)) == len(digests)
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_a_key_is_the_same_for_ever() -> None:
    """A changed key would have every collection scored again."""
    assert Recipe("m" * 64).key("d" * 64, 1) == "68fa2c1cce5aa4a691724317a7d9a6237a70d0133bdc5a4ba0339f304c452418"
    assert Recipe("m" * 64).digest == "c3e3912dc03d729d3827cff618009339a85eea63e57f9a28a9c2d7fe23ea2aa9"


def test_rows_are_picklable() -> None:
    row = make_row()
    again = pickle.loads(pickle.dumps(row))  # noqa: S301
    assert rows_to_arrow([row]).equals(rows_to_arrow([again]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": np.zeros((3, 4), np.int32)}, r"classes have the shape \[3, 4\]"),
        ({"classes": np.zeros((0, 4, 5), np.int32)}, r"classes have the shape \[0, 4, 5\]"),
        ({"classes": np.zeros((3, 4, 5), np.int64)}, "classes are int64"),
        ({"classes": np.full((3, 4, 5), 7, np.int32)}, "classes range from 7 to 7"),
        ({"scores": np.zeros((3, 4, 4), np.float32)}, r"scores are float32 \[3, 4, 4\]"),
        ({"residual": np.zeros((4, 3), np.float32)}, "residual are"),
        ({"probabilities": np.zeros((3, 4, 7), np.float32)}, "probabilities for a map of the form top-k"),
        ({"probabilities": np.zeros((3, 4, 8), np.float32)}, r"is needed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    cells = make_cells(3, 4, 7)._replace(**change)
    with pytest.raises(MapError, match=message):
        scored_row(IMAGE, Recipe(MODEL), CAFFENET, cells, class_count=7, run_id="r1", scored_at=NOW)


def test_a_map_needs_its_digest_size_time_zone_and_form(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(3, 4, 7)
    with pytest.raises(MapError, match="digest"):
        scored_row(ImageFacts("x"), Recipe(MODEL), CAFFENET, cells, class_count=7, run_id="r1", scored_at=NOW)
    with pytest.raises(MapError, match="time zone"):
        scored_row(
            IMAGE, Recipe(MODEL), CAFFENET, cells, class_count=7, run_id="r1", scored_at=NOW.replace(tzinfo=None)
        )
    with pytest.raises(MapError, match="no probabilities for a map of the form float16"):
        scored_row(IMAGE, Recipe(MODEL, form=Form.FLOAT16), CAFFENET, cells, class_count=7, run_id="r1", scored_at=NOW)
    monkeypatch.setattr("pipeline.maps.encoding.LARGEST_VALUE_BYTES", 100)
    with pytest.raises(MapError, match="takes 336 bytes as float32"):
        make_row(Form.FLOAT32)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [1.0]},
        {"residual": None},
        {"map_height": None},
        {"form": "float16"},
        {"form": "float8"},
        {"probabilities": b"odd", "form": "float32"},
        {"features": [{"name": "a", "height": 1, "width": 1, "channels": 1, "dtype": "float32", "values": b"odd"}]},
        {"features": [{"name": "a", "height": 1, "width": 1, "channels": 1, "dtype": "str", "values": b""}]},
    ],
)
def test_a_damaged_row_is_told(change: dict[str, Any]) -> None:
    row = dataclasses.replace(make_row(), **change)
    with pytest.raises(MapError) as caught:
        map_from_rows([scalars(rows_to_arrow([row]), 0)], ())
    assert caught.value.where == IMAGE.uri


def test_windows_and_centers_follow_the_arithmetic() -> None:
    found = make_map()
    assert found.window(0, 0) == (0, 0, 227, 227)
    assert found.window(7, 12) == (224, 384, 451, 611)
    assert found.center(1, 2) == (145, 177)
    even = Geometry(4, 4, 13.5, 13.5, 28, 28, 28, 28)
    assert even.window(2, 0) == (8, 0, 36, 28)


@given(y=st.integers(0, 7), x=st.integers(0, 12), dy=st.floats(-15, 15), dx=st.floats(-15, 15))
def test_the_nearest_cell_is_found(y: int, x: int, dy: float, dx: float) -> None:
    found = make_map()
    center_y, center_x = found.center(y, x)
    assert found.at(center_y + dy, center_x + dx) == (y, x)


def test_pixels_beyond_the_outer_cells_belong_to_them() -> None:
    assert make_map().at(0, 0) == (0, 0)
    assert make_map().at(450, 610) == (7, 12)


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (8, 0), (0, 13)])
@pytest.mark.parametrize("method", ["window", "center", "label"])
def test_there_is_no_cell_outside_the_map(method: str, cell: tuple[int, int]) -> None:
    with pytest.raises(CellError, match="the map has 8 x 13 cells") as caught:
        getattr(make_map(), method)(*cell)
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("pixel", [(-1, 0), (451, 0), (0, 611)])
def test_there_is_no_cell_for_a_pixel_outside_the_image(pixel: tuple[int, int]) -> None:
    with pytest.raises(CellError, match="451 x 611 pixels"):
        make_map().at(*pixel)


def test_labels_fall_back_to_numbers() -> None:
    found = make_map()
    best = int(found.classes[2, 3, 0])
    assert found.label(2, 3) == f"label {best}"
    assert make_map(labels=()).label(2, 3) == f"class {best}"


@pytest.mark.parametrize("form", list(Form))
def test_the_top_of_a_map_is_by_mean_probability(form: Form) -> None:
    cells = make_cells(8, 13, 10, k=10, form=form)
    found = make_map(**arrays_of(cells))
    means = np.zeros(10)
    np.add.at(means, cells.classes, cells.scores / 104)
    top = found.top(3)
    assert [item.number for item in top] == list(np.argsort(-means)[:3])
    assert [item.score for item in top] == pytest.approx(sorted(means)[::-1][:3], abs=2e-4)
    assert top[0].label == f"label {top[0].number}"


def test_a_class_outside_the_top_k_counts_nothing() -> None:
    classes = np.array([[[0], [1]]], np.int32)
    scores = np.array([[[0.75], [0.5]]], np.float32)
    found = make_map(classes=classes, scores=scores, residual=1 - scores[..., 0])
    assert [(item.number, item.score) for item in found.top()] == [(0, 0.375), (1, 0.25)]


def test_top_k_orders_equal_classes_by_index() -> None:
    cells = top_k(np.array([[[0.25, 0.5, 0.25, 0.0]]], np.float32), 3)
    assert cells.classes.tolist() == [[[1, 0, 2]]]
    assert cells.residual.tolist() == [[0.0]]
    assert top_k(np.full((2, 2, 3), 1 / 3, np.float16), 5).scores.shape == (2, 2, 3)


def test_a_map_checks_its_arrays() -> None:
    with pytest.raises(MapError, match="residual"):
        make_map(residual=np.zeros((1, 1), np.float32))


def test_interior_and_overhang_are_those_of_the_geometry() -> None:
    """CaffeNet on 451 x 611: a receptive field of 355 reaches 64 pixels beyond the window on every side."""
    found = make_map()
    assert found.interior == (slice(2, 6), slice(2, 11))
    assert found.scores[found.interior].shape[:2] == (4, 9)
    assert found.overhang == (0, 0)
