"""Convolutions that were InnerProducts, as matrix products over cells: how an engine of ours runs them.

These layers have most of a classifier's weights. As MatMul their matrices are in the order that is stored, so that a
runtime packs each once and keeps no copy; and a kernel of several cells is run by minimal filtering.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conversion.arrays import Array
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution
from conversion.layers.minimal_filtering import LARGEST_KERNEL, OUTPUTS, filtering
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import Size, as_dim, as_value, padded, size_of, vector
from conversion.passes.cast_names import CAST_SUFFIX

_LEAST_WEIGHTS = 1 << 20  # fewer take little memory
_END = np.iinfo(np.int64).max
OPSET_OF_PRODUCTS = 14
"""The first in which a Reshape may state a length of 0."""


def is_cellwise(layer: Layer, arrays: Sequence[Array]) -> bool:
    """Returns whether a layer with these weights (see `Layer.prepare`) is run as products over cells.

    It is a large convolution that was an InnerProduct: one group, no padding, stride and dilation 1, a square kernel.
    """
    if not isinstance(layer, Convolution) or not layer.name.endswith(CAST_SUFFIX) or layer.group != 1:
        return False
    (rows, columns), stride, before, after, dilation = layer.windows(2)
    plain = stride == dilation == (1, 1) and before == after == (0, 0)
    return plain and rows == columns <= LARGEST_KERNEL and arrays[0].size >= _LEAST_WEIGHTS


def cell_products(graph: OnnxGraph, bottom: Value, matrices: Sequence[Value], biases: Sequence[Value]) -> Value:
    """Returns the top [N, outside, h, w] of such a layer for its bottom [N, inside, H, W].

    Args:
        graph: The graph.
        bottom: The bottom.
        matrices: That of the layer, [inside, outside], if its kernel is 1 x 1; else `transformed_filters`.
        biases: [outside], if there are any.
    """
    cells = graph.transposed(bottom, [0, 2, 3, 1])
    top = graph.node("MatMul", [cells, *matrices]) if len(matrices) == 1 else _filtered(graph, cells, matrices)
    return graph.transposed(graph.node("Add", [top, *biases]) if biases else top, [0, 3, 1, 2])


def _filtered(graph: OnnxGraph, cells: Value, matrices: Sequence[Value]) -> Value:
    """Returns a kernel's outputs [N, h, w, outside] for cells [N, H, W, inside], by minimal filtering down the rows.

    Tiles have 2 outputs, one below the other. Of an odd number of rows the last tile has one, which takes the finite
    points alone. So there are as many tiles for them as first outputs, and as many for infinity as second outputs,
    possibly 0. The operations are few: of a small map they would cost more than the products.
    """
    taps = len(matrices) - 1
    images, height, width = (size_of(graph, cells, axis) for axis in range(3))
    height = height - (taps - 1)
    first_rows = (height + 1) // OUTPUTS
    second_rows = height - first_rows

    # With zeros below the last cells an odd last tile has all its inputs.
    whole = padded(graph, cells, [0, 0, 0, 1, 0, 0], 0.0)
    zero = graph.integers([0])
    # Of h outputs every second one begins a tile. Its tap t is the cell t below it; the axis has h + k cells.
    inputs = [_part(graph, whole, tap, tap - taps, axis=1, step=OUTPUTS) for tap in range(taps + 1)]
    at_points = _mixed(graph, filtering(taps).inputs, graph.node("Concat", inputs, axis=0))
    at_points = _shaped(graph, at_points, [taps + 1, images, first_rows, width, cells.known(3)])
    # The taps along a row are columns of one product.
    along = [_part(graph, at_points, tap, tap - (taps - 1), axis=3) for tap in range(taps)]
    *finite, infinite = graph.nodes("Split", [graph.node("Concat", along, axis=4)], taps + 1, axis=0)
    products = [graph.node("MatMul", [point, matrix]) for point, matrix in zip(finite, matrices[:-1], strict=True)]
    infinite = graph.node("Slice", [infinite, zero, as_value(graph, second_rows), graph.integers([2])])
    at_infinity = graph.node("MatMul", [infinite, matrices[-1]])
    at_infinity = padded(graph, at_infinity, [0, 0, 0, first_rows - second_rows, 0, 0], 0.0)

    first, second = _outputs(graph, products, at_infinity)
    sizes = [images, first_rows * OUTPUTS, width - (taps - 1), matrices[0].known(1)]
    top = _shaped(graph, graph.node("Concat", [first, second], axis=3), sizes)
    return graph.node("Slice", [top, zero, as_value(graph, height), graph.integers([1])])


def _outputs(graph: OnnxGraph, products: Sequence[Value], at_infinity: Value) -> tuple[Value, Value]:
    """Returns both outputs from the products at the finite points, and from that at infinity.

    The first is their sum, the second their sum weighted with the points, which are pairs of a number and its negative.
    So few products are held at a time.
    """
    weights = filtering(len(products)).outputs[1, :-1]
    sums, weighted = [], [at_infinity]
    remaining = iter(zip(products, weights, strict=True))
    for product, weight in remaining:
        if weight == 0:
            sums.append(product)
            continue
        negative, _ = next(remaining)
        sums.append(graph.node("Add", [product, negative]))
        difference = graph.node("Sub", [product, negative])
        weighted.append(
            graph.node("Mul", [difference, graph.scalar(weight, difference)]) if weight != 1 else difference
        )
    return graph.node("Sum", sums), graph.node("Sum", weighted)


def _mixed(graph: OnnxGraph, matrix: Array, values: Value) -> Value:
    """Returns matrix @ values, [rows, ...] and flat, for values whose first axis is a multiple of the columns."""
    flat = graph.node("Reshape", [values, graph.integers([matrix.shape[1], -1])])
    return graph.node("MatMul", [graph.constant(matrix.astype(np.float32)), flat])


def _part(graph: OnnxGraph, value: Value, start: int, end: int, *, axis: int, step: int = 1) -> Value:
    """Returns the values along an axis from `start` on, up to `end`, which counts from the end of the axis or is 0."""
    limits = [graph.integers([number]) for number in (start, end or _END, axis, step)]
    return graph.node("Slice", [value, *limits])


def _shaped(graph: OnnxGraph, value: Value, sizes: Sequence[Size]) -> Value:
    """Returns a value under another shape, whose lengths may be 0."""
    return graph.node("Reshape", [value, vector(graph, sizes)], shape=[*map(as_dim, sizes)], allowzero=1)
