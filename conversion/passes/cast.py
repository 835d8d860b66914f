"""The cast: a classifier becomes fully convolutional. An ordered list of passes over a Network.

Each pass takes a Network and returns another; what it expects and what it gives is in its docstring. After every one
of them the net computes, at the definition's own size, what the classifier computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from conversion.errors import CastError, NetworkError
from conversion.net.geometry import spans
from conversion.net.network import Network
from conversion.passes.bypass_flatten import bypass_flatten
from conversion.passes.inner_products import inner_products_to_convolutions
from conversion.passes.keep_positions import keep_positions
from conversion.passes.reductions import reductions_to_poolings
from conversion.passes.slide_windows import slide_whole_windows

# Poolings first, while shapes are the classifier's. An InnerProduct must see the [N, C, H, W] blob to know its kernel:
# what flattens goes before it, by the bypass where nothing but InnerProducts reads it, so that no copy is left.
PASSES: tuple[Callable[[Network], Network], ...] = (
    slide_whole_windows,
    reductions_to_poolings,
    bypass_flatten,
    keep_positions,
    inner_products_to_convolutions,
)


def cast(network: Network) -> Network:
    """The fully convolutional form of a classifier: every head becomes convolutions and poolings that slide.

    At the definition's own input size, which must be the one that the classifier was trained at, the result equals the
    classifier; on a larger input it gives a map. Layers and blobs that become convolutions gain the suffix `-conv`.
    Works with and without weights.

    Raises:
        CastError: A layer cannot be made convolutional; the message names it and says why.
    """
    for one in PASSES:
        network = one(network)
    _check_that_it_slides(network)
    return network


def _check_that_it_slides(network: Network) -> None:
    """Raises CastError where a larger image gives maps that do not fit each other: heads on maps of other strides."""
    images = [blob for blob, shape in network.inputs.items() if len(shape) == 4]
    if len(images) != 1:
        return
    steps = [pair for pair in spans(network).values() if pair is not None]
    larger = dict(network.inputs)
    shape = larger[images[0]]
    # Two strides of the coarsest map more: what corresponds at the training size and slides alike still corresponds.
    y, x = (2 * math.lcm(*(math.ceil(pair[axis].stride) for pair in steps)) for axis in (0, 1))
    larger[images[0]] = (*shape[:2], shape[2] + y, shape[3] + x)
    try:
        network.shapes_at(larger)
    except NetworkError as error:
        raise CastError(
            f"on an image of {shape[2] + y}x{shape[3] + x}: {error.what}",
            where=error.where,
            why="the net computes one size only; its maps slide by different strides, or a layer states a size",
        ) from error
