"""Pixels, means and labels: what the network sees is what it was trained on, in both forms."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from conversion.caffe.reading import blob_message
from conversion.errors import ConversionError, ReadingError
from conversion.export.preprocessing import ChannelOrder, Preprocessing, channel_mean, read_labels
from tests.support.golden_cases import GOLDEN

MEAN_IMAGE = GOLDEN / "layers" / "fmt_mean_binaryproto"
FIELD = Path(__file__).parents[2] / "field" / "means"
RGB = np.array([[[[10, 20, 30], [0, 0, 255]]]], np.uint8)  # N, H, W, 3


# --- pixels


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (Preprocessing(mean=(1.0, 2.0, 3.0)), [[29, 254], [18, -2], [7, -3]]),
        (Preprocessing(channel_order="rgb", mean=(1.0, 2.0, 3.0)), [[9, -1], [18, -2], [27, 252]]),
        (Preprocessing(mean=(0.0, 0.0, 0.0), scale=0.5), [[15, 127.5], [10, 0], [5, 0]]),
        (Preprocessing(mean=(10.0, 20.0, 30.0), scale=2.0), [[40, 490], [0, -40], [-40, -60]]),
        (Preprocessing(channel_order="gray", mean=(3.0,)), [[15, 26]]),  # 18.15 and 29.07, rounded, less 3
    ],
)
def test_order_mean_and_scale(preprocessing: Preprocessing, expected: list[list[float]]):
    """The mean is in the network's own order and subtracted before scaling; channels come first, then positions."""
    reference = preprocessing.reference(RGB)
    assert reference.dtype == np.float64
    np.testing.assert_allclose(reference, np.array(expected, float).reshape(1, -1, 1, 2), rtol=1e-15)
    tensor = preprocessing.tensorflow(tf, tf.constant(RGB))
    assert tensor.dtype == tf.float32
    np.testing.assert_allclose(tensor.numpy().transpose(0, 3, 1, 2), reference, rtol=1e-6)


@given(
    st.sampled_from(["bgr", "rgb", "gray"]),
    st.tuples(*[st.floats(0, 255)] * 3),
    st.sampled_from([1.0, 0.00390625, 0.017, -2.0]),
    st.integers(0, 2**32 - 1),
)
def test_both_forms_agree(order: ChannelOrder, mean: tuple[float, ...], scale: float, seed: int):
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    subject = Preprocessing(channel_order=order, mean=mean[: 1 if order == "gray" else 3], scale=scale)
    reference = subject.reference(images)
    found = subject.tensorflow(tf, tf.constant(images)).numpy().transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, reference, rtol=0, atol=255 * abs(scale) * 1e-6)


def test_grey_is_opencvs_for_every_colour():
    """A tie that one form rounds up and the other down differs by a whole level: conversions failed on one in 6,000.

    OpenCV's fixed point, (4899 R + 9617 G + 1868 B + 8192) >> 14; all reds and blues, every seventh green and the last.
    """
    levels = np.arange(256, dtype=np.uint8)
    green = np.unique(np.append(levels[::7], 255))
    colours = np.stack(np.meshgrid(levels, green, levels, indexing="ij"), axis=-1)
    expected = (colours.astype(np.int64) @ np.array([4899, 9617, 1868]) + 8192) >> 14
    subject = Preprocessing(channel_order="gray", mean=(0.0,))
    np.testing.assert_array_equal(subject.reference(colours)[:, 0], expected)
    np.testing.assert_array_equal(subject.tensorflow(tf, tf.constant(colours)).numpy()[..., 0], expected)
    assert (expected[0, 0, 0], expected[-1, -1, -1]) == (0, 255)


def test_misspelt_field_is_not_ignored():
    """A model's JSON with `sclae` would be read with scale 1."""
    with pytest.raises(ValueError, match="sclae"):
        Preprocessing.model_validate({"mean": [0, 0, 0], "sclae": 0.5})


# --- means


@pytest.mark.parametrize(
    ("mean", "channels", "expected"),
    [
        (None, 3, (0.0, 0.0, 0.0)),
        (None, 1, (0.0,)),
        (117, 3, (117.0, 117.0, 117.0)),
        ([117.5], 3, (117.5, 117.5, 117.5)),
        ((104, 117, 123), 3, (104.0, 117.0, 123.0)),
        (np.array([104.5, 117, 123], np.float32), 3, (104.5, 117.0, 123.0)),
        ([33], 1, (33.0,)),
    ],
)
def test_numbers(mean: Any, channels: int, expected: tuple[float, ...]):
    assert channel_mean(mean, channels) == (expected, "")


