"""Groups images into batches of one shape, whose size depends only on the shape.

Why the batch size depends on nothing else: in its last bits, TensorFlow's result for an image depends on the number of
images in the batch (another number leads to another blocking of the matrix products). So every batch of a shape is
padded to one size by repeating its last image. On most processors an image's map then depends neither on its position
in the batch nor on the other images. On some (AMD Zen 3) the position still changes the last bits (2.4e-7 measured). So
resumed, re-sharded and distributed runs agree within 1e-6, and mostly to the last bit.

Pure: no framework, no pixels (items are opaque), no clock.
"""

import dataclasses
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Shape: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


@dataclasses.dataclass(frozen=True)
class BatchBudget:
    """The size of batches, and of the images that wait for a batch.

    Attributes:
        pixel_budget: The most pixels in a batch. A single image may exceed it, and is then a batch of its own.
        max_batch: The most images in a batch.
        max_pending_pixels: The most pixels in incomplete batches (3 bytes each, as RGB uint8). Only images of at most
            half the pixel budget wait in a batch; a larger image is a batch of its own.

    Raises:
        ValueError: An attribute is less than 1.
    """

    pixel_budget: int = 451 * 451
    max_batch: int = 32
    max_pending_pixels: int = 2**24

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be at least 1")


def batch_size(shape: Shape, budget: BatchBudget) -> int:
    """Returns the number of images of a shape in a batch: max(1, min(max_batch, pixel_budget // (height * width))).

    >>> batch_size((227, 227), BatchBudget()), batch_size((451, 451), BatchBudget()), batch_size((8, 8), BatchBudget())
    (3, 1, 32)

    Raises:
        ValueError: The height or the width is less than 1.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} rows and {width} columns has no pixels to batch")
    return max(1, min(budget.max_batch, budget.pixel_budget // (height * width)))


@dataclasses.dataclass(frozen=True)
class Batch(Generic[T]):
    """Images to run together.

    Attributes:
        shape: (height, width) of each image, in pixels.
        items: 1 to `size` images, in the order of their arrival.
        size: The number of images to pad the batch to, by repeating its last image; a function of the shape.
    """

    shape: Shape
    items: tuple[T, ...]
    size: int


class Batcher(Generic[T]):
    """Collects items into batches of one shape each.

    The order of the batches is a function of the order of the items. It is not thread-safe: each bundle has its own.
    """

    def __init__(self, budget: BatchBudget) -> None:
        self._budget = budget
        # Dictionaries keep insertion order, and a released bucket is removed: the first bucket is the oldest.
        self._buckets: dict[Shape, list[T]] = {}
        self._pending_pixels = 0

    @property
    def pending_pixels(self) -> int:
        """Pixels in incomplete batches, at most the budget's `max_pending_pixels`."""
        return self._pending_pixels

    def add(self, item: T, shape: Shape) -> list[Batch[T]]:
        """Adds one item of (height, width) `shape`.

        Returns:
            The batches to run now: the batch that `item` completes, and, while too many pixels wait, the incomplete
            batches whose first item has waited longest.

        Raises:
            ValueError: The height or the width is less than 1.
        """
        size = batch_size(shape, self._budget)
        bucket = self._buckets.setdefault(shape, [])
        bucket.append(item)
        self._pending_pixels += shape[0] * shape[1]
        ready = [self._release(shape)] if len(bucket) == size else []
        while self._pending_pixels > self._budget.max_pending_pixels:
            ready.append(self._release(next(iter(self._buckets))))
        return ready

    def flush(self) -> list[Batch[T]]:
        """Returns all incomplete batches; the batch whose first item has waited longest comes first."""
        return [self._release(shape) for shape in list(self._buckets)]

    def _release(self, shape: Shape) -> Batch[T]:
        items = tuple(self._buckets.pop(shape))
        self._pending_pixels -= shape[0] * shape[1] * len(items)
        return Batch(shape, items, batch_size(shape, self._budget))
