"""Windows as Caffe cuts and prepares them, what follows from a model, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import Preprocessing
from conversion.export.mean_file import write_mean_image
from conversion.export.metadata import ModelMetadata
from conversion.export.seal import file_digests
from pipeline.errors import SettingError
from pipeline.images.resize import WINDOWS_SCALE, WindowResize
from pipeline.images.window_filters import resize_mean_image
from pipeline.maps.classification_map import CellScores, Feature, MapError
from pipeline.maps.recipe import Recipe
from pipeline.maps.windows import WindowInput, as_map, check_window, count_windows, cut_windows, window_geometry
from pipeline.settings import WindowFilter, WindowMean, Windows
from tests.support.definitions import convolution, data, layer, network
from tests.support.fakes import METADATA, WINDOW

SIZE = (WINDOW, WINDOW)


def with_mean(tmp_path: Path, image: np.ndarray) -> ModelMetadata:
    """The fake model with a mean image; `tmp_path` is its directory."""
    write_mean_image(tmp_path, image)
    files = file_digests(tmp_path)
    return METADATA.model_copy(update={"mean_image": image.shape[1:], "files": files})


def oversample(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The windows of pycaffe's `oversample`, from its description: corners, centre, mirrored."""
    height, width = size
    bottom, right = image.shape[0] - height, image.shape[1] - width
    middle = int(image.shape[0] / 2 - height / 2), int(image.shape[1] / 2 - width / 2)
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    crops = [image[y : y + height, x : x + width] for y, x in places]
    return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])


@pytest.mark.parametrize("shape", [(9, 12), (8, 8), (5, 4), (5, 9)])
def test_windows_are_pycaffes(shape: tuple[int, int]):
    image = np.arange(shape[0] * shape[1] * 3).reshape(*shape, 3)
    expected = oversample(image, (5, 4))
    np.testing.assert_array_equal(cut_windows(image, Windows.TEN, (5, 4)), expected)
    np.testing.assert_array_equal(cut_windows(image, Windows.CENTER, (5, 4)), expected[4:5])
    np.testing.assert_array_equal(cut_windows(image, Windows.WARP, shape), image[None])
    assert [count_windows(windows) for windows in Windows] == [1, 10, 1]


def test_caffenets_centre_begins_at_14():
    """data_transformer.cpp: (256 - 227) / 2, rounded down."""
    image = np.zeros((256, 256, 1))
    image[14, 14] = 1
    assert cut_windows(image, Windows.CENTER, (227, 227))[0, 0, 0, 0] == 1


def test_a_mean_image_is_cropped_with_the_window_and_mirrored_with_it(tmp_path: Path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 20, 22))
    metadata = with_mean(tmp_path, mean)
    recipe = Recipe(windows=Windows.TEN, window_filter=WindowFilter.OPENCV).for_model(metadata)
    assert (recipe.window_resize, recipe.window_mean) == ((20, 22), WindowMean.CROP)
    image = np.random.default_rng(1).integers(0, 256, (20, 22, 3)).astype(np.float32)
    found = WindowInput.of(tmp_path, metadata, recipe).prepare(cut_windows(image, Windows.TEN, SIZE)[None])
    expected = oversample(image[..., ::-1] - mean.transpose(1, 2, 0), SIZE)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_mean_image_is_resized_for_pycaffe_and_not_mirrored(tmp_path: Path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 20, 22)).astype(np.float32)
    metadata = with_mean(tmp_path, mean)
    recipe = Recipe(windows=Windows.TEN).for_model(metadata)
    assert (recipe.window_resize, recipe.window_mean) == ((20, 22), WindowMean.RESIZE)
    small = resize_mean_image(mean.transpose(1, 2, 0).astype(float), SIZE)
    found = WindowInput.of(tmp_path, metadata, recipe).prepare(np.zeros((2, 10, *SIZE, 3), np.float32))
    np.testing.assert_allclose(found, np.broadcast_to(-small, found.shape), rtol=1e-6)


