"""What every engine must do (the contract), run on TensorFlow with a converted model."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from conversion import ModelMetadata, cast, convert, evaluate, load_network, read_metadata
from pipeline.engines.net_function import NetFunction
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.errors import JobError
from pipeline.maps.classification_map import MapError, check_values
from pipeline.maps.recipe import Form, Precision
from pipeline.table.rounding import TOLERANCE
from tests.support.golden_cases import GOLDEN
from tests.support.map_distance import distance

NET = GOLDEN / "nets" / "caffenet_small"
MEAN = (104.0, 117.0, 123.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("engines") / "model"
    convert(NET / "net.prototxt", NET / "net.caffemodel", output, mean=MEAN)
    return output


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(227, 227), (260, 301)])
def test_scores_are_the_references_best_classes(model: Path, size: tuple[int, int]):
    batch = images(2, *size)
    network = cast(load_network(NET / "net.prototxt", NET / "net.caffemodel"))
    inputs = (batch[..., ::-1].astype(np.float64) - MEAN).transpose(0, 3, 1, 2)
    expected = evaluate(network, {"data": inputs})["prob"].transpose(0, 2, 3, 1)
    for cells, probabilities in zip(TensorFlowEngine(model, k=3).score(batch), expected, strict=True):
        assert (cells.classes.dtype, cells.scores.dtype, cells.residual.dtype) == (np.int32, np.float32, np.float32)
        np.testing.assert_allclose(cells.scores, -np.sort(-probabilities, axis=-1)[..., :3], atol=1e-5)
        np.testing.assert_allclose(cells.residual, 1 - cells.scores.sum(-1), atol=1e-6)
        at_classes = np.take_along_axis(probabilities, cells.classes.astype(np.int64), axis=-1)
        np.testing.assert_allclose(cells.scores, at_classes, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "dtype"), [(Form.FLOAT32, np.float32), (Form.FLOAT16, np.float16), (Form.LOG_UINT8, np.float32)]
)
def test_forms_agree_with_each_other(model: Path, form: Form, dtype: type):
    batch = images(1, 240, 260)
    best = TensorFlowEngine(model, k=5).score(batch)[0]
    whole = TensorFlowEngine(model, k=5, form=form).score(batch)[0]
    np.testing.assert_array_equal(best.classes, whole.classes)
    np.testing.assert_allclose(best.scores, whole.scores, rtol=0, atol=TOLERANCE)
    assert whole.probabilities is not None
    assert whole.probabilities.dtype == dtype
    assert whole.probabilities.shape[-1] == 40
    assert best.probabilities is None


def test_k_beyond_the_classes_gives_all_of_them(model: Path):
    cells = TensorFlowEngine(model, k=1000).score(images(1, 227, 227))[0]
    assert cells.classes.shape == (1, 1, 40)
    np.testing.assert_allclose(cells.residual, 0, atol=1e-6)


@pytest.mark.parametrize("size", [(227, 227), (259, 300)])
def test_a_map_depends_on_place_and_neighbours_within_the_tolerance_only(model: Path, size: tuple[int, int]):
    """What `--rounding bounded` rests on; test_exact_bits.py has the promise of `exact`."""
    engine = TensorFlowEngine(model, k=3, form=Form.FLOAT32)
    batch = images(4, *size)
    straight = engine.score(batch)
    for place in range(4):
        others = images(4, *size, seed=place + 1)
        others[place] = batch[0]
        assert distance(engine.score(others)[place : place + 1], straight[:1]) <= TOLERANCE


@pytest.mark.parametrize("form", [Form.TOP_K, Form.FLOAT32, Form.FLOAT16])
def test_features_come_with_the_same_map(model: Path, form: Form):
    batch = images(2, 240, 300)
    network = cast(load_network(NET / "net.prototxt", NET / "net.caffemodel"))
    inputs = (batch[..., ::-1].astype(np.float64) - MEAN).transpose(0, 3, 1, 2)
    expected = evaluate(network, {"data": inputs})
    plain = TensorFlowEngine(model, k=3, form=form).score(batch)
    found = TensorFlowEngine(model, k=3, form=form, features=("pool5", "fc7:float16")).score(batch)
    for index, (cells, alone) in enumerate(zip(found, plain, strict=True)):
        assert alone.features == ()
        pool5, fc7 = cells.features
        assert [(f.name, f.values.dtype.name) for f in cells.features] == [("pool5", "float32"), ("fc7", "float16")]
        np.testing.assert_allclose(pool5.values, expected["pool5"][index].transpose(1, 2, 0), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(fc7.values, expected["fc7-conv"][index].transpose(1, 2, 0), rtol=2e-3, atol=1e-2)
        assert fc7.values.shape[:2] == cells.residual.shape
        np.testing.assert_array_equal(cells.classes, alone.classes)
        np.testing.assert_allclose(cells.scores, alone.scores, atol=1e-6)
        np.testing.assert_allclose(cells.residual, alone.residual, atol=1e-6)
        assert (cells.probabilities is None) == (form is Form.TOP_K)
        if cells.probabilities is not None and alone.probabilities is not None:
            np.testing.assert_allclose(cells.probabilities, alone.probabilities, atol=1e-3)


def test_the_net_runs_once_for_map_and_features(model: Path):
    """By the operations: two signatures in one function would hold every convolution twice."""

    def convolutions(engine: TensorFlowEngine) -> int:
        function: Any = engine._function
        return sum(operation.type == "Conv2D" for operation in function.graph.get_operations())

    with_features = TensorFlowEngine(model, features=("fc6", "fc7", "pool5"))
    assert convolutions(with_features) == convolutions(TensorFlowEngine(model)) > 0


def test_unknown_features_are_refused_before_anything_runs(model: Path):
    with pytest.raises(JobError, match="no feature 'fc9'") as caught:
        TensorFlowEngine(model, features=("fc9",))
    assert "fc7 (48 channels)" in caught.value.remedy


def test_features_beyond_float16_are_told(model: Path, monkeypatch: pytest.MonkeyPatch):
    engine = TensorFlowEngine(model, features=("fc7:float16", "fc6"))
    run = engine._run

    def large(given: object) -> dict[str, object]:
        return {name: value * 1e9 if name == "feature/fc7" else value for name, value in run(given).items()}

    monkeypatch.setattr(engine, "_run", large)
    [cells] = engine.score(images(1, 227, 227))
    with pytest.raises(MapError, match="feature fc7 is not finite") as caught:
        check_values("x", cells)
    assert caught.value.remedy == "keep it as float32"


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
