"""Where the cells of a map lie in its image."""

from dataclasses import dataclass, fields
from typing import Self

from conversion import AxisGeometry, ModelMetadata
from pipeline.images.resize import Size


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the cells of a map lie in its image, in pixels of the image as it was read (before any scaling).

    This is how a table stores `conversion.ReceptiveField`: the attributes of both axes as numbers. `y` and `x` are the
    axes; `conversion.AxisGeometry` has the arithmetic. Cell i is centred on pixel `offset + stride * i`. Its nominal
    window is half-open, starts at `offset - (window - 1) / 2 + stride * i`, and is `window` pixels long.

    Attributes:
        stride_y: Pixels from a cell to the one below it; positive.
        stride_x: Pixels from a cell to the one on its right; positive.
        offset_y: The row of pixels on which cell 0 is centred; .5 lies between two pixels.
        offset_x: The column of pixels on which cell 0 is centred.
        window_y: Height of the nominal window, which a cell classifies: the input size in training; positive.
        window_x: Width of the nominal window.
        receptive_field_y: Height of the receptive field; beyond the image it contains padding.
        receptive_field_x: Width of the receptive field.
        shift_y: Pixels from the centre of the nominal window down to the centre of the receptive field.
        shift_x: Pixels to the right, likewise.
    """

    stride_y: float
    stride_x: float
    offset_y: float
    offset_x: float
    window_y: float
    window_x: float
    receptive_field_y: float
    receptive_field_x: float
    shift_y: float = 0.0
    shift_x: float = 0.0

    @property
    def y(self) -> AxisGeometry:
        """The vertical axis."""
        return self._axis("y")

    @property
    def x(self) -> AxisGeometry:
        """The horizontal axis."""
        return self._axis("x")

    @classmethod
    def of(cls, y: AxisGeometry, x: AxisGeometry) -> Self:
        """Returns the geometry of two axes."""
        axes = (("y", y), ("x", x))
        return cls(**{f"{name}_{suffix}": float(getattr(axis, name)) for suffix, axis in axes for name in _NUMBERS})

    def _axis(self, suffix: str) -> AxisGeometry:
        return AxisGeometry(*(getattr(self, f"{name}_{suffix}") for name in _NUMBERS))

    def center(self, y: int, x: int) -> tuple[float, float]:
        """Returns the pixel (y, x) on which a cell is centred; it may lie between pixels."""
        return float(self.y.center(y)), float(self.x.center(x))

    def window(self, y: int, x: int) -> tuple[float, float, float, float]:
        """Returns a cell's nominal window: (top, left, bottom, right) in pixels, half-open; it may overhang the image.

        >>> Geometry(32, 32, 113, 113, 227, 227, 355, 355).window(1, 0)
        (32.0, 0.0, 259.0, 227.0)
        """
        (top, bottom), (left, right) = self.y.span(y), self.x.span(x)
        return float(top), float(left), float(bottom), float(right)


_NUMBERS = tuple(field.name for field in fields(AxisGeometry))


def geometry_of(metadata: ModelMetadata) -> Geometry:
    """Returns the geometry of a model's maps, in pixels of the image as it is scored."""
    return Geometry.of(metadata.geometry.y, metadata.geometry.x)


def original_geometry(geometry: Geometry, original: Size, scored: Size) -> Geometry:
    """Returns a map's geometry in pixels of the image as it was read.

    Pixel borders map onto pixel borders, so pixel centres map as c -> (c + 0.5) * original / scored - 0.5, and lengths
    are multiplied by original / scored.

    Args:
        geometry: The geometry in pixels of the image as it was scored.
        original: Height and width of the image as it was read.
        scored: Height and width that it was scaled to.
    """
    y, x = original[0] / scored[0], original[1] / scored[1]
    return Geometry(
        stride_y=geometry.stride_y * y,
        stride_x=geometry.stride_x * x,
        offset_y=(geometry.offset_y + 0.5) * y - 0.5,
        offset_x=(geometry.offset_x + 0.5) * x - 0.5,
        window_y=geometry.window_y * y,
        window_x=geometry.window_x * x,
        receptive_field_y=geometry.receptive_field_y * y,
        receptive_field_x=geometry.receptive_field_x * x,
        shift_y=geometry.shift_y * y,
        shift_x=geometry.shift_x * x,
    )
