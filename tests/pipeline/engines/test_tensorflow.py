"""What is TensorFlow's own; what every engine must do is in test_contract.py."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from conversion import ModelMetadata, convert, read_metadata
from pipeline.engines.net_function import NetFunction
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.maps.recipe import Precision
from pipeline.table.rounding import TOLERANCE
from tests.pipeline.engines.test_contract import MEAN, NET, images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("engines") / "model"
    convert(NET / "net.prototxt", NET / "net.caffemodel", output, mean=MEAN)
    return output


def test_the_net_runs_once_for_map_and_features(model: Path):
    """By the operations: two signatures in one function would hold every convolution twice."""

    def convolutions(engine: TensorFlowEngine) -> int:
        function: Any = engine._function
        return sum(operation.type == "Conv2D" for operation in function.graph.get_operations())

    with_features = TensorFlowEngine(model, features=("fc6", "fc7", "pool5"))
    assert convolutions(with_features) == convolutions(TensorFlowEngine(model)) > 0


def test_large_weights_that_stay_variables_give_the_same_maps(model: Path):
    """Their owner is gone when the function is called: it must keep them itself."""
    metadata = read_metadata(model)
    batch = tf.constant(images(2, 240, 260))
    whole, parts = (_probabilities(model, metadata, batch, largest) for largest in (None, 1 << 14))
    assert any(layer.nbytes > 1 << 14 for layer in parts[1])
    np.testing.assert_allclose(whole[0], parts[0], rtol=0, atol=TOLERANCE)


def _probabilities(
    model: Path, metadata: ModelMetadata, batch: Any, largest: int | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    net = NetFunction(model, metadata, (), best=False, precision=Precision.FLOAT32)
    weights = [variable.numpy() for variable in net.concrete.variables]
    function = net.frozen(largest=largest)
    del net
    gc.collect()
    [probabilities] = function(images=batch)
    return probabilities.numpy(), weights
