"""The classification map: the probabilities of the classes at every position of an image, and where those lie in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conversion.errors import DensecastError
from pipeline.maps.geometry import Geometry
from pipeline.settings import RecipeSettings

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]
Probabilities: TypeAlias = NDArray[np.float32] | NDArray[np.float16]

DEFAULT_K = RecipeSettings.top_k
_ROUNDING = 1e-3  # float16's at 1


class MapError(DensecastError):
    """A map or its row contradicts itself, or cannot be stored; the message names the row and the array."""


class CellError(MapError, IndexError):
    """A cell, or a pixel, lies outside the map."""


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """A blob kept beside a map.

    Attributes:
        name: The classifier's name of the blob.
        values: float32 or float16 [h', w', channels]; its cells need not be those of the map.
    """

    name: str
    values: Probabilities


class CellScores(NamedTuple):
    """What an engine computed of one image.

    Attributes:
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], the probabilities of `classes`, descending in k.
        residual: float32 [h, w], the probability mass outside `classes`.
        probabilities: float16 [h, w, C] for the form of that name, None for the top k, else float32.
        features: The blobs that were asked for.
    """

    classes: Integers
    scores: Floats
    residual: Floats
    probabilities: Probabilities | None = None
    features: tuple[Feature, ...] = ()

    def part(self, kept: Callable[[NDArray[Any]], NDArray[Any]]) -> "CellScores":
        """A part of the cells: what a tile contributes to the map of its image.

        Args:
            kept: Takes the part of an array [h, w, ...]; `pipeline.maps.tiling.Tile.kept`.

        Raises:
            MapError: A feature has other cells than the map; see `pipeline.maps.features.check_tileable`.
        """
        for feature in self.features:
            if feature.values.shape[:2] != self.residual.shape:
                cells, wanted = (" x ".join(map(str, a.shape[:2])) for a in (feature.values, self.residual))
                raise MapError(
                    f"feature {feature.name} has {cells} cells where the map has {wanted}",
                    why="tiles are put together by the cells of the map",
                    remedy="keep a blob that has the cells of the map, or do not cut images into tiles",
                )
        whole = self.probabilities
        return CellScores(
            kept(self.classes),
            kept(self.scores),
            kept(self.residual),
            None if whole is None else kept(whole),
            tuple(Feature(feature.name, kept(feature.values)) for feature in self.features),
        )


def top_k(probabilities: Probabilities, k: int = DEFAULT_K) -> CellScores:
    """The best `k` classes of every cell; of equal ones the lower index comes first.

    Args:
        probabilities: float [h, w, C].
        k: How many to keep; all of them where C is smaller.

    Returns:
        The scores, without the full probabilities.
    """
    order = np.argsort(-probabilities.astype(np.float32), axis=-1, kind="stable")[..., :k]
    scores = np.take_along_axis(probabilities, order, axis=-1).astype(np.float32)
    return CellScores(order.astype(np.int32), scores, residual_mass(scores))


def residual_mass(scores: Floats) -> Floats:
    """The probability outside the kept classes: float32 [..., h, w] for scores [..., h, w, k], 0 to 1."""
    outside: NDArray[np.float64] = np.clip(1 - scores.sum(axis=-1, dtype=np.float64), 0, 1)
    return outside.astype(np.float32)


class RankedClass(NamedTuple):
    """A class of a map, and how much of the map it explains.

    Attributes:
        number: The class, counted from 0.
        label: Its whole label.
        score: Its probability, averaged over all cells, 0 to 1.
    """

    number: int
    label: str
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationMap:
    """The class probabilities at every cell of one image at one scale; the arrays are read-only.

    Attributes:
        uri: Where the image came from.
        id: The name that its owner gave it, if any.
        image_size: Height and width of the image in pixels.
        labels: The label of every class; empty where the model has none.
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], the probabilities of `classes`, descending in k.
        residual: float32 [h, w], the probability mass outside `classes`.
        probabilities: float32 or float16 [h, w, C], or None where only the top k were kept.
        geometry: Where the cells lie in the image.
        model_digest: The model.
        run_id: The run that computed it.
        scale: By what the image was enlarged before it was scored.
        key: The content address of the map; empty for a fused one.
        features: Blobs kept beside the map by name, float32 or float16 [h', w', channels] each.
        scored_size: Height and width in pixels of what the model saw, None where that is not known.
        fused_from: The scales that a fused map is the mean of; empty for a map as it was computed.

    Raises:
        MapError: The arrays do not fit each other.
    """

    uri: str
    id: str | None
    image_size: tuple[int, int]
    labels: tuple[str, ...]
    classes: Integers
    scores: Floats
    residual: Floats
    probabilities: Probabilities | None
    geometry: Geometry
    model_digest: str
    run_id: str
    scale: float = 1.0
    key: str = ""
    features: Mapping[str, Probabilities] = field(default_factory=dict)
    scored_size: tuple[int, int] | None = None
    fused_from: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        features = tuple(Feature(name, values) for name, values in self.features.items())
        check_cells(self.uri, CellScores(self.classes, self.scores, self.residual, self.probabilities, features))
        for array in (self.classes, self.scores, self.residual, self.probabilities, *self.features.values()):
            if array is not None:
                array.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map in cells."""
        height, width, _ = self.classes.shape
        return height, width

    def window(self, y: int, x: int) -> tuple[float, float, float, float]:
        """What cell (y, x) classifies: (top, left, bottom, right) in pixels, half-open; may overhang the image.

        Raises:
            CellError: There is no such cell.
        """
        return self.geometry.window(*self._cell(y, x))

    def center(self, y: int, x: int) -> tuple[float, float]:
        """The pixel (y, x) on which cell (y, x) is centred; may lie between pixels.

        Raises:
            CellError: There is no such cell.
        """
        return self.geometry.center(*self._cell(y, x))

    def at(self, pixel_y: float, pixel_x: float) -> tuple[int, int]:
        """The cell (y, x) that is centred nearest to a pixel.

        Raises:
            CellError: The pixel lies outside the image.
        """
        height, width = self.image_size
        if not (0 <= pixel_y < height and 0 <= pixel_x < width):
            raise CellError(
                f"pixel ({pixel_y}, {pixel_x}) lies outside the image of {height} x {width} pixels", where=self.uri
            )
        rows, columns = self.size
        y, x = self.geometry.y.cell_at(pixel_y), self.geometry.x.cell_at(pixel_x)
        return min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)

    @property
    def interior(self) -> tuple[slice, slice]:
        """The cells that no padding touches, for indexing: `map.scores[map.interior]`; empty where there are none."""
        (height, width), (rows, columns) = self.image_size, self.size
        y, x = self.geometry.y.interior(height, rows), self.geometry.x.interior(width, columns)
        return slice(y.start, y.stop), slice(x.start, x.stop)

    @property
    def overhang(self) -> tuple[float, float]:
        """By how many pixels the last windows reach past the image, (down, right); 0 where they do not."""
        (height, width), (rows, columns) = self.image_size, self.size
        return float(self.geometry.y.overhang(height, rows)), float(self.geometry.x.overhang(width, columns))

    def label(self, y: int, x: int) -> str:
        """The label of the best class of a cell; `class 17` where the model has no labels.

        Raises:
            CellError: There is no such cell.
        """
        y, x = self._cell(y, x)
        return self.label_of(int(self.classes[y, x, 0]))

    def label_of(self, index: int) -> str:
        """The label of a class; `class 17` where the model has none for it."""
        label = self.labels[index] if 0 <= index < len(self.labels) else ""
        return label if label.strip() else f"class {index}"

    def top(self, n: int = DEFAULT_K) -> list[RankedClass]:
        """The classes that explain most of the map, by their mean probability over all cells, best first.

        Without `probabilities`, a class counts 0 in the cells that have it outside their top k: the mean is a lower
        bound, by no more than the mean of `residual`.

        Args:
            n: How many; fewer are returned where fewer occur.
        """
        if self.probabilities is not None:
            means = self.probabilities.mean(axis=(0, 1), dtype=np.float64)
        else:
            totals = np.bincount(self.classes.reshape(-1), weights=self.scores.reshape(-1))
            means = totals / self.residual.size
        order = np.argsort(-means, kind="stable")[:n]
        return [RankedClass(int(i), self.label_of(int(i)), float(means[i])) for i in order if means[i] > 0]

    def _cell(self, y: int, x: int) -> tuple[int, int]:
        height, width = self.size
        if not (0 <= y < height and 0 <= x < width):
            raise CellError(
                f"there is no cell ({y}, {x})",
                where=self.uri,
                why=f"the map has {height} x {width} cells, counted from 0",
            )
        return y, x


