"""Where the cells of a map lie in its image."""

from dataclasses import dataclass

from conversion import AxisGeometry, ModelMetadata, Number
from pipeline.images.resize import Size


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the cells of a map lie in its image, in pixels of the image as it was read (not as it was scaled).

    Cell i is centred on pixel `offset + stride * i`; its nominal window covers the half-open interval from
    `offset - (window - 1) / 2 + stride * i`, `window` pixels long.

    Attributes:
        stride_y: Pixels from a cell to the one below it; positive.
        stride_x: Pixels from a cell to the one right of it; positive.
        offset_y: The row of pixels on which cell 0 is centred; .5 lies between two pixels.
        offset_x: The column of pixels on which cell 0 is centred.
        window_y: Height of what a cell classifies: the input that the classifier was trained on; positive.
        window_x: Width of the same.
        receptive_field_y: Height of all that a cell can see; beyond the image it sees padding.
        receptive_field_x: Width of the same.
        shift_y: From the centre of the window down to that of the receptive field.
        shift_x: The same to the right.
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
        return AxisGeometry(self.stride_y, self.offset_y, self.window_y, self.receptive_field_y, self.shift_y)

    @property
    def x(self) -> AxisGeometry:
        """The horizontal axis."""
        return AxisGeometry(self.stride_x, self.offset_x, self.window_x, self.receptive_field_x, self.shift_x)

    def center(self, y: int, x: int) -> tuple[float, float]:
        """The pixel (y, x) on which a cell is centred; may lie between pixels."""
        return float(self.y.center(y)), float(self.x.center(x))

    def window(self, y: int, x: int) -> tuple[float, float, float, float]:
        """The nominal window of a cell: (top, left, bottom, right) in pixels, half-open; may overhang the image.

        >>> Geometry(32, 32, 113, 113, 227, 227, 355, 355).window(1, 0)
        (32.0, 0.0, 259.0, 227.0)
        """
        (top, bottom), (left, right) = self.y.span(y), self.x.span(x)
        return float(top), float(left), float(bottom), float(right)


def geometry_of(metadata: ModelMetadata) -> Geometry:
    """The geometry of a model's maps, in pixels of the image as it is scored."""
    y, x = metadata.geometry.y, metadata.geometry.x
    return Geometry(
        *(y.stride, x.stride, y.offset, x.offset, y.window, x.window),
        *(y.receptive_field, x.receptive_field, y.shift, x.shift),
    )


def original_geometry(geometry: Geometry, original: Size, scored: Size) -> Geometry:
    """The geometry of a map in pixels of the image as it was read, from that in pixels of the image as it was scored.

    Pixel centres map as c -> (c + 0.5) * original / scored - 0.5, as pixel borders map onto each other; lengths are
    multiplied.

    Args:
        geometry: The model's.
        original: Height and width of the image as it was read.
        scored: Height and width that it was scaled to.
    """
    y, x = original[0] / scored[0], original[1] / scored[1]

    def center(offset: Number, factor: float) -> float:
        return (float(offset) + 0.5) * factor - 0.5

    return Geometry(
        stride_y=geometry.stride_y * y,
        stride_x=geometry.stride_x * x,
        offset_y=center(geometry.offset_y, y),
        offset_x=center(geometry.offset_x, x),
        window_y=geometry.window_y * y,
        window_x=geometry.window_x * x,
        receptive_field_y=geometry.receptive_field_y * y,
        receptive_field_x=geometry.receptive_field_x * x,
        shift_y=geometry.shift_y * y,
        shift_x=geometry.shift_x * x,
    )
