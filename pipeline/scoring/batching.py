"""Groups images into batches of one shape, such that an image's map does not depend on the others.

In its last bits, an engine's result for an image depends on the number of images in the batch: another number leads to
another blocking of the matrix products. So the size of a batch is a function of the shape alone. With some engines
and processors the result also depends on the image's place in the batch, or on its neighbours: `BatchEffect` says
which, and `pipeline.scoring.batch_effect` measures it. Where the place matters, an image has a lane, a place that
follows from its content. Where neighbours matter, every image is a batch of its own. An engine whose maps depend on
nothing but the image, and that takes images of several sizes, gets them as they come: `MixedBatcher`.

Pure: no framework, no pixels (items are opaque), no clock.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

_MOST_LANES = 8  # with more, lanes that lack an image make up most of the batches of a small bundle

Shape: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


class BatchEffect(StrEnum):
    """What the last bits of an image's map depend on, besides the image and the size of its batch."""

    NONE = "none"
    """Nothing else."""
    PLACE = "place"
    """Its place in the batch."""
    NEIGHBOURS = "neighbours"
    """The other images of the batch."""


@dataclasses.dataclass(frozen=True)
class BatchBudget:
    """The size of batches, and of the images that wait for a batch.

    Attributes:
        pixel_budget: The most pixels in a batch. A single image may exceed it, and is then a batch of its own.
        mixed_pixels: The most pixels in a batch of images of several sizes. A single image may exceed it, as above.
        max_batch: The most images in a batch.
        max_pending_pixels: The most pixels in incomplete batches (3 bytes each, as RGB uint8). Only images of at most
            half the pixel budget wait in a batch; a larger image is a batch of its own.

    Raises:
        ValueError: An attribute is less than 1.
    """

    pixel_budget: int = 451 * 451
    mixed_pixels: int = 4 * 451 * 451
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
    check_shape(shape)
    return max(1, min(budget.max_batch, budget.pixel_budget // (height * width)))


def check_shape(shape: Shape) -> None:
    """Raises ValueError if the height or the width is less than 1."""
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} rows and {width} columns has no pixels to batch")


@dataclasses.dataclass(frozen=True)
class Batch(Generic[T]):
    """Images to run together.

    Attributes:
        shape: (height, width) of each image, in pixels; None if they are of several sizes.
        items: 1 to `size` images.
        places: The place of each item in the batch, 0 to `size` - 1. Any image of the shape may fill the other places.
        size: The number of images to run; a function of the shape, if there is one.
    """

    shape: Shape | None
    items: tuple[T, ...]
    places: tuple[int, ...]
    size: int

    def alone(self) -> Iterator["Batch[T]"]:
        """Yields each item in a batch of this size, at its place."""
        for item, place in zip(self.items, self.places, strict=True):
            yield Batch(self.shape, (item,), (place,), self.size) if self.shape else Batch(None, (item,), (0,), 1)

    def halves(self) -> Iterator["Batch[T]"]:
        """Yields the items in batches of half the size. Their bits may be others than in the whole batch."""
        half = self.size // 2
        for start in range(0, len(self.items), half):
            items = self.items[start : start + half]
            yield Batch(self.shape, items, tuple(range(len(items))), half if self.shape else len(items))


class _Bucket(Generic[T]):
    """The images of one shape that wait: a queue for each lane; one queue for all places where the place is free."""

    def __init__(self, shape: Shape, size: int, lanes: int) -> None:
        self._shape, self._size = shape, size
        self._lanes: list[deque[T]] = [deque() for _ in range(lanes)]

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def add(self, item: T, key: int) -> bool:
        """Adds an item; returns whether a batch is complete."""
        self._lanes[key % len(self._lanes)].append(item)
        return len(self._lanes[0]) == self._size if len(self._lanes) == 1 else all(self._lanes)

    def take(self) -> Batch[T]:
        """Removes and returns the batch of the items that have waited longest."""
        if len(self._lanes) == 1:
            [queue] = self._lanes
            items = tuple(queue.popleft() for _ in range(min(self._size, len(queue))))
            return Batch(self._shape, items, tuple(range(len(items))), self._size)
        places = tuple(place for place, queue in enumerate(self._lanes) if queue)
        return Batch(self._shape, tuple(self._lanes[place].popleft() for place in places), places, self._size)


class Batcher(Generic[T]):
    """Collects items into batches of one shape each.

    The order of the batches is a function of the order of the items. It is not thread-safe: each bundle has its own.

    Args:
        budget: The size of batches.
        effect: What maps depend on. With `PLACE`, images of one lane wait for images of the others, so that more wait
            and more batches are incomplete; with `NEIGHBOURS`, all batches have size 1.
    """

    def __init__(self, budget: BatchBudget, effect: BatchEffect = BatchEffect.NONE) -> None:
        self._budget, self._effect = budget, effect
        # Dictionaries keep insertion order, and an empty bucket is removed: the first bucket is the oldest.
        self._buckets: dict[Shape, _Bucket[T]] = {}
        self._pending_pixels = 0

    @property
    def pending_pixels(self) -> int:
        """Pixels in incomplete batches, at most the budget's `max_pending_pixels`."""
        return self._pending_pixels

    def size(self, shape: Shape) -> int:
        """Returns the number of images of a shape in a batch; raises ValueError if it has no pixels."""
        size = batch_size(shape, self._budget)
        match self._effect:
            case BatchEffect.NEIGHBOURS:
                return 1
            case BatchEffect.PLACE:
                return min(size, _MOST_LANES)
        return size

    def add(self, item: T, shape: Shape, key: int) -> list[Batch[T]]:
        """Adds one item of (height, width) `shape`.

        Args:
            item: The item.
            shape: Its (height, width).
            key: A number that follows from the content, spread evenly: `key` modulo the batch size is the lane.

        Returns:
            The batches to run now: the batch that `item` completes, and, while too many pixels wait, batches of the
            shape that has waited longest.

        Raises:
            ValueError: The height or the width is less than 1.
        """
        if shape not in self._buckets:
            size = self.size(shape)
            self._buckets[shape] = _Bucket(shape, size, size if self._effect is BatchEffect.PLACE else 1)
        self._pending_pixels += shape[0] * shape[1]
        ready = [self._take(shape)] if self._buckets[shape].add(item, key) else []
        while self._pending_pixels > self._budget.max_pending_pixels:
            ready.append(self._take(next(iter(self._buckets))))
        return ready

    def flush(self) -> list[Batch[T]]:
        """Returns all incomplete batches; the shape that has waited longest comes first."""
        batches = []
        while self._buckets:
            batches.append(self._take(next(iter(self._buckets))))
        return batches

    def _take(self, shape: Shape) -> Batch[T]:
        bucket = self._buckets[shape]
        batch = bucket.take()
        if not bucket:
            del self._buckets[shape]
        self._pending_pixels -= shape[0] * shape[1] * len(batch.items)
        return batch


class MixedBatcher(Generic[T]):
    """Collects items of any shapes into batches, in their order; none has places that are not filled.

    Args:
        budget: The size of batches.
    """

    def __init__(self, budget: BatchBudget) -> None:
        self._budget = budget
        self._items: list[T] = []
        self._pending_pixels = 0

    @property
    def pending_pixels(self) -> int:
        """Pixels in the incomplete batch, fewer than the budget's `mixed_pixels`."""
        return self._pending_pixels

    def add(self, item: T, shape: Shape, _key: int) -> list[Batch[T]]:
        """Adds one item of (height, width) `shape`.

        Returns:
            The batches to run now: the one that it does not fit into, and the one that it completes.

        Raises:
            ValueError: The height or the width is less than 1.
        """
        check_shape(shape)
        pixels, most = shape[0] * shape[1], self._budget.mixed_pixels
        ready = self.flush() if self._pending_pixels + pixels > most else []
        self._items.append(item)
        self._pending_pixels += pixels
        if self._pending_pixels >= most or len(self._items) == self._budget.max_batch:
            ready += self.flush()
        return ready

    def flush(self) -> list[Batch[T]]:
        """Returns the incomplete batch, if there is one."""
        items, self._items, self._pending_pixels = tuple(self._items), [], 0
        return [Batch(None, items, tuple(range(len(items))), len(items))] if items else []