def check_cells(where: str, cells: CellScores, class_count: int | None = None) -> None:
    """Check that the arrays of a map fit each other.

    Args:
        where: The image, for the message.
        cells: The arrays.
        class_count: C, where it is known.

    Raises:
        MapError: An array has another shape or type than the others ask for, or a class lies outside of 0 to C - 1.
    """
    shape = cells.classes.shape
    if len(shape) != 3 or 0 in shape:
        raise MapError(f"classes have the shape {list(shape)} where [h, w, k] is needed", where=where)
    if class_count is None and cells.probabilities is not None and cells.probabilities.ndim == 3:
        class_count = cells.probabilities.shape[2]
    wanted = {
        "classes": (cells.classes, shape, ("int32",)),
        "scores": (cells.scores, shape, ("float32",)),
        "residual": (cells.residual, shape[:2], ("float32",)),
        "probabilities": (cells.probabilities, (*shape[:2], class_count), ("float32", "float16")),
    }
    for name, (array, expected, dtypes) in wanted.items():
        if array is not None and (array.shape != expected or array.dtype.name not in dtypes):
            raise MapError(
                f"{name} are {array.dtype} {list(array.shape)} where {' or '.join(dtypes)} {list(expected)} is needed",
                where=where,
            )
    for feature in cells.features:
        found, dtype = feature.values.shape, feature.values.dtype.name
        if len(found) != 3 or 0 in found or dtype not in ("float32", "float16"):
            raise MapError(
                f"feature {feature.name} is {dtype} {list(found)} where float32 or float16 [h, w, c] is needed",
                where=where,
            )
    lowest, highest = int(cells.classes.min()), int(cells.classes.max())
    if lowest < 0 or (class_count is not None and highest >= class_count):
        raise MapError(f"classes range from {lowest} to {highest} where there are {class_count}", where=where)


def check_values(where: str, cells: CellScores) -> None:
    """Check that what should be probabilities are some, and that features are numbers.

    Raises:
        MapError: A value is NaN or infinite, or a probability is outside 0 to 1 by more than rounding.
    """
    for name, values in (
        ("scores", cells.scores),
        ("residual", cells.residual),
        ("probabilities", cells.probabilities),
    ):
        if values is not None and not ((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all():  # NaN is neither
            raise MapError(f"{name} are not all between 0 and 1", where=where, why="a map holds probabilities")
    for feature in cells.features:
        if not np.isfinite(feature.values).all():
            raise MapError(
                f"feature {feature.name} is not finite everywhere",
                where=where,
                why="float16 holds values up to 65504" if feature.values.dtype == np.float16 else "",
                remedy="keep it as float32" if feature.values.dtype == np.float16 else "",
            )
