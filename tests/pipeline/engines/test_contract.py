"""What every engine must do: the contract, run on a converted model."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import cast, convert, evaluate, load_network, read_metadata, save
from pipeline.engines import Engine
from pipeline.engines.native.engine import NativeEngine
from pipeline.engines.onnxruntime import OnnxRuntimeEngine
from pipeline.engines.openvino import OpenVinoEngine
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import MapError, check_values
from pipeline.maps.recipe import Form, Recipe
from pipeline.maps.tiling import cut
from pipeline.maps.windows import WindowInput
from pipeline.settings import Windows
from pipeline.table.rounding import TOLERANCE
from tests.support.bound_on_cpu import GPU, BoundOnCpu
from tests.support.golden_cases import GOLDEN
from tests.support.map_distance import distance

NET = GOLDEN / "nets" / "caffenet_small"
MEAN = (104.0, 117.0, 123.0)

OpenModel = Callable[..., Engine]

# ONNX Runtime also with the products over cells that only nets with large InnerProducts have.
ENGINES: dict[str, OpenModel] = {
    "tensorflow": TensorFlowEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "onnxruntime, products": OnnxRuntimeEngine,
    "onnxruntime, for GPUs": functools.partial(BoundOnCpu, device=GPU),
    "openvino": OpenVinoEngine,
    "native": NativeEngine,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("engines") / "model"
    convert(NET / "net.prototxt", NET / "net.caffemodel", output, mean=MEAN)
    return output


@pytest.fixture(params=ENGINES)
def open_engine(model: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OpenModel:
    if request.param == "native":
        pytest.importorskip("densecast_native", reason="the extension is built where a compiler is at hand")
    if "products" in request.param:
        monkeypatch.setattr("conversion.export.cellwise._LEAST_WEIGHTS", 1)
    return functools.partial(ENGINES[request.param], model)


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(227, 227), (260, 301)])
def test_scores_are_the_references_best_classes(open_engine: OpenModel, size: tuple[int, int]):
    batch = images(2, *size)
    network = cast(load_network(NET / "net.prototxt", NET / "net.caffemodel"))
    inputs = (batch[..., ::-1].astype(np.float64) - MEAN).transpose(0, 3, 1, 2)
    expected = evaluate(network, {"data": inputs})["prob"].transpose(0, 2, 3, 1)
    for cells, probabilities in zip(open_engine(k=3).score(batch), expected, strict=True):
        assert (cells.classes.dtype, cells.scores.dtype, cells.residual.dtype) == (np.int32, np.float32, np.float32)
        np.testing.assert_allclose(cells.scores, -np.sort(-probabilities, axis=-1)[..., :3], atol=1e-5)
        np.testing.assert_allclose(cells.residual, 1 - cells.scores.sum(-1), atol=1e-6)
        at_classes = np.take_along_axis(probabilities, cells.classes.astype(np.int64), axis=-1)
        np.testing.assert_allclose(cells.scores, at_classes, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "dtype"), [(Form.FLOAT32, np.float32), (Form.FLOAT16, np.float16), (Form.LOG_UINT8, np.float32)]
)
def test_forms_agree_with_each_other(open_engine: OpenModel, form: Form, dtype: type):
    batch = images(1, 240, 260)
    best = open_engine(k=5).score(batch)[0]
    whole = open_engine(k=5, form=form).score(batch)[0]
    np.testing.assert_array_equal(best.classes, whole.classes)
    np.testing.assert_allclose(best.scores, whole.scores, rtol=0, atol=TOLERANCE)
    assert whole.probabilities is not None
    assert whole.probabilities.dtype == dtype
    assert whole.probabilities.shape[-1] == 40
    assert best.probabilities is None


def test_k_beyond_the_classes_gives_all_of_them(open_engine: OpenModel):
    cells = open_engine(k=1000).score(images(1, 227, 227))[0]
    assert cells.classes.shape == (1, 1, 40)
    np.testing.assert_allclose(cells.residual, 0, atol=1e-6)


@pytest.mark.parametrize("size", [(227, 227), (259, 300)])
def test_a_map_depends_on_place_and_neighbours_within_the_tolerance_only(open_engine: OpenModel, size: tuple[int, int]):
    """What `--rounding bounded` rests on; test_exact_bits.py has the promise of `exact`."""
    engine = open_engine(k=3, form=Form.FLOAT32)
    batch = images(4, *size)
    straight = engine.score(batch)
    for place in range(4):
        others = images(4, *size, seed=place + 1)
        others[place] = batch[0]
        assert distance(engine.score(others)[place : place + 1], straight[:1]) <= TOLERANCE


@pytest.mark.parametrize("form", [Form.TOP_K, Form.FLOAT32, Form.FLOAT16])
def test_features_come_with_the_same_map(open_engine: OpenModel, form: Form):
    batch = images(2, 240, 300)
    network = cast(load_network(NET / "net.prototxt", NET / "net.caffemodel"))
    inputs = (batch[..., ::-1].astype(np.float64) - MEAN).transpose(0, 3, 1, 2)
    expected = evaluate(network, {"data": inputs})
    plain = open_engine(k=3, form=form).score(batch)
    found = open_engine(k=3, form=form, features=("pool5", "fc7:float16")).score(batch)
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


def test_unknown_features_are_refused_before_anything_runs(open_engine: OpenModel):
    with pytest.raises(JobError, match="no feature 'fc9'") as caught:
        open_engine(features=("fc9",))
    assert "fc7 (48 channels)" in caught.value.remedy


def test_features_beyond_float16_are_told(open_engine: OpenModel, monkeypatch: pytest.MonkeyPatch):
    engine: Any = open_engine(features=("fc7:float16", "fc6"))
    run = engine._run

    def large(given: object) -> dict[str, object]:
        return {name: value * 1e9 if name == "feature/fc7" else value for name, value in run(given).items()}

    monkeypatch.setattr(engine, "_run", large)
    [cells] = engine.score(images(1, 227, 227))
    with pytest.raises(MapError, match="feature fc7 is not finite") as caught:
        check_values("x", cells)
    assert caught.value.remedy == "keep it as float32"


def test_tiles_give_the_map_of_the_whole_image(open_engine: OpenModel, model: Path):
    metadata = read_metadata(model)
    assert metadata.alignment is not None
    engine = open_engine(k=40)
    [image] = images(1, 515, 547)
    [whole] = engine.score(image[np.newaxis])
    joined = np.zeros_like(whole.residual)
    grid = cut(515, 547, metadata.geometry, tile_pixels=420 * 420, alignment=metadata.alignment)
    assert len(grid) > 1
    for tile in grid:
        [cells] = engine.score(image[np.newaxis, tile.top : tile.bottom, tile.left : tile.right])
        kept = cells.part(tile.kept)
        height, width = kept.residual.shape
        of_whole = np.s_[tile.cell_y : tile.cell_y + height, tile.cell_x : tile.cell_x + width]
        joined[of_whole] = 1
        by_class, expected = (
            np.take_along_axis(c.scores, np.argsort(c.classes, axis=-1), axis=-1)
            for c in (kept, whole._replace(scores=whole.scores[of_whole], classes=whole.classes[of_whole]))
        )
        np.testing.assert_allclose(by_class, expected, rtol=0, atol=1e-5)
    assert joined.all()


def test_windows_are_scored_beside_images(open_engine: OpenModel, model: Path):
    metadata = read_metadata(model)
    recipe = Recipe(windows=Windows.TEN).for_model(metadata)
    engine: Any = open_engine(k=3, windows=WindowInput.of(model, metadata, recipe))
    windows = images(20, 227, 227).reshape(2, 10, 227, 227, 3).astype(np.float32)
    found = engine.score_windows(windows)
    assert [cells.residual.shape for cells in found] == [(1, 10)] * 2
    plain = open_engine(k=3).score(windows.reshape(-1, 227, 227, 3).astype(np.uint8))
    for index, cells in enumerate(plain):
        np.testing.assert_allclose(found[index // 10].scores[0, index % 10], cells.scores[0, 0], rtol=0, atol=1e-5)
    assert distance(engine.score(images(1, 240, 260)), open_engine(k=3).score(images(1, 240, 260))) <= TOLERANCE
    with pytest.raises(EngineError, match="without windows"):
        open_engine(k=3).score_windows(windows)  # type: ignore[attr-defined]


def test_the_value_before_a_layer_changes_it_in_place(open_engine: OpenModel):
    [cells] = open_engine(features=("fc6:before", "fc6")).score(images(1, 240, 260))
    before, after = (feature.values for feature in cells.features)
    assert before.min() < 0
    np.testing.assert_allclose(np.maximum(before, 0), after, rtol=0, atol=1e-5)


def test_several_threads_may_call_at_once(open_engine: OpenModel):
    engine = open_engine(k=3)
    batches = [images(1, 227 + 8 * i, 240, seed=i) for i in range(6)]
    expected = [engine.score(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        found = list(threads.map(engine.score, batches))
    assert all(distance(one, other) <= TOLERANCE for one, other in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives every class the same probability."""
    folder = tmp_path_factory.mktemp("undecided")
    network = load_network(NET / "net.prototxt", NET / "net.caffemodel")
    parameters = {**network.parameters, "fc8": tuple(np.zeros_like(blob) for blob in network.parameters["fc8"])}
    save(dataclasses.replace(network, parameters=parameters), folder / "net.prototxt", folder / "net.caffemodel")
    convert(folder / "net.prototxt", folder / "net.caffemodel", folder / "model", mean=MEAN)
    return folder / "model"


@pytest.mark.parametrize("name", ENGINES)
def test_of_equal_probabilities_the_lower_class_comes_first(undecided: Path, name: str):
    """Saturated nets have many classes of probability 0."""
    if name == "native":
        pytest.importorskip("densecast_native", reason="the extension is built where a compiler is at hand")
    [cells] = ENGINES[name](undecided, k=5).score(images(1, 240, 260))
    assert (cells.scores == cells.scores[0, 0, 0]).all()
    np.testing.assert_array_equal(cells.classes, np.broadcast_to(np.arange(5), cells.classes.shape))
