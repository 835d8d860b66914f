"""Arrays of images that arrive in any order, kept in temporary files, so that memory stays flat."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TableError

Values = NDArray[Any]
"""Numbers of one image: [h, w, channels]."""


class SpooledArray:
    """One array of every image, in a file; images are counted in the order in which they arrive.

    Args:
        file: An empty file, which is open for reading and writing.
        name: The name of the array, for messages.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self.name = file, name
        self._starts: list[int] = []
        self._shapes: list[tuple[int, int]] = []
        self._cells = 0
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self.channels = 0

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, values: Values, where: str) -> None:
        """Adds the array of the next image.

        Raises:
            TableError: It has other channels or another type than those before.
        """
        height, width, channels = values.shape
        if not self._starts:
            self.dtype, self.channels = values.dtype, channels
        if (values.dtype, channels) != (self.dtype, self.channels):
            raise TableError(
                f"{self.name} is {values.dtype} with {channels} channels",
                where=where,
                why=f"that of the images before is {self.dtype} with {self.channels}",
                remedy="export the maps of one run: --run",
            )
        self._starts.append(self._cells)
        self._shapes.append((height, width))
        self._cells += height * width
        self._file.write(np.ascontiguousarray(values).tobytes())

    def ordered(self, order: Sequence[int]) -> OrderedArray:
        """Returns the array with its images in an order: `order[i]` is the place at which image i arrived."""
        self._file.flush()
        size = (self._cells, self.channels)
        cells: Values = (
            np.memmap(self._file, self.dtype, "r", shape=size) if self._cells else np.empty(size, self.dtype)
        )
        return OrderedArray(self.name, cells, [self._starts[i] for i in order], [self._shapes[i] for i in order])


class OrderedArray:
    """One array of every image, in the order of an export.

    Attributes:
        name: Its name.
        dtype: Its type.
        channels: Its channels.
        shapes: (rows, columns) of cells of each image.
        size: Those of every image, if all have the same; else None.
    """

    def __init__(self, name: str, cells: Values, starts: Sequence[int], shapes: Sequence[tuple[int, int]]) -> None:
        self.name, self._cells, self._starts, self.shapes = name, cells, starts, shapes
        self.dtype, self.channels = cells.dtype, int(cells.shape[1])
        self.size = shapes[0] if len(set(shapes)) == 1 else None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Values:
        height, width = self.shapes[index]
        start = self._starts[index]
        return self._cells[start : start + height * width].reshape(height, width, self.channels)

    def __iter__(self) -> Iterator[Values]:
        return (self[index] for index in range(len(self)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array over all images.

        [N, channels] if every image has one cell; [N, n, channels] if it has n in a row; [N, h, w, channels] if all
        have h x w; otherwise [cells of all images, channels].
        """
        if self.size is None:
            return (sum(height * width for height, width in self.shapes), self.channels)
        height, width = self.size
        cells = () if (height, width) == (1, 1) else (width,) if height == 1 else (height, width)
        return (len(self), *cells, self.channels)


class Spool:
    """Temporary files of arrays, by name; use it as a context manager."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.arrays: dict[str, SpooledArray] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def append(self, name: str, values: Values, where: str) -> None:
        """Adds the array of the next image; see `SpooledArray.append`."""
        if name not in self.arrays:
            # Closed with the spool.
            temporary = tempfile.TemporaryFile(dir=self._folder, prefix=".densecast-")  # noqa: SIM115
            file = self._stack.enter_context(temporary)
            self.arrays[name] = SpooledArray(file, name)
        self.arrays[name].append(values, where)
