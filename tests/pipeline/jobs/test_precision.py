"""Scoring in 16 bits, and with XLA, from the job to the table; on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conversion.layers.layout import import_tensorflow
from pipeline import MapTable
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maps.recipe import Form, Precision
from pipeline.scoring.calibration.parity import ParityError
from pipeline.table.summaries import run_path
from tests.support.map_distance import ROUNDING, distance

NARROW = [Precision.FLOAT16, Precision.BFLOAT16]
SIZES = [(227, 227), (240, 300), (227, 227), (260, 240)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"p{n}.png")
    return folder


def score(model: Path, photos: Path, output: Path, **values: Any) -> tuple[JobResult, dict[str, Any]]:
    """What the run did, and its summary."""
    job = describe_job(model=str(model), images=(str(photos),), output=str(output), **values)
    result = run_job(job)
    return result, json.loads(Path(run_path(str(output), job.run_id)).read_text())


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("form", [Form.TOP_K, Form.FLOAT32])
def test_maps_in_16_bits_are_near_those_in_32(small_model: Path, precision: Precision, form: Form):
    images = np.random.default_rng(1).integers(0, 256, (2, 240, 300, 3), dtype=np.uint8)
    options: dict[str, Any] = {"k": 40, "form": form, "features": ("fc7", "pool5")}
    exact = TensorFlowEngine(small_model, **options).score(images)
    found = TensorFlowEngine(small_model, **options, precision=precision).score(images)
    worst = 0.0
    for cells, expected in zip(found, exact, strict=True):
        assert cells.scores.dtype == cells.residual.dtype == np.float32
        worst = max(worst, float(np.abs(cells.scores - expected.scores).max()))
        for feature, other in zip(cells.features, expected.features, strict=True):
            assert feature.values.dtype == np.float32
            np.testing.assert_allclose(feature.values, other.values, atol=0.05 * np.abs(other.values).max())
    assert 0 < worst < (0.005 if precision is Precision.FLOAT16 else 0.05), "near, and not in float32 in secret"


@pytest.mark.parametrize("precision", NARROW)
def test_a_map_in_16_bits_depends_on_its_image_alone(small_model: Path, precision: Precision):
    engine = TensorFlowEngine(small_model, k=3, form=Form.FLOAT32, precision=precision)
    batch = np.random.default_rng(2).integers(0, 256, (4, 240, 260, 3), dtype=np.uint8)
    straight, turned = engine.score(batch), engine.score(batch[::-1])[::-1]
    assert distance(straight, turned, classes=False) <= ROUNDING[precision]


def test_a_run_in_float16_measures_itself_once(
    small_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "maps"
    score(small_model, photos, output)
    result, summary = score(small_model, photos, output, precision="float16", max_parity_flips="3%")
    assert result.summary.images["score"] == 4, "maps in float32 are not taken for it"
    assert set(MapTable(output).to_arrow().column("precision").to_pylist()) == {"float16"}
    assert result.parity is not None
    assert 0 < result.parity.largest < 0.01
    assert result.parity.images == 4
    assert summary["parity"]["largest"] == result.parity.largest
    assert summary["parity"]["devices"] == ["CPU"]
    assert summary["recipe"]["precision"] == "float16"
    assert list(summary["devices"]) == list(result.summary.devices) == ["CPU"]

    def again(*_: object) -> None:
        raise AssertionError("it was measured for this table")

    monkeypatch.setattr("pipeline.jobs.calibrate.measure_parity", again)
    repeated, summary = score(small_model, photos, output, precision="float16", max_parity_flips=0.03)
    assert repeated.parity == result.parity
    assert summary["parity"]["largest"] == result.parity.largest
    assert repeated.summary.images.get("score", 0) == 0
    with pytest.raises(AssertionError, match="it was measured"):
        score(small_model, photos, output, precision="float16", max_parity_error=0.5)
    with pytest.raises(AssertionError, match="it was measured"):
        score(small_model, photos, output, precision="bfloat16", max_parity_flips=0.03)


def test_a_precision_that_changes_too_much_is_refused(small_model: Path, photos: Path, tmp_path: Path):
    output = tmp_path / "maps"
    with pytest.raises(ParityError, match="in bfloat16 probabilities differ by up to"):
        score(small_model, photos, output, precision="bfloat16", max_parity_error=1e-6)
    assert not output.exists()


def test_no_warning_where_a_maximum_begins_in_16_bits():
    """-FLT_MAX is not a float16: NumPy warns of that, and warnings are errors here."""
    tf = import_tensorflow()
    assert tf.float16.min == -65504
    assert tf.float32.min == -np.finfo(np.float32).max


# --- XLA


def test_a_run_with_xla_compiles_what_the_first_images_need(small_model: Path, photos: Path, tmp_path: Path):
    plain, _ = score(small_model, photos, tmp_path / "plain", scores="float32")
    # Exact batches differ between processors.
    options = {"scores": "float32", "xla": True, "xla_shapes": 2, "rounding": "bounded"}
    result, summary = score(small_model, photos, tmp_path / "xla", **options)
    assert summary["compiled"] == [[2, 240, 300], [3, 227, 227]], "those that most pixels go through"
    assert summary["xla"] == {"compiled": 5, "other": 3}, (
        "images that were run, those that batches are padded with included"
    )
    assert summary["seconds"]["compile"] > 0
    assert result.summary.scored == plain.summary.scored == 4
    tables = [
        MapTable(tmp_path / name).to_arrow().sort_by("uri").select(["uri", "precision", "recipe"])
        for name in ("plain", "xla")
    ]
    assert tables[0].equals(tables[1]), "XLA changes last digits, not what is computed"
    for n in range(4):
        ours, theirs = (
            MapTable(tmp_path / name).read(str(photos / f"p{n}.png")).probabilities for name in ("xla", "plain")
        )
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.large
def test_later_runs_compile_the_same_shapes(small_model: Path, photos: Path, tmp_path: Path):
    """Or an image's map would depend on what its collection begins with."""
    output, more = tmp_path / "maps", tmp_path / "more"
    _, first = score(small_model, photos, output, xla=True)
    more.mkdir()
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(more / "a.png")
    _, second = score(small_model, more, output, xla=True)
    assert second["compiled"] == first["compiled"]
    assert second["xla"] == {"other": 2}
    _, third = score(small_model, more, output, xla=True, xla_shapes=1, rescore=True)
    assert third["compiled"] == [[2, 300, 300]], "another bound, another choice"
    assert third["xla"] == {"compiled": 2}
