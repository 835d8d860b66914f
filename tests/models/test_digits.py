"""The digits model: what was held out, that its map is the classifier, its pages, and how often it is right."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from conversion import Network, Preprocessing, cast, evaluate, load_network, receptive_field, to_tensorflow
from models import entry
from models.digits import evaluate as evaluation
from models.digits.pages import EDGE, GAP, PITCH, WINDOW, Page, compose_page, held_out
from models.fetch import fetch
from tests.models.train_digits import BACKGROUND, classes_of, hard, load_digits, quick_scorer, sample, split, trained

MODEL = entry("digits")
PREPROCESSING = Preprocessing(mean=MODEL.mean, scale=MODEL.scale)


@pytest.fixture(scope="module")
def classifier() -> Network:
    return load_network(MODEL.definition, fetch(MODEL))


@pytest.fixture(scope="module")
def dense(classifier: Network) -> Network:
    return cast(classifier)


def page(seed: int, **options: object) -> Page:
    return compose_page(np.random.default_rng(seed), *held_out(), **options)


# Data.


def test_held_out_digits_are_those_of_the_split_and_no_others() -> None:
    images, labels = load_digits()
    learned, held = split(labels)
    assert sorted([*learned, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held]).tolist() == [40] * 10
    assert all(learned[labels[learned] == c].max() < held[labels[held] == c].min() for c in range(10))
    kept, names = held_out()
    assert kept.dtype == np.uint8
    assert np.array_equal(kept, images[held])
    assert np.array_equal(names, labels[held])


def test_no_held_out_image_is_also_a_training_image() -> None:
    images, labels = load_digits()
    learned, held = split(labels)
    assert not {image.tobytes() for image in images[learned]} & {image.tobytes() for image in images[held]}


def test_held_out_digits_cannot_be_changed_for_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        held_out()[0][0] = 0


def test_what_ships_is_small() -> None:
    folder = MODEL.definition.parent
    assert (folder / "digits.caffemodel").stat().st_size < 700_000
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 1_000_000


# The model.


def test_labels_are_the_ten_digits_and_background() -> None:
    assert MODEL.labels == (*"0123456789", "background")
    assert MODEL.labels[evaluation.BACKGROUND] == "background"


def test_geometry_is_a_window_every_four_pixels_without_padding(dense: Network) -> None:
    geometry = receptive_field(dense)
    for axis in (geometry.y, geometry.x):
        assert (axis.stride, axis.offset, axis.window, axis.receptive_field) == (4, 15.5, WINDOW, WINDOW)
        assert axis.interior(WINDOW, 1) == range(1)


def test_dense_network_equals_the_classifier_at_its_own_size(classifier: Network, dense: Network) -> None:
    windows = PREPROCESSING.reference(np.stack([page(seed, size=(WINDOW, WINDOW)).pixels for seed in range(8)]))
    expected, found = evaluate(classifier, {"data": windows}), evaluate(dense, {"data": windows})
    assert found["prob"].shape == (8, 11, 1, 1)
    np.testing.assert_allclose(found["prob"][:, :, 0, 0], expected["prob"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 76), (61, 75)], ids=["whole cells", "a remainder at the far edges"])
def test_map_equals_the_classifier_on_every_crop(classifier: Network, dense: Network, size: tuple[int, int]) -> None:
    pixels = PREPROCESSING.reference(page(3, size=size).pixels[None])
    found = evaluate(dense, {"data": pixels})["prob"][0]
    geometry = receptive_field(dense)
    rows = geometry.y.interior(size[0], found.shape[1])
    columns = geometry.x.interior(size[1], found.shape[2])
    assert (len(rows), len(columns)) == tuple((side - WINDOW) // 4 + 1 for side in size)
    cells = list(itertools.product(rows, columns))
    crops = np.concatenate([pixels[:, :, 4 * i : 4 * i + WINDOW, 4 * j : 4 * j + WINDOW] for i, j in cells])
    expected = evaluate(classifier, {"data": crops})["prob"]
    np.testing.assert_allclose([found[:, i, j] for i, j in cells], expected, rtol=0, atol=1e-9)


def test_held_out_digits_are_named_and_background_is_left_alone(dense: Network) -> None:
    accuracy = evaluation.measure(
        quick_scorer(dense), receptive_field(dense), evaluation.pages_of(*held_out(), digits=400, seed=11)
    )
    assert accuracy.digits >= 400
    assert accuracy.digits_right >= 0.97 * accuracy.digits
    assert accuracy.background > 20_000
    assert accuracy.background_right >= 0.998 * accuracy.background


def test_empty_page_is_background(dense: Network) -> None:
    found = quick_scorer(dense)(page(5, size=(200, 200), count=0).pixels)
    assert found.shape == (43, 43, 11)
    assert (found.argmax(axis=-1) == BACKGROUND).mean() > 0.998


def test_evaluation_runs_the_converted_model(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation.main(["--digits", "30", "--seeds", "1"])
    first, last = capsys.readouterr().out.splitlines()
    assert first.removeprefix("seed 1: ") == last.removeprefix("all: ")
    assert first.startswith("seed 1: digits: ")


# Pages.


@pytest.mark.parametrize("seed", range(6))
def test_page_is_decided_by_its_generator(seed: int) -> None:
    first, again = page(seed), page(seed)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.digits == again.digits
    assert not np.array_equal(first.pixels[:32, :32], page(seed + 100).pixels[:32, :32])


@pytest.mark.parametrize("seed", range(12))
def test_digits_lie_on_the_page_and_apart(seed: int) -> None:
    composed = page(seed)
    height, width = composed.pixels.shape[:2]
    assert composed.pixels.dtype == np.uint8
    assert all(160 <= side <= 480 for side in (height, width))
    assert composed.digits
    for digit in composed.digits:
        assert EDGE <= digit.y <= height - 1 - EDGE
        assert EDGE <= digit.x <= width - 1 - EDGE
    for one, other in itertools.combinations(composed.digits, 2):
        down = abs(one.y - other.y) - (one.height + other.height) / 2
        across = abs(one.x - other.x) - (one.width + other.width) / 2
        assert max(down, across) >= GAP
        assert np.hypot(one.y - other.y, one.x - other.x) >= PITCH


def test_digit_is_where_the_page_says() -> None:
    images, labels = np.full((1, 8, 8), 16, dtype=np.uint8), [7]
    composed = compose_page(np.random.default_rng(0), images, labels, size=(120, 120), count=1, clutter=False)
    (digit,) = composed.digits
    dark = composed.pixels.max(axis=-1) < 170
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert digit.label == 7
    assert abs((rows[0] + rows[-1]) / 2 - digit.y) <= 1
    assert abs((columns[0] + columns[-1]) / 2 - digit.x) <= 1
    assert abs(rows[0] - digit.top) <= 1
    assert abs(columns[0] - digit.left) <= 1


def test_smallest_page_is_one_window() -> None:
    assert page(1, size=(WINDOW, WINDOW)).pixels.shape == (WINDOW, WINDOW, 3)
    with pytest.raises(ValueError, match="31x40"):
        page(1, size=(31, 40))


def test_digits_need_their_labels() -> None:
    images, labels = held_out()
    for wrong in (labels[:-1], labels[:0]):
        with pytest.raises(ValueError, match="labels"):
            compose_page(np.random.default_rng(0), images[: len(wrong) * 2], wrong)


def test_page_has_as_many_digits_as_asked_for_or_as_fit() -> None:
    assert len(page(1, size=(300, 300), count=5).digits) == 5
    assert 10 < len(page(1, size=(160, 160), count=500).digits) < 60


# Training.


def test_examples_follow_the_rule() -> None:
    composed = page(2)
    digit = composed.digits[0]
    offsets = np.array([0.0, 3.0, 4.0, 8.0])
    found = classes_of(composed, digit.y - offsets, np.full(4, digit.x))
    assert found.tolist()[:3] == [digit.label, digit.label, -1]
    windows = sample(np.random.default_rng(0), composed)
    assert windows.pixels.shape == (len(windows.labels), WINDOW, WINDOW, 3)
    assert set(windows.labels.tolist()) >= {BACKGROUND, *(digit.label for digit in composed.digits)}
    assert -1 not in windows.labels


def test_hard_examples_are_those_the_map_has_wrong(dense: Network) -> None:
    composed = page(2, size=(160, 160))
    wrong = np.zeros((33, 33, 11), dtype=np.float32)
    wrong[..., BACKGROUND] = 1  # nothing found: each digit is hard
    found = hard(composed, wrong, receptive_field(dense))
    assert set(found.labels.tolist()) == {digit.label for digit in composed.digits}


def test_weights_read_back_are_those_that_were_put_in(classifier: Network) -> None:
    zeros = {name: tuple(np.zeros_like(blob) for blob in blobs) for name, blobs in classifier.parameters.items()}
    again = trained(dataclasses.replace(classifier, parameters=zeros), to_tensorflow(classifier))
    for name, blobs in classifier.parameters.items():
        for found, expected in zip(again.parameters[name], blobs, strict=True):
            assert np.array_equal(found, expected)


def test_no_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    for file in MODEL.definition.parent.iterdir():
        if file.is_file():
            assert str(Path.cwd()).encode() not in file.read_bytes()
