"""The definitions of tests/field: each loads, is cast, and has one answer in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conversion import (
    DenseOptions,
    evaluate,
    load_dense,
    receptive_field,
    to_tensorflow,
)
from conversion.export.verification import relative_error
from tests.field.__main__ import converted
from tests.support.field_definitions import DEFINITIONS, has_dense_form, is_classifier, options_of, refusal, seeded


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_it_loads_and_is_cast(path: Path):
    """Or, where its head says that it has no dense form, is refused."""
    if has_dense_form(path):
        dense = load_dense(path, options=DenseOptions(**options_of(path)))
        assert min(receptive_field(dense.network, dense.output.blob).stride) > 0
        if is_classifier(path):
            assert dense.output.require() in dense.network.shapes
    else:
        assert refusal(path)
    network = seeded(path)
    rng = np.random.default_rng(0)
    inputs = {blob: rng.normal(0, 1, shape).astype(np.float32) for blob, shape in network.inputs.items()}
    reference, tensors = evaluate(network, inputs), to_tensorflow(network)(inputs)
    for blob in network.outputs:
        assert relative_error(reference[blob], tensors[blob].numpy().astype(np.float64)) <= 1e-4, blob


@pytest.mark.large
@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_it_converts(path: Path):
    assert ", worst " in converted(path) or not is_classifier(path) or not has_dense_form(path)
