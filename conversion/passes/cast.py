"""The cast: a classifier becomes fully convolutional. An ordered list of passes over a Network.

Each pass takes a Network and returns another; its docstring states what is given and what results. After each pass the
net computes, at the definition's own size, what the classifier computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from conversion.errors import CastError, NetworkError
from conversion.net.geometry import spans
from conversion.net.network import Network
from conversion.passes.bypass_flatten import bypass_flatten
from conversion.passes.fit_upsampled import fit_upsampled
from conversion.passes.inner_products import inner_products_to_convolutions
from conversion.passes.keep_positions import keep_positions
from conversion.passes.pooled_sizes import sizes_of_pooled_maps
from conversion.passes.positional_norms import norms_of_positions
from conversion.passes.reductions import reductions_to_poolings
from conversion.passes.slide_windows import slide_whole_windows

# Poolings come first, while shapes are the classifier's. An InnerProduct needs the [N, C, H, W] blob for its kernel, so
# Flatten goes before it: by the bypass if only InnerProducts read it, which leaves no copy.
PASSES: tuple[Callable[[Network], Network], ...] = (
    slide_whole_windows,
    sizes_of_pooled_maps,
    fit_upsampled,
    norms_of_positions,
    reductions_to_poolings,
    bypass_flatten,
    keep_positions,
    inner_products_to_convolutions,
)


def cast(network: Network) -> Network:
    """Returns the fully convolutional form of a classifier: every head becomes convolutions and poolings that slide.

    At the definition's own input size, which must be the size that the classifier was trained at, the result equals the
    classifier; on a larger input it computes a map. Layers and blobs that become convolutions get the suffix `-conv`.
    Weights are optional.

    Raises:
        CastError: A layer cannot be made convolutional; the message names it and says why.
    """
    for one in PASSES:
        network = one(network)
    _check_that_it_slides(network)
    return network


def _check_that_it_slides(network: Network) -> None:
    """Raises CastError if maps of a larger image do not fit each other, as with heads on maps of other strides."""
    images = [blob for blob, shape in network.inputs.items() if len(shape) == 4]
    if len(images) != 1:
        return
    steps = [pair for pair in spans(network).values() if pair is not None]
    larger = dict(network.inputs)
    shape = larger[images[0]]
    # Two strides of the coarsest map larger: maps that fit at the training size and slide alike still fit.
    y, x = (2 * math.lcm(*(math.ceil(pair[axis].stride) for pair in steps)) for axis in (0, 1))
    larger[images[0]] = (*shape[:2], shape[2] + y, shape[3] + x)
    try:
        network.shapes_at(larger)
    except NetworkError as error:
        raise CastError(
            f"on an image of {shape[2] + y}x{shape[3] + x}: {error.what}",
            where=error.where,
            why="the net accepts one size only: its maps slide by different strides, or a layer states a size",
        ) from error
