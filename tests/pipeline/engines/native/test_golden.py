"""What Caffe computed, by the native engine: every golden case whose layers it has; the others name a layer."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from conversion import Network, cast, load_network, prune
from conversion.errors import DensecastError, UnsupportedError
from conversion.export.plain_network import to_plain, unplain_layer
from pipeline.engines.native.filters import FilterStore
from pipeline.engines.native.planning import Planner
from tests.support import numpy_native
from tests.support.golden_cases import GoldenCase, cases

NATIVE: Any = numpy_native if importlib.util.find_spec("densecast_native") is None else None


def extension() -> Any:
    return NATIVE or importlib.import_module("densecast_native")


def loaded(case: GoldenCase) -> tuple[Network, dict[str, np.ndarray]]:
    network = load_network(case.prototxt, case.weights if case.weights.exists() else None)
    return network, case.inputs(next(iter(network.inputs)))


def computed(network: Network, given: np.ndarray, blobs: list[str]) -> dict[str, np.ndarray]:
    """The blobs, in Caffe's order of axes."""
    weights = {layer.name: layer.prepare(network.parameters.get(layer.name, ())) for layer in network.layers}
    plain = to_plain(network, weights)
    values = [plain.last[blob] for blob in blobs]
    size = (given.shape[2], given.shape[3])
    planner = Planner(plain, None, [(value, 0) for value in values], size)
    native = extension()
    pool = native.ThreadPool(2)
    images = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in given]
    plan = planner.plan((size,) * len(images), FilterStore(native, pool, planner.steps))
    found = [
        np.empty((len(images), *planner.shapes(size)[value][1:], planner.channels(value)), np.float32)
        for value in values
    ]
    program = native.Program(pool, plan.operations, plan.results, plan.arena)
    program.run(images, [image for array in found for image in array])
    return {blob: array.transpose(0, 3, 1, 2) for blob, array in zip(blobs, found, strict=True)}


@pytest.mark.parametrize("case", [*cases("layers"), *cases("nets")], ids=lambda case: case.name)
def test_it_computes_what_caffe_computed(case: GoldenCase):
    if not (case.folder / "outputs.npz").exists() or "missing" in case.name or "fullconv" in case.name:
        pytest.skip("it has no inputs or weights of its own")
    network, inputs = loaded(case)
    expected = {blob: values for blob, values in case.outputs().items() if values.ndim == 4}
    try:
        network = cast(network) if "nets" in case.folder.parts else network
    except DensecastError:
        pytest.skip("it has no dense form")
    expected = {b if b in network.shapes else f"{b}-conv": values for b, values in expected.items()}
    blobs = [blob for blob in expected if blob in network.shapes]
    if len(inputs) > 1 or next(iter(inputs.values())).ndim != 4 or not blobs:
        pytest.skip("it is not a map of one input")
    network = prune(network, blobs)
    foreign = [why for blob in blobs if (why := unplain_layer(network, blob))]
    if foreign:
        with pytest.raises(UnsupportedError) as caught:
            computed(network, next(iter(inputs.values())), blobs)
        assert caught.value.where in foreign[0]
        return
    found = computed(network, next(iter(inputs.values())), blobs)
    for blob in blobs:
        absmax = max(float(np.abs(expected[blob][np.isfinite(expected[blob])]).max(initial=0)), 1e-30)
        np.testing.assert_allclose(found[blob], expected[blob], rtol=1e-5, atol=3e-5 * absmax)
