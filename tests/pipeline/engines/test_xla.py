"""XLA: announced shapes are compiled once each, before they come; a shape alone decides who computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion.layers.layout import import_tensorflow
from pipeline.engines import EngineOutOfMemoryError
from pipeline.engines.net_function import NetFunction
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.xla import CompiledFunction
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision
from pipeline.table.rounding import TOLERANCE
from tests.support.map_distance import distance


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_every_shape_is_compiled_once_and_before_it_is_called():
    traced: list[tuple[int, ...]] = []

    def function(batch: Any) -> Any:
        traced.append(tuple(batch.shape))
        return import_tensorflow().cast(batch, "float32") / 2

    shapes = [(1, 5, 4), (2, 3, 3), (1, 5, 4)]
    compiled = CompiledFunction(function, shapes)
    assert compiled.shapes == ((1, 5, 4), (2, 3, 3))
    assert traced == [(1, 5, 4, 3), (2, 3, 3, 3)]
    for shape in shapes * 3:
        batch = images(*shape)
        program = compiled.program(shape)
        assert program is not None
        np.testing.assert_array_equal(program(import_tensorflow().constant(batch)), batch / 2)
    assert compiled.program((2, 5, 4)) is None
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("precision", "form", "features"),
    [
        (Precision.FLOAT32, Form.TOP_K, ()),
        (Precision.FLOAT32, Form.FLOAT32, ("pool5",)),
        (Precision.FLOAT16, Form.TOP_K, ("fc7",)),
        (Precision.BFLOAT16, Form.FLOAT32, ()),
    ],
)
def test_maps_are_those_without_it(small_model: Path, precision: Precision, form: Form, features: tuple[str, ...]):
    options: dict[str, Any] = {"k": 40, "form": form, "features": features, "precision": precision}
    engine = TensorFlowEngine(small_model, **options, compiled=[(2, 240, 260)])
    plain = TensorFlowEngine(small_model, **options)
    batch = images(2, 240, 260)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[precision]
    for cells, expected in zip(engine.score(batch), plain.score(batch), strict=True):
        np.testing.assert_allclose(np.sort(cells.scores), np.sort(expected.scores), atol=tolerance)
        assert cells.classes.shape == expected.classes.shape
        for feature, other in zip(cells.features, expected.features, strict=True):
            scale = np.abs(other.values).max()
            np.testing.assert_allclose(feature.values, other.values, atol=tolerance * scale)
    assert engine.take_counts().keys() == {"seconds.compile", "xla.compiled"}


def test_other_shapes_are_run_without_it(small_model: Path):
    engine = TensorFlowEngine(small_model, k=3, form=Form.FLOAT32, compiled=[(1, 227, 227)])
    plain = TensorFlowEngine(small_model, k=3, form=Form.FLOAT32)
    engine.take_counts()
    for shape in [(2, 227, 227), (1, 240, 227), (1, 227, 240)]:
        assert distance(engine.score(images(*shape)), plain.score(images(*shape))) <= TOLERANCE
    assert engine.take_counts() == {"xla.other": 4}


def test_a_compiled_map_depends_on_its_image_alone(small_model: Path):
    """Neither on its neighbours, nor on its place, nor on what came before."""
    engine = TensorFlowEngine(small_model, k=3, form=Form.FLOAT32, compiled=[(3, 240, 260)])
    batch = images(3, 240, 260)
    straight = engine.score(batch)
    engine.score(images(1, 240, 260))
    for place in range(3):
        others = images(3, 240, 260, seed=place + 1)
        others[place] = batch[0]
        assert distance(engine.score(others)[place : place + 1], straight[:1]) <= TOLERANCE


def test_what_xla_cannot_compile_is_told(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise import_tensorflow().errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr("pipeline.engines.tensorflow.CompiledFunction", refuse)
    with pytest.raises(EngineError, match="XLA cannot compile the model: no such kernel") as caught:
        TensorFlowEngine(small_model, compiled=[(1, 227, 227)])
    assert "--xla" in caught.value.remedy


@pytest.mark.parametrize(
    "error",
    [
        lambda errors: errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        lambda errors: errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        lambda errors: errors.InternalError(None, None, "Failed to create cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"),
        lambda errors: MemoryError(),
    ],
)
def test_memory_that_is_short_in_other_words(small_model: Path, monkeypatch: pytest.MonkeyPatch, error: Any):
    """What CUDA's libraries say of it; a smaller batch may fit."""
    engine = TensorFlowEngine(small_model)

    def fail(*_: object) -> None:
        raise error(import_tensorflow().errors)

    monkeypatch.setattr(engine, "_run", fail)
    with pytest.raises(EngineOutOfMemoryError, match="a batch of 2 images of 227 x 227"):
        engine.score(images(2, 227, 227))


def test_weights_are_no_constants_of_a_program(small_model: Path):
    """Each program would hold a copy of all of them."""
    engine = TensorFlowEngine(small_model, k=2)
    net = NetFunction(small_model, engine.metadata, (), best=False, precision=Precision.FLOAT32)
    assert len(net.concrete.variables) == 19, "two a layer, and a kernel more for each of three that have two groups"
    program: Any = net.frozen()
    frozen = program.graph.as_graph_def().ByteSize()
    assert net.concrete.graph.as_graph_def().ByteSize() < frozen - 3 * engine.metadata.parameters
