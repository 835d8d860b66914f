"""Products over cells, in ONNX Runtime, against the sums that define a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conversion import import_onnxruntime
from conversion.export.cellwise import OPSET_OF_PRODUCTS, cell_products
from conversion.layers.minimal_filtering import LARGEST_KERNEL, transformed_filters
from conversion.layers.onnx_graph import OnnxGraph

INSIDE, OUTSIDE = 8, 5
MAPS = [(1, 1), (1, 2), (2, 1), (1, 5), (4, 1), (2, 2), (3, 3), (3, 4), (6, 5)]
_MOST_OPERATIONS = 80


def weights(taps: int) -> np.ndarray:
    return np.random.default_rng(taps).normal(size=(taps, taps, INSIDE, OUTSIDE)).astype(np.float32)


def graph_of(matrices: list[np.ndarray], biases: np.ndarray) -> Any:
    graph = OnnxGraph(reserved=["bottom", "top"], opset=OPSET_OF_PRODUCTS)
    bottom = graph.input("bottom", "float32", ("batch", INSIDE, "height", "width"), finite=True)
    values = [graph.variable(array) for array in matrices]
    graph.output("top", cell_products(graph, bottom, values, [graph.constant(biases)]))
    return graph.model("products")


def session_of(matrices: list[np.ndarray], biases: np.ndarray) -> Any:
    return import_onnxruntime().InferenceSession(
        graph_of(matrices, biases).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def bottom_of(taps: int, count: int, height: int, width: int) -> np.ndarray:
    shape = (count, INSIDE, height + taps - 1, width + taps - 1)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("taps", range(2, LARGEST_KERNEL + 1))
def test_maps_of_all_sizes_are_those_of_the_convolution(taps: int):
    filters, biases = weights(taps), np.arange(OUTSIDE, dtype=np.float32)
    session = session_of(list(transformed_filters(filters)), biases)
    for count in (1, 3):
        for size in MAPS:
            bottom = bottom_of(taps, count, *size)
            windows = np.lib.stride_tricks.sliding_window_view(bottom.astype(np.float64), (taps, taps), (2, 3))
            expected = np.einsum("nchwab,abco->nohw", windows, filters) + biases[:, np.newaxis, np.newaxis]
            [found] = session.run(["top"], {"bottom": bottom})
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("size", "used"), [((1, 1), range(6)), ((1, 4), range(6)), ((2, 1), range(7))])
def test_a_map_reads_the_matrices_that_its_size_needs(size: tuple[int, int], used: range):
    """They are most of what a small map costs. A map of one row has no second outputs, so nothing at infinity."""
    arrays = list(transformed_filters(weights(6)))
    bottom = bottom_of(6, 2, *size)
    for place, array in enumerate(arrays):
        other = [np.full_like(array, np.nan) if array is each else each for each in arrays]
        [found] = session_of(other, np.zeros(OUTSIDE, np.float32)).run(["top"], {"bottom": bottom})
        assert np.isnan(found).any() == (place in used)


def test_operations_are_few():
    """They are what a map of one cell costs beside its products; and a runtime packs the matrix of one product once."""
    model = graph_of(list(transformed_filters(weights(6))), np.zeros(OUTSIDE, np.float32))
    assert len(model.graph.node) <= _MOST_OPERATIONS
    matrices = [tensor.name for tensor in model.graph.initializer if tuple(tensor.dims) == (6 * INSIDE, OUTSIDE)]
    uses = [(node.op_type, name) for node in model.graph.node for name in node.input if name in matrices]
    assert sorted(uses) == sorted(("MatMul", name) for name in matrices)
    assert len(matrices) == 7
