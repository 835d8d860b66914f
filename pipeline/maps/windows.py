"""Windows of the size that a net was trained at, as Caffe's classifiers cut and prepare them.

Sources, in BVLC/caffe: `python/caffe/classifier.py` and `oversample` of `python/caffe/io.py` (center crop, ten crops),
`Transformer` there (order of channels, scale, mean), `src/caffe/data_transformer.cpp` (center crop, mean, scale).

The mean of a model with a mean image is subtracted in one of three ways:

- `crop`: the part of the mean image at the window, mirrored with it (data_transformer.cpp).
- `resize`: the mean image, resized to a window; the same for every window, and not mirrored (`Transformer.set_mean`).
- `channel`: its mean over positions (the notebook on classification, classification.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata, Network, Preprocessing, read_mean_image
from pipeline.errors import SettingError
from pipeline.images.resize import Size
from pipeline.images.window_filters import Floats64, resize_mean_image
from pipeline.maps.classification_map import CellScores, Feature, MapError
from pipeline.maps.geometry import Geometry
from pipeline.maps.recipe import Recipe
from pipeline.settings import WindowMean, Windows

Value = TypeVar("Value", bound=np.generic)

_COUNTS = {Windows.CENTER: 1, Windows.TEN: 10, Windows.WARP: 1}


def count_windows(windows: Windows) -> int:
    """Returns the number of windows that are cut from an image."""
    return _COUNTS[windows]


def cut_windows(image: NDArray[Value], windows: Windows, size: Size) -> NDArray[Value]:
    """Returns the windows of an image that was resized for them.

    Args:
        image: [H, W, C].
        windows: Which windows. Of `TEN`, the first four are the corners: top left, top right, bottom left, bottom
            right; then the centre; then the same five mirrored left to right.
        size: (height, width) of a window; an image for `WARP` has it.

    Returns:
        [n, height, width, C], a copy.
    """
    height, width = size
    down, across = image.shape[0] - height, image.shape[1] - width
    center = (down // 2, across // 2)
    corners = [(y, x) for y in (0, down) for x in (0, across)]
    origins = [*corners, center] if windows is Windows.TEN else [center]
    cut = np.stack([image[y : y + height, x : x + width] for y, x in origins])
    return np.concatenate([cut, cut[:, :, ::-1]]) if windows is Windows.TEN else cut


@dataclass(frozen=True, eq=False)
class WindowInput:
    """Prepares windows for a net.

    Attributes:
        preprocessing: The model's.
        means: float64 [n or 1, height or 1, width or 1, C]: what is subtracted from each window.
    """

    preprocessing: Preprocessing
    means: Floats64

    @classmethod
    def of(cls, model: str | Path, metadata: ModelMetadata, recipe: Recipe) -> WindowInput:
        """Returns what prepares the windows of a recipe.

        Args:
            model: The model directory.
            metadata: Its `densecast.json`.
            recipe: A recipe with windows, made for the model by `Recipe.for_model`.

        Raises:
            SettingError: The recipe has no windows, or was not made for a model.
            ModelError: The mean image is missing or damaged.
        """
        if recipe.windows is None or recipe.window_mean is None:
            raise SettingError("a recipe without windows for a model", remedy="make it with Recipe.for_model")
        if recipe.window_mean is WindowMean.CHANNEL:
            return cls(metadata.preprocessing, np.array(metadata.preprocessing.mean)[None, None, None])
        image = read_mean_image(model, metadata).astype(np.float64).transpose(1, 2, 0)
        size = metadata.minimum_size
        if recipe.window_mean is WindowMean.CROP:
            return cls(metadata.preprocessing, cut_windows(image, recipe.windows, size))
        return cls(metadata.preprocessing, resize_mean_image(image, size)[None])

    def prepare(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns what the net's input blob holds, float32 [N, n, h, w, C], for windows, RGB [N, n, h, w, 3]."""
        order = {"bgr": [2, 1, 0], "rgb": [0, 1, 2], "gray": [0]}[self.preprocessing.channel_order]
        # Subtracted in float64 and then rounded, as NumPy does it in place for pycaffe.
        data = (windows[..., order] - self.means).astype(np.float32)
        return data * np.float32(self.preprocessing.scale)


def check_window(network: Network, metadata: ModelMetadata) -> None:
    """Checks that a window has a map of one cell.

    Args:
        network: The model's network; weights are not needed.
        metadata: The model's.

    Raises:
        SettingError: It has more.
    """
    ((blob, shape),) = network.inputs.items()
    size = network.shapes_at({blob: (1, shape[1], *metadata.minimum_size)})[metadata.output_blob][2:]
    if size != (1, 1):
        raise SettingError(
            f"a window of {' x '.join(map(str, metadata.minimum_size))} pixels has {' x '.join(map(str, size))} cells",
            where=f"model {metadata.name}",
            why="the classifier gives one answer for a window, so the map must have one cell there",
            remedy="leave out --windows",
        )


def as_map(cells: Sequence[CellScores]) -> CellScores:
    """Returns the map of one image, 1 x n cells, from the maps of its windows, each of one cell.

    Raises:
        MapError: A window has not one cell.
    """
    sizes = {item.residual.shape for item in cells}
    if sizes != {(1, 1)}:
        raise MapError(
            f"a window has a map of {' x '.join(map(str, sorted(sizes - {(1, 1)})[0]))} cells",
            why="a window of the size that the net was trained at has one cell",
            remedy="leave out --windows",
        )
    if len(cells) == 1:
        return cells[0]

    def joined(arrays: Sequence[NDArray[Value]]) -> NDArray[Value]:
        return np.concatenate(arrays, axis=1)

    whole = [item.probabilities for item in cells if item.probabilities is not None]
    features = tuple(
        Feature(same[0].name, joined([feature.values for feature in same]))
        for same in zip(*(item.features for item in cells), strict=True)
    )
    return CellScores(
        joined([item.classes for item in cells]),
        joined([item.scores for item in cells]),
        joined([item.residual for item in cells]),
        joined(whole) if whole else None,
        features,
    )


def window_geometry(windows: Windows, window: Size, resized: Size, original: Size) -> Geometry:
    """Returns where the cells of a map of windows lie, in pixels of the image as it was read.

    The windows of `TEN` are not a grid, so that each of its cells stands for the whole image.

    Args:
        windows: Which windows.
        window: (height, width) of a window.
        resized: (height, width) of the image from which they were cut.
        original: (height, width) of the image as it was read.
    """
    numbers: dict[str, float] = {}
    for axis, side, length, whole in zip("yx", window, resized, original, strict=True):
        covered = length if windows is Windows.TEN else side
        factor = whole / length
        start = (length - covered) // 2 * factor
        extent = covered * factor
        numbers[f"offset_{axis}"] = start + (extent - 1) / 2
        for name in ("stride", "window", "receptive_field"):
            numbers[f"{name}_{axis}"] = extent
    return Geometry(**numbers)
