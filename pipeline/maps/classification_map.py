"""The classification map: class probabilities at every position of an image, and where the positions are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from conversion.errors import DensecastError
from pipeline.maps.geometry import Geometry
from pipeline.settings import RecipeSettings

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]
Probabilities: TypeAlias = NDArray[np.float32 | np.float16]

Cells = TypeVar("Cells", bound=np.generic)
"""The type of an array's values, which indexing does not change."""

DEFAULT_K = RecipeSettings.top_k
_ROUNDING = 1e-3  # of float16 near 1
_INT32, _FLOAT32 = (np.dtype(np.int32),), (np.dtype(np.float32),)
_FLOATS = (*_FLOAT32, np.dtype(np.float16))


class MapError(DensecastError):
    """A map or its row is not consistent, or cannot be stored; the message names the row and the array."""


class CellError(MapError, IndexError):
    """A cell or a pixel is outside the map."""


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """A blob that is kept with a map.

    Attributes:
        name: The name of the blob in the model.
        values: float32 or float16 [h', w', channels]; h' and w' can differ from those of the map.
    """

    name: str
    values: Probabilities


class Cut(Protocol):
    """Takes a part of an array [h, w, ...], whatever its type; `pipeline.maps.tiling.Tile.kept`."""

    def __call__(self, cells: NDArray[Cells], /) -> NDArray[Cells]:
        """Returns the part."""