@pytest.mark.parametrize("order", ["bgr", "rgb", "gray"])
def test_channels_are_in_the_nets_order_and_scaled(order: Any, tmp_path: Path):
    mean = (10.0, 20.0, 30.0)[: 1 if order == "gray" else 3]
    preprocessing = Preprocessing(channel_order=order, mean=mean, scale=0.5)
    metadata = METADATA.model_copy(update={"preprocessing": preprocessing})
    recipe = Recipe(windows=Windows.CENTER).for_model(metadata)
    assert (recipe.window_resize, recipe.window_mean) == ((256, 256), WindowMean.CHANNEL)
    window = np.random.default_rng(0).integers(0, 256, (1, 1, *SIZE, 3)).astype(np.uint8)
    if order == "gray":
        window[:] = window[..., :1]
    found = WindowInput.of(tmp_path, metadata, recipe).prepare(window.astype(np.float32))
    expected = preprocessing.reference(window[0]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_what_follows_from_the_model():
    recipe = Recipe(windows=Windows.CENTER, window_resize=64).for_model(METADATA)
    assert recipe.window_resize == 64
    assert recipe.scaling.windows == WindowResize(WindowFilter.SKIMAGE, 64)
    assert recipe.scaling.windows.target_size(100, 150) == (64, 96)
    assert recipe.row_scales == (1.0, WINDOWS_SCALE)
    assert Recipe(windows=Windows.WARP).for_model(METADATA).window_resize == SIZE
    assert Recipe().for_model(METADATA) == Recipe().of_model(METADATA.digest)


def test_a_model_that_lost_its_mean_image_is_refused_unless_the_channel_mean_is_asked_for():
    lost = METADATA.model_copy(update={"notes": ("the mean image of 256x256 is reduced to its channel mean",)})
    with pytest.raises(SettingError, match="no mean image") as caught:
        Recipe(windows=Windows.CENTER).for_model(lost)
    assert "older version" in caught.value.why
    assert "--window-mean channel" in caught.value.remedy
    chosen = Recipe(windows=Windows.CENTER, window_mean=WindowMean.CHANNEL).for_model(lost)
    assert chosen.window_mean is WindowMean.CHANNEL


@pytest.mark.parametrize("rule", [WindowMean.CROP, WindowMean.RESIZE])
def test_a_mean_image_that_is_asked_for_and_missing_is_refused(rule: WindowMean):
    with pytest.raises(SettingError, match="no mean image") as caught:
        Recipe(windows=Windows.CENTER, window_mean=rule).for_model(METADATA)
    assert caught.value.why == "it was converted without one"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": Windows.WARP, "window_resize": (20, 20)}, "--window-resize says 20 x 20"),
        ({"windows": Windows.CENTER, "window_resize": (WINDOW - 1, 99)}, "do not fit in an image of 15 x 99"),
        ({"windows": Windows.TEN, "window_resize": WINDOW - 1}, "do not fit in an image of shorter side 15"),
        ({"windows": Windows.TEN, "window_resize": 0}, "do not fit in an image of shorter side 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        _ = Recipe(**settings).for_model(METADATA).scaling


@pytest.mark.parametrize("size", [(20, 23), 30])
def test_a_crop_of_a_mean_image_of_another_size_is_refused(size: Any, tmp_path: Path):
    metadata = with_mean(tmp_path, np.zeros((3, 20, 22)))
    with pytest.raises(SettingError, match="the mean image has 20 x 22 pixels"):
        Recipe(windows=Windows.TEN, window_filter=WindowFilter.PIL, window_resize=size).for_model(metadata)


def test_every_setting_of_windows_changes_the_key_of_their_row_and_no_other(tmp_path: Path):
    metadata = with_mean(tmp_path, np.zeros((3, 20, 22)))
    plain = Recipe(windows=Windows.TEN, window_filter=WindowFilter.OPENCV).for_model(metadata)
    changed = [
        dataclasses.replace(plain, windows=Windows.CENTER),
        dataclasses.replace(plain, window_filter=WindowFilter.PIL),
        dataclasses.replace(plain, window_resize=(20, 22)).of_model("other"),
        dataclasses.replace(plain, window_resize=(40, 44)),
        dataclasses.replace(plain, window_mean=WindowMean.RESIZE),
        dataclasses.replace(plain, mean_digest="f" * 64),
    ]
    keys = {recipe.key("d", WINDOWS_SCALE) for recipe in (plain, *changed)}
    digests = {recipe.digest for recipe in (plain, *changed)}
    assert len(keys) == len(digests) == 1 + len(changed)
    without = Recipe().for_model(metadata)
    assert {recipe.key("d", 1.0) for recipe in (plain, changed[0], changed[1], without)} == {without.key("d", 1.0)}
    assert Recipe.from_json(plain.as_json(), metadata.model_dump(mode="json")) == plain


def test_windows_become_the_cells_of_one_map():
    def window(number: int) -> CellScores:
        score = np.full((1, 1, 2), 0.4, np.float32)
        classes = np.array([[[number, number + 1]]], np.int32)
        feature = Feature("pool5", np.full((2, 3, 4), number, np.float32))
        return CellScores(classes, score, np.full((1, 1), 0.2, np.float32), None, (feature,))

    found = as_map([window(number) for number in range(10)])
    assert found.classes.shape == (1, 10, 2)
    assert found.classes[0, :, 0].tolist() == list(range(10))
    assert found.features[0].values.shape == (2, 30, 4)
    assert (found.features[0].values[:, 3:6] == 1).all()
    with pytest.raises(MapError, match="a map of 1 x 2 cells"):
        as_map([window(0)._replace(residual=np.zeros((1, 2), np.float32))])


def test_a_net_with_more_cells_for_a_window_is_refused():
    text = (
        data(1, 3, 16, 16)
        + convolution("fc", "data", "num_output: 4 kernel_size: 8 stride: 8")
        + layer("Softmax", "prob", "fc")
    )
    with pytest.raises(SettingError, match="a window of 16 x 16 pixels has 2 x 2 cells"):
        check_window(network(text), METADATA)


def test_geometry_is_the_part_of_the_image_that_a_window_is():
    center = window_geometry(Windows.CENTER, (10, 20), (20, 40), (40, 40))
    assert center.window(0, 0) == (10, 10, 30, 30)
    warp = window_geometry(Windows.WARP, (10, 20), (10, 20), (40, 60))
    assert warp.window(0, 0) == (0, 0, 40, 60)
    ten = window_geometry(Windows.TEN, (10, 20), (20, 40), (40, 80))
    assert ten.window(0, 0) == (0, 0, 40, 80)