@pytest.mark.parametrize(
    ("mean", "layout"),
    [
        ([1, 2], "[C] with C = 2"),
        ([1, 2, 3, 4], "[C] with C = 4"),
        ([], "[C] with C = 0"),
        ([[1, 2, 3]], "[H, W] without channels, or [N, C]"),
        ([[7]], "[H, W] without channels, or [N, C]"),
        (np.zeros((3, 2, 2)), "an image [C, H, W] with C = 3"),
    ],
)
def test_numbers_of_another_shape_are_refused(mean: Any, layout: str):
    with pytest.raises(ConversionError, match="for 3 channels") as caught:
        channel_mean(mean, 3)
    assert layout in caught.value.why


@pytest.mark.parametrize("mean", [[float("nan")] * 3, [1, float("inf"), 2], float("nan")])
def test_numbers_that_are_not_finite_are_refused(mean: Any):
    with pytest.raises(ConversionError, match="not finite"):
        channel_mean(mean, 3)


def test_mean_image_of_both_kinds_agrees_and_says_that_it_was_reduced():
    """Caffe's binaryproto and its NumPy copy: the mean over positions, in float64, and a note for the user."""
    image = np.load(MEAN_IMAGE / "mean.npy")
    channels, height, width = image.shape[-3:]
    expected = image.reshape(channels, -1).astype(np.float64).mean(axis=1)
    for name in ("mean.npy", "mean.binaryproto"):
        values, note = channel_mean(MEAN_IMAGE / name, channels)
        np.testing.assert_allclose(values, expected, rtol=1e-12)
        assert f"the mean image of {height}x{width} is reduced to its channel mean" in note
    as_text, _ = channel_mean(str(MEAN_IMAGE / "mean.npy"), channels)
    assert as_text == values


def test_channels_keep_their_order_and_positions_are_averaged(tmp_path: Path):
    image = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.save(tmp_path / "mean.npy", image)
    (tmp_path / "mean.binaryproto").write_bytes(blob_message(image[None]).SerializeToString())
    np.save(tmp_path / "values.npy", np.array([1.5, 5.5, 9.5]))
    for name in ("mean.npy", "mean.binaryproto", "values.npy"):
        values, note = channel_mean(tmp_path / name, 3)
        assert values == (1.5, 5.5, 9.5)
        assert bool(note) == (name != "values.npy")


def npy(path: Path, array: np.ndarray, **options: bool) -> Path:
    np.save(path / "mean.npy", array, **options)
    return path / "mean.npy"


# A mean of another layout was taken for a grey value, or spread over the channels.
LAYOUTS = {
    "one pixel, channels last": ((1, 1, 3), 3, "[H, W, C], channels last"),
    "one pixel, channels last, for a grey net": ((1, 1, 3), 1, "[H, W, C], channels last, or [C, H, W] of an image 3"),
    "an image, channels last": ((256, 256, 3), 3, "[H, W, C], channels last"),
    "a batch, channels last": ((1, 256, 256, 3), 3, "[H, W, C], channels last"),
    "a grey image, channels last": ((5, 5, 1), 1, "[H, W, C], channels last"),
    "channels first or last": ((3, 3, 3), 3, "[H, W, C], channels last, or [C, H, W] of an image 3 pixels wide"),
    "a grey image for three channels": ((1, 5, 5), 3, "an image [C, H, W] with C = 1"),
    "a colour image for one channel": ((3, 5, 5), 1, "an image [C, H, W] with C = 3"),
    "two channels": ((2, 5, 5), 3, "an image [C, H, W] with C = 2"),
    "four channels": ((4, 5, 5), 3, "an image [C, H, W] with C = 4"),
    "colour values for one channel": ((3,), 1, "[C] with C = 3"),
    "a row": ((1, 3), 3, "[H, W] without channels, or [N, C]"),
    "a plane": ((5, 5), 3, "[H, W] without channels, or [N, C]"),
    "one value": ((1,), 3, "[C] with C = 1"),
    "a value without an axis": ((), 3, "one value without an axis"),
    "two images": ((2, 3, 5, 5), 3, "an array of 4 axes"),
    "five axes": ((1, 1, 3, 5, 5), 3, "an array of 5 axes"),
}