class CellScores(NamedTuple):
    """What an engine computes for one image.

    Attributes:
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], the probabilities of `classes`, descending in k.
        residual: float32 [h, w], the probability mass outside `classes`.
        probabilities: [h, w, C]: float16 for the form of that name, otherwise float32; None for the top k.
        features: The requested blobs.
    """

    classes: Integers
    scores: Floats
    residual: Floats
    probabilities: Probabilities | None = None
    features: tuple[Feature, ...] = ()

    def part(self, kept: Cut) -> "CellScores":
        """Returns a part of the cells: those that a tile contributes to the map of its image.

        Args:
            kept: Takes the part of each array.

        Raises:
            MapError: A feature has a different number of cells; see `pipeline.maps.features.check_tileable`.
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
    """Returns the best `k` classes of every cell; of equal probabilities the lower class comes first.

    Args:
        probabilities: float [h, w, C].
        k: Number of classes to keep; all classes if C is smaller.

    Returns:
        The scores, without the full probabilities.
    """
    order = np.argsort(-probabilities.astype(np.float32), axis=-1, kind="stable")[..., :k]
    scores = np.take_along_axis(probabilities, order, axis=-1).astype(np.float32)
    return CellScores(order.astype(np.int32), scores, residual_mass(scores))


def residual_mass(scores: Floats) -> Floats:
    """Returns the probability outside the kept classes, 0 to 1: float32 [..., h, w] for scores [..., h, w, k]."""
    outside: NDArray[np.float64] = np.clip(1 - scores.sum(axis=-1, dtype=np.float64), 0, 1)
    return outside.astype(np.float32)


class RankedClass(NamedTuple):
    """A class of a map, and its mean probability.

    Attributes:
        number: The class, counted from 0.
        label: Its whole label.
        score: Its probability, averaged over all cells, 0 to 1.
    """

    number: int
    label: str
    score: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClassificationMap:
    """The class probabilities at every cell of one image at one scale; the arrays are read-only.

    Attributes:
        uri: The address of the image.
        id: The image's id, if it has one.
        image_size: (height, width) of the image in pixels.
        labels: The label of every class; empty if the model has none.
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], the probabilities of `classes`, descending in k.
        residual: float32 [h, w], the probability mass outside `classes`.
        probabilities: float32 or float16 [h, w, C]; None if only the top k were kept.
        geometry: Where the cells lie in the image.
        model_digest: The digest of the model.
        run_id: The run that computed the map.
        scale: The factor by which the image was enlarged before it was scored.
        key: The content address of the map; empty for a fused map.
        features: The blobs kept with the map, by name: float32 or float16 [h', w', channels].
        scored_size: (height, width) in pixels of the image that the model saw; None if it is not known.
        fused_from: The scales whose mean a fused map is; empty for any other map.

    Raises:
        MapError: The shapes or types of the arrays do not match.
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

    def __repr__(self) -> str:
        """Returns the address, the sizes and the best class, in one short line."""
        (height, width), (rows, columns) = self.image_size, self.size
        best = int(np.bincount(self.classes[..., 0].ravel()).argmax())
        scales = f"fused from {len(self.fused_from)} scales" if self.fused_from else f"scale {self.scale:g}"
        return (
            f"<ClassificationMap {self.uri!r}: {rows} x {columns} cells, image {height} x {width}, {scales},"
            f" most often {self.label_of(best)[:40]!r}>"
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the map in cells."""
        height, width, _ = self.classes.shape
        return height, width

    def window(self, y: int, x: int) -> tuple[float, float, float, float]:
        """Returns the nominal window of cell (y, x): (top, left, bottom, right) in pixels, half-open; may overhang.

        Raises:
            CellError: There is no such cell.
        """
        return self.geometry.window(*self._cell(y, x))

    def center(self, y: int, x: int) -> tuple[float, float]:
        """Returns the pixel (y, x) on which cell (y, x) is centred; it may lie between pixels.

        Raises:
            CellError: There is no such cell.
        """
        return self.geometry.center(*self._cell(y, x))

    def at(self, pixel_y: float, pixel_x: float) -> tuple[int, int]:
        """Returns the cell (y, x) whose centre is nearest to a pixel.

        Raises:
            CellError: The pixel is outside the image.
        """
        height, width = self.image_size
        if not (0 <= pixel_y < height and 0 <= pixel_x < width):
            raise CellError(
                f"pixel ({pixel_y}, {pixel_x}) is outside the image of {height} x {width} pixels", where=self.uri
            )
        rows, columns = self.size
        y, x = self.geometry.y.cell_at(pixel_y), self.geometry.x.cell_at(pixel_x)
        return min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)

    @property
    def interior(self) -> tuple[slice, slice]:
        """The cells whose receptive field has no padding, for indexing: `map.scores[map.interior]`; may be empty."""
        (height, width), (rows, columns) = self.image_size, self.size
        y, x = self.geometry.y.interior(height, rows), self.geometry.x.interior(width, columns)
        return slice(y.start, y.stop), slice(x.start, x.stop)

    @property
    def overhang(self) -> tuple[float, float]:
        """Pixels by which the last windows reach past the image, as (down, right); 0 if they do not."""
        (height, width), (rows, columns) = self.image_size, self.size
        return float(self.geometry.y.overhang(height, rows)), float(self.geometry.x.overhang(width, columns))

    def label(self, y: int, x: int) -> str:
        """Returns the label of the best class of a cell; `class 17` if the model has no labels.

        Raises:
            CellError: There is no such cell.
        """
        y, x = self._cell(y, x)
        return self.label_of(int(self.classes[y, x, 0]))

    def label_of(self, index: int) -> str:
        """Returns the label of a class; `class 17` if the model has none for it."""
        label = self.labels[index] if 0 <= index < len(self.labels) else ""
        return label if label.strip() else f"class {index}"

    def top(self, n: int = DEFAULT_K) -> list[RankedClass]:
        """Returns the classes with the highest mean probability over all cells, best first.

        Without `probabilities`, the probability of a class counts as 0 in the cells where it is outside the top k. So
        the mean is a lower bound; it is too low by no more than the mean of `residual`.

        Args:
            n: Number of classes; fewer are returned if fewer occur.
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
    """Checks that the arrays of a map match.

    Args:
        where: The image, for the message.
        cells: The arrays.
        class_count: C, if it is known.

    Raises:
        MapError: The shape or type of an array does not match the others, or a class is not from 0 to C - 1.
    """
    shape = cells.classes.shape
    if len(shape) != 3 or 0 in shape:
        raise MapError(f"classes have the shape {list(shape)} where [h, w, k] is needed", where=where)
    if class_count is None and cells.probabilities is not None and cells.probabilities.ndim == 3:
        class_count = cells.probabilities.shape[2]
    wanted = {
        "classes": (cells.classes, shape, _INT32),
        "scores": (cells.scores, shape, _FLOAT32),
        "residual": (cells.residual, shape[:2], _FLOAT32),
        "probabilities": (cells.probabilities, (*shape[:2], class_count), _FLOATS),
    }
    for name, (array, expected, dtypes) in wanted.items():
        if array is not None and (array.shape != expected or array.dtype not in dtypes):
            needed = f"{' or '.join(dtype.name for dtype in dtypes)} {list(expected)}"
            raise MapError(
                f"{name} are {array.dtype} {list(array.shape)} where {needed} is needed",
                where=where,
            )
    for feature in cells.features:
        size, dtype = feature.values.shape, feature.values.dtype
        if len(size) != 3 or 0 in size or dtype not in _FLOATS:
            raise MapError(
                f"feature {feature.name} is {dtype} {list(size)} where float32 or float16 [h, w, c] is needed",
                where=where,
            )
    lowest, highest = int(cells.classes.min()), int(cells.classes.max())
    if lowest < 0 or (class_count is not None and highest >= class_count):
        raise MapError(f"classes range from {lowest} to {highest} where there are {class_count}", where=where)


def check_values(where: str, cells: CellScores) -> None:
    """Checks that probabilities are from 0 to 1, and that features are finite.

    Raises:
        MapError: A value is NaN or infinite, or a probability is outside 0 to 1 by more than rounding errors.
    """
    for name, values in (
        ("scores", cells.scores),
        ("residual", cells.residual),
        ("probabilities", cells.probabilities),
    ):
        # The least and the greatest value are NaN where one is, and NaN fails both comparisons.
        if values is not None and values.size and not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
            raise MapError(f"{name} are not all between 0 and 1", where=where, why="a map holds probabilities")
    for feature in cells.features:
        if not np.isfinite(feature.values).all():
            raise MapError(
                f"feature {feature.name} is not finite everywhere",
                where=where,
                why="float16 holds values up to 65504" if feature.values.dtype == np.float16 else "",
                remedy="keep it as float32" if feature.values.dtype == np.float16 else "",
            )
