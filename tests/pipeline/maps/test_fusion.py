"""Maps of several scales into one."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.maps.classification_map import ClassificationMap, MapError, top_k
from pipeline.maps.fusion import dense, fuse, resample
from pipeline.maps.geometry import Geometry

CLASSES = 4


def make_map(
    probabilities: np.ndarray, *, stride: float, offset: float, scale: float, k: int = 2, whole: bool = True
) -> ClassificationMap:
    cells = top_k(probabilities.astype(np.float32), k)
    return ClassificationMap(
        uri="a.jpg",
        id=None,
        image_size=(100, 120),
        labels=(),
        classes=cells.classes,
        scores=cells.scores,
        residual=cells.residual,
        probabilities=probabilities.astype(np.float32) if whole else None,
        geometry=Geometry(stride, stride, offset, offset, 20, 20, 20, 20),
        model_digest="m" * 64,
        run_id="r1",
        scale=scale,
        key=f"key {scale}",
        features={"fc7": np.zeros((1, 1, 1), np.float32)},
    )


def random_map(height: int, width: int, *, seed: int = 0, **options: Any) -> ClassificationMap:
    found = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), (height, width))
    return make_map(found, **options)


def plane(height: int, width: int, stride: float, offset: float) -> np.ndarray:
    """Probabilities that are linear in the pixel, within 100 x 120 pixels."""
    y, x = np.mgrid[:height, :width] * stride + offset
    first, second = y / 400 + 0.1, x / 480 + 0.2
    return np.stack([first, second, np.full_like(first, 0.1), 0.9 - first - second], axis=-1)


sides = st.integers(1, 6)
strides = st.floats(2, 30)
offsets = st.floats(0, 40)


@given(
    sides=st.tuples(sides, sides, sides, sides),
    strides=st.tuples(strides, strides),
    offsets=st.tuples(offsets, offsets),
)
@settings(max_examples=60, deadline=None)
def test_the_fused_map_is_the_mean_of_interpolated_probabilities(
    sides: tuple[int, ...], strides: tuple[float, ...], offsets: tuple[float, ...]
) -> None:
    fine, other = (
        random_map(*sides[i : i + 2], seed=i, stride=strides[i // 2], offset=offsets[i // 2], scale=scale)
        for i, scale in ((0, 1), (2, 0.5))
    )
    if other.size[0] * other.size[1] > fine.size[0] * fine.size[1]:
        fine, other = other, fine
    elif other.residual.size == fine.residual.size:
        fine, other = max((fine, other), key=lambda m: m.scale), min((fine, other), key=lambda m: m.scale)
    found = fuse([other, fine])
    assert (found.size, found.geometry, found.scale) == (fine.size, fine.geometry, fine.scale)
    assert fine.probabilities is not None
    assert other.probabilities is not None
    for y, x in np.ndindex(found.size):
        center = fine.geometry.center(y, x)
        axes = (other.geometry.y, other.geometry.x)
        # NumPy's own linear interpolation, along one axis after the other; it clamps at the ends.
        values = other.probabilities.astype(np.float64)
        for axis, pixel in zip(axes, center, strict=True):
            centers = [float(axis.center(i)) for i in range(values.shape[0])]
            flat = values.reshape(values.shape[0], -1)
            values = np.array([np.interp(pixel, centers, column) for column in flat.T]).reshape(values.shape[1:])
        expected = (values + fine.probabilities[y, x]) / 2
        np.testing.assert_allclose(found.probabilities[y, x], expected, atol=1e-5)  # type: ignore[index]


def test_a_plane_is_resampled_exactly_and_clamped_beyond_the_centres() -> None:
    fine = make_map(plane(9, 11, 10, 10), stride=10, offset=10, scale=1)
    coarse = plane(4, 5, 20, 20)
    geometry = Geometry(20, 20, 20, 20, 40, 40, 40, 40)
    found = resample(coarse, geometry, fine)
    assert fine.probabilities is not None
    np.testing.assert_allclose(found[1:8, 1:10], fine.probabilities[1:8, 1:10], atol=1e-6)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)  # cell 0 is centred above the coarse map's first
    np.testing.assert_allclose(found[:, -1], found[:, -2], atol=1e-6)


def test_a_fused_map_is_consistent_and_says_what_it_is() -> None:
    maps = [
        random_map(5, 6, seed=1, stride=8, offset=8, scale=1, k=3),
        random_map(3, 3, stride=16, offset=8, scale=0.5),
    ]
    found = fuse(maps)
    assert found.probabilities is not None
    assert (found.fused_from, found.key, found.features) == ((0.5, 1), "", {})
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1, atol=1e-6)
    best = top_k(found.probabilities, 3)
    np.testing.assert_array_equal(found.classes, best.classes)
    np.testing.assert_array_equal(found.scores, best.scores)
    np.testing.assert_array_equal(found.residual, best.residual)


def test_a_single_map_is_its_own_mean() -> None:
    whole = random_map(3, 4, stride=8, offset=8, scale=0.5)
    found = fuse([whole])
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)
    np.testing.assert_array_equal(found.classes, whole.classes)
    assert found.fused_from == (0.5,)


def test_of_top_k_maps_the_rest_is_missing() -> None:
    sure = np.array([[[0.7, 0.2, 0.1, 0.0]]])
    other = np.array([[[0.1, 0.2, 0.6, 0.1]]])
    maps = [make_map(p, stride=8, offset=8, scale=scale, k=1, whole=False) for p, scale in ((sure, 1.0), (other, 0.5))]
    found = fuse(maps, CLASSES)
    np.testing.assert_allclose(found.probabilities, [[[0.35, 0, 0.3, 0]]], atol=1e-6)
    assert found.classes.tolist() == [[[0]]]
    np.testing.assert_allclose(found.residual, [[0.65]], atol=1e-6)
    assert fuse(maps).probabilities.shape == (1, 1, 3)  # type: ignore[union-attr]


def test_dense_maps_have_every_class() -> None:
    map_ = random_map(2, 2, stride=8, offset=8, scale=1)
    assert dense(map_, CLASSES) is map_.probabilities
    padded = dense(map_, CLASSES + 2)
    np.testing.assert_array_equal(padded[..., :CLASSES], map_.probabilities)
    assert not padded[..., CLASSES:].any()


def test_maps_that_are_not_of_one_image_are_refused() -> None:
    map_ = random_map(2, 2, stride=8, offset=8, scale=1)
    for change in ({"uri": "b.jpg"}, {"image_size": (1, 2)}, {"model_digest": "x"}):
        with pytest.raises(MapError, match="not of one image and one model"):
            fuse([map_, dataclasses.replace(map_, scale=0.5, **change)])
    with pytest.raises(MapError, match="two maps have the same scale: 1, 1"):
        fuse([map_, map_])
    with pytest.raises(MapError, match="no map"):
        fuse([])