@pytest.mark.parametrize(("shape", "channels", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_another_layout_is_refused_by_its_name(shape: tuple[int, ...], channels: int, layout: str, tmp_path: Path):
    path = npy(tmp_path, np.full(shape, 7.0))
    with pytest.raises(ConversionError, match=rf"{re.escape(str(shape))} for {channels} channels") as caught:
        channel_mean(path, channels)
    assert layout in caught.value.why
    assert caught.value.where == str(path)


def test_grey_binaryproto_is_refused_for_three_channels_and_read_for_one():
    """The field's: 16 x 16 of 100. Caffe refuses it for a colour net (data_transformer.cpp)."""
    with pytest.raises(ConversionError, match=r"\(1, 1, 16, 16\) for 3 channels") as caught:
        channel_mean(FIELD / "grey.binaryproto", 3)
    assert "an image [C, H, W] with C = 1" in caught.value.why
    values, note = channel_mean(FIELD / "grey.binaryproto", 1)
    assert values == (100.0,)
    assert "16x16" in note


def test_axes_of_a_binaryproto_are_never_in_doubt(tmp_path: Path):
    """Its fields are called channels, height and width: an image 3 pixels wide is one."""
    path = tmp_path / "narrow.binaryproto"
    path.write_bytes(blob_message(np.full((1, 3, 3, 3), 5.0, np.float32)).SerializeToString())
    assert channel_mean(path, 3)[0] == (5.0, 5.0, 5.0)


def test_one_pixel_that_is_not_a_number_is_refused(tmp_path: Path):
    image = np.ones((3, 4, 4))
    image[1, 2, 2] = np.nan
    with pytest.raises(ConversionError, match="finite"):
        channel_mean(npy(tmp_path, image), 3)


class Bomb:
    """What a pickle runs when it is loaded."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["DENSECAST_TEST_BOMB"],))


def test_pickles_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An object array is a program: a mean from the internet must not run one."""
    monkeypatch.setenv("DENSECAST_TEST_BOMB", str(tmp_path / "exploded"))
    path = npy(tmp_path, np.array([Bomb(), 1, 2], dtype=object), allow_pickle=True)
    with pytest.raises(ReadingError):
        channel_mean(path, 3)
    assert not (tmp_path / "exploded").exists()


NO_ARRAYS = {
    "empty": b"",
    "text": b"104, 117, 123",
    "a truncated array": None,
    "an archive of arrays": "npz",
}


@pytest.mark.parametrize("content", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_what_is_no_array_is_a_typed_error(content: Any, tmp_path: Path):
    path = npy(tmp_path, np.ones((3, 9, 9)))
    if content == "npz":
        with path.open("wb") as file:
            np.savez(file, mean=np.ones(3))
    else:
        path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ReadingError) as caught:
        channel_mean(path, 3)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("values", [["a", "b", "c"], [True, False, True], [1j, 2j, 3j]])
def test_arrays_of_something_else_than_real_numbers(values: list[object], tmp_path: Path):
    with pytest.raises(ReadingError, match="an array of"):
        channel_mean(npy(tmp_path, np.array(values)), 3)


def test_missing_files():
    for name in ("missing.npy", "missing.binaryproto"):
        with pytest.raises(ReadingError):
            channel_mean(name, 3)
        with pytest.raises(ReadingError):
            read_labels(name)


# --- labels


def labels(tmp_path: Path, content: str | bytes) -> tuple[str, ...]:
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_labels(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\ndog", ("cat", "dog")),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish", ("tench, Tinca tinca", "goldfish")),
        ("# ILSVRC\ncat\n  # a comment\n\n   \ndog\n", ("cat", "dog")),
        ("C# code\n", ("C# code",)),
        ("  cat  \n", ("cat",)),
        ("naïve café\n猫\n", ("naïve café", "猫")),
        ("n0144076 seven digits\nn014407645 nine\nx01440764 x\nn01440764", None),  # no synset ids with a name
        ("\ufeffcat\ndog", ("cat", "dog")),  # Windows' editors write a byte order mark
    ],
)
def test_labels(content: str, expected: tuple[str, ...] | None, tmp_path: Path):
    assert labels(tmp_path, content) == (tuple(content.splitlines()) if expected is None else expected)


def test_labels_in_another_encoding_are_refused(tmp_path: Path):
    """Read as Latin-1 they would be wrong in every map's metadata."""
    with pytest.raises(ReadingError, match="utf-8"):
        labels(tmp_path, "café".encode("latin-1"))


def test_order_is_the_files(tmp_path: Path):
    names = [f"class {i}" for i in itertools.chain(range(50, 0, -1), range(100, 51, -1))]
    assert labels(tmp_path, "\n".join(names)) == tuple(names)
