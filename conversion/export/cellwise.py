"""Convolutions that were InnerProducts, as matrix products over cells: how an engine of ours runs them.

These layers have most of a classifier's weights. As MatMul their matrices are in the order that is stored, so that a
runtime packs each once and keeps no copy; and a kernel of several cells is run by minimal filtering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from conversion.arrays import Array
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution
from conversion.layers.minimal_filtering import LARGEST_KERNEL, OUTPUTS, filtering
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import Size, as_dim, padded, size_of, vector
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
        matrices: [inside, outside] each: that of the layer, if its kernel is 1 x 1; else `transformed_filters`.
        biases: [outside], if there are any.
    """
    cells = graph.transposed(bottom, [0, 2, 3, 1])
    top = graph.node("MatMul", [cells, *matrices]) if len(matrices) == 1 else _filtered(graph, cells, matrices)
    return graph.transposed(graph.node("Add", [top, *biases]) if biases else top, [0, 3, 1, 2])


def _filtered(graph: OnnxGraph, cells: Value, matrices: Sequence[Value]) -> Value:
    """Returns a kernel's outputs [N, h, w, outside] for cells [N, H, W, inside], by nested minimal filtering.

    Tiles have 2 x 2 outputs. Of an odd number of outputs the last tile has one, which takes the finite points alone. So
    there are as many tiles for them as first outputs, and as many for infinity as second outputs, possibly 0.
    """
    taps = math.isqrt(len(matrices)) - 1
    rows: list[Value] = []  # one for each vertical point: [N, tiles, w, outside]
    remaining = iter(matrices)
    for vertical in _points(graph, cells, taps, axis=1):
        products = [graph.node("MatMul", [both, next(remaining)]) for both in _points(graph, vertical, taps, axis=2)]
        rows.append(_outputs(graph, products, axis=2, count=size_of(graph, cells, 2) - (taps - 1)))
    return _outputs(graph, rows, axis=1, count=size_of(graph, cells, 1) - (taps - 1))


def _points(graph: OnnxGraph, cells: Value, taps: int, axis: int) -> list[Value]:
    """Returns the inputs of every tile along an axis at the k + 1 points: [N, H, W, C], the axis counts tiles."""
    matrix = filtering(taps).inputs

    def at(points: Array, last: int) -> list[Value]:
        """Returns the values at some points, which read inputs 0 to `last` of every tile."""
        # Of n cells the first outputs are the cells but for taps - 1, every second of which begins a tile.
        step, along = graph.integers([OUTPUTS]), graph.integers([axis])
        reads = [
            graph.node("Slice", [cells, graph.integers([start]), graph.integers([start - last or _END]), along, step])
            for start in range(last + 1)
        ]
        return _split(graph, _mixed(graph, points[:, : last + 1], reads), len(points))

    return [*at(matrix[:-1], taps - 1), *at(matrix[-1:], taps)]


def _outputs(graph: OnnxGraph, products: Sequence[Value], *, axis: int, count: Size) -> Value:
    """Returns the outputs along an axis, in their order, from the products at all points."""
    *finite, infinity = products
    matrix = filtering(len(finite)).outputs
    first, second = _split(graph, _mixed(graph, matrix[:, :-1], finite), OUTPUTS)
    sizes = [size_of(graph, first, a) for a in range(4)]
    amounts: list[Size] = [0] * 6
    amounts[3 + axis - 1] = sizes[axis] - size_of(graph, infinity, axis)
    second = graph.node("Add", [second, padded(graph, infinity, amounts, 0.0)])
    in_turns = graph.node("Concat", [_unsqueezed(graph, v, axis + 1) for v in (first, second)], axis=axis + 1)
    sizes[axis] *= OUTPUTS
    whole = graph.node("Reshape", [in_turns, vector(graph, sizes)], shape=[*map(as_dim, sizes)], allowzero=1)
    return graph.node("Slice", [whole, graph.integers([0]), vector(graph, [count]), graph.integers([axis])])


def _mixed(graph: OnnxGraph, matrix: Array, values: Sequence[Value]) -> Value:
    """Returns matrix @ values, along a new first axis: [rows, N, H, W, C]."""
    stacked = graph.node("Concat", [_unsqueezed(graph, value, 0) for value in values], axis=0)
    flat = graph.node("Reshape", [stacked, graph.integers([len(values), -1])])
    mixed = graph.node("MatMul", [graph.constant(matrix.astype(np.float32)), flat])
    sizes = [size_of(graph, stacked, axis) for axis in range(1, 5)]
    shape = vector(graph, [len(matrix), *sizes])
    return graph.node("Reshape", [mixed, shape], shape=[len(matrix), *map(as_dim, sizes)], allowzero=1)


def _split(graph: OnnxGraph, mixed: Value, count: int) -> list[Value]:
    parts = graph.nodes("Split", [mixed], count, axis=0) if count > 1 else [mixed]
    return [graph.node("Squeeze", [part, graph.integers([0])]) for part in parts]


def _unsqueezed(graph: OnnxGraph, value: Value, axis: int) -> Value:
    return graph.node("Unsqueeze", [value, graph.integers([axis])])
