"""`score --windows` from files to the table: Caffe's numbers, beside the maps of whole images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conversion import convert, evaluate, load_network, read_metadata, save
from conversion.errors import DensecastError
from conversion.surgery import random_parameters
from models import entry
from pipeline import MapTable
from pipeline.errors import SettingError
from pipeline.images.window_filters import resize_for_windows, resize_mean_image
from pipeline.jobs.preview import count_outcomes
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.maps.windows import cut_windows
from pipeline.settings import WindowFilter, Windows
from tests.support.golden_cases import GOLDEN

NET = GOLDEN / "nets" / "caffenet_small"
SIDE, WINDOW, START = 256, 227, 14
TOLERANCE = 1e-5  # of a blob's largest value: that of float32 arithmetic, see tests/golden/README.md


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.ravel() - expected.ravel()).max() / np.abs(expected).max())


def images_and_mean(given: np.ndarray, generator: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Images and one mean image whose difference, in the window in the centre, is what Caffe was given.

    The mean image differs from pixel to pixel, so that one that is subtracted in another place is found out.
    """
    low, high = np.max(-given, axis=0), np.min(255 - given, axis=0)
    part = np.floor(low + generator.uniform(0, 1, low.shape) * (high - low + 1)).clip(low, high)
    mean = generator.integers(0, 256, (3, SIDE, SIDE)).astype(float)
    inside = slice(START, START + WINDOW)
    mean[:, inside, inside] = part
    images = []
    for data in given:
        image = generator.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        image[inside, inside] = (data + part).transpose(1, 2, 0)[..., ::-1]
        images.append(image)
    return images, mean


class Work:
    """The golden CaffeNet with such a mean image, and the images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.photos = folder, folder / "model", folder / "photos"
        generator = np.random.default_rng(0)
        images, self.mean = images_and_mean(np.load(NET / "input.npy").astype(int), generator)
        np.save(folder / "mean.npy", self.mean)
        convert(NET / "net.prototxt", NET / "net.caffemodel", self.model, mean=folder / "mean.npy", form="savedmodel")
        self.photos.mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(self.photos / f"{number}.png")
        small = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(small).save(self.photos / "small.png")

    def score(self, table: str, **settings: Any) -> JobResult:
        return run_job(self.job(table, **settings))

    def job(self, table: str, **settings: Any) -> Any:
        values = {"model": str(self.model), "images": [str(self.photos)], "output": str(self.folder / table)}
        return describe_job(**{**values, "scores": "float32", "max_rejected": 1.0, **settings})

    def table(self, name: str) -> MapTable:
        return MapTable(self.folder / name)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("windows"))


def rows(table: MapTable, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    found = table.to_arrow(["uri", *columns]).to_pylist()
    return sorted((Path(row["uri"]).name, *(row[name] for name in columns)) for row in found)


def test_the_centre_has_the_numbers_that_caffe_computed_and_stands_beside_the_dense_map(work: Work):
    features = ["fc7", "fc7:before", "fc8", "prob"]
    settings: dict[str, Any] = {"windows": "center", "window_filter": "opencv", "features": features}
    done = work.score("center", **settings)
    assert (done.summary.scored, done.summary.rejected) == (5, 1)
    table = work.table("center")
    assert [row[:2] for row in rows(table, ["scale"])] == [
        *(("0.png", 0.0), ("0.png", 1.0), ("1.png", 0.0), ("1.png", 1.0), ("small.png", 0.0), ("small.png", 1.0))
    ]
    with np.load(NET / "outputs.npz") as expected:
        for number in range(2):
            window = table.read(f"{number}.png", scale=0)
            assert window.size == (1, 1)
            assert window.window(0, 0) == (START, START, START + WINDOW, START + WINDOW)
            assert window.probabilities is not None
            for name in ("fc7", "fc8", "prob"):
                assert relative(window.features[name], expected[name][number]) <= TOLERANCE, name
            assert relative(window.probabilities, expected["prob"][number]) <= TOLERANCE
            before = window.features["fc7:before"]
            assert before.min() < 0
            np.testing.assert_array_equal(np.maximum(before, 0), window.features["fc7"])
            dense = table.read(f"{number}.png")
            assert (dense.size, dense.scale) == ((2, 2), 1.0)
            assert table.fused(f"{number}.png").fused_from == (1.0,)
            np.testing.assert_array_equal(np.maximum(dense.features["fc7:before"], 0), dense.features["fc7"])
    assert table.read("small.png").size == (1, 1), "too small for a map, but not for a window"
    assert {rejected.reason for rejected in table.rejections()} == {"too-small"}
    assert check(str(work.folder / "center")).clean
    assert count_outcomes(work.job("center", **settings), read_metadata(work.model)) == {"listed": 3, "keep": 3}
    again = count_outcomes(work.job("center", **{**settings, "window_filter": "pil"}), read_metadata(work.model))
    assert again == {"listed": 3, "score": 3}


def test_ten_windows_are_pycaffes_of_images_of_any_size(work: Work):
    done = work.score("ten", windows="ten", scales=(), features=["pool5", "fc8"])
    assert (done.summary.scored, done.summary.rejected) == (3, 0)
    network = load_network(NET / "net.prototxt", NET / "net.caffemodel")
    mean = resize_mean_image(work.mean.transpose(1, 2, 0), (WINDOW, WINDOW))
    table = work.table("ten")
    assert rows(table, ["windows", "map_height", "map_width"]) == [
        (name, "ten", 1, 10) for name in ("0.png", "1.png", "small.png")
    ]
    found = table.read("small.png")
    with Image.open(work.photos / "small.png") as image:
        pixels = np.asarray(image)
    resized = resize_for_windows(pixels, (SIDE, SIDE), WindowFilter.SKIMAGE)
    chosen = [1, 4, 8]  # a corner, the centre, a mirrored corner
    windows = cut_windows(resized, Windows.TEN, (WINDOW, WINDOW))[chosen]
    data = (windows.astype(float)[..., ::-1] - mean).transpose(0, 3, 1, 2)
    expected = evaluate(network, {"data": data})
    assert found.probabilities is not None
    assert relative(found.probabilities[0, chosen], expected["prob"]) <= TOLERANCE
    assert relative(found.features["fc8"][0, chosen], expected["fc8"]) <= TOLERANCE
    pool5 = found.features["pool5"].reshape(6, 10, 6, -1).transpose(1, 3, 0, 2)
    assert relative(pool5[chosen], expected["pool5"]) <= TOLERANCE
    assert check(str(work.folder / "ten")).clean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": "center", "window_resize": 256, "window_filter": "opencv"}, "the mean image has 256 x 256 pixels"),
        ({"windows": "warp", "window_mean": "crop"}, "the mean image has 256 x 256 pixels"),
        ({"windows": "ten", "features": ["fc77"]}, "no feature 'fc77'"),
        ({"windows": "ten", "features": ["pool5:before"]}, "feature 'pool5' has one value"),
        ({"features": ["fc7:before:uint8"]}, "cannot be kept as 'uint8'"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(work: Work, settings: dict[str, Any], message: str):
    with pytest.raises(SettingError, match=message):
        work.score("refused", **settings)
    assert not (work.folder / "refused").exists()


def test_settings_that_are_wrong_for_every_model_are_refused():
    for settings, message in (({"scales": ()}, "without --windows"), ({"windows": "all"}, "windows")):
        with pytest.raises(DensecastError, match=message):
            describe_job(model="m", images=["i"], output="o", **settings)


def test_a_model_whose_mean_image_is_lost_is_refused(work: Work, tmp_path: Path):
    """As an older version of densecast made it."""
    model = tmp_path / "model"
    model.mkdir()
    written = json.loads((work.model / "densecast.json").read_text())
    del written["mean_image"]
    (model / "densecast.json").write_text(json.dumps({**written, "schema_version": 1, "files": None}))
    job = describe_job(model=str(model), images=[str(work.photos)], output=str(tmp_path / "t"), windows="center")
    with pytest.raises(SettingError, match="no mean image"):
        count_outcomes(job, read_metadata(model))


@pytest.fixture(scope="module")
def full_caffenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """The full CaffeNet of the golden vectors, with a mean image, and an image: their folder, and Caffe's blobs."""
    vectors = GOLDEN / "caffenet_full" / "io.npz"
    if not vectors.exists():
        pytest.skip("the golden vectors of the full CaffeNet are not here")
    folder = tmp_path_factory.mktemp("caffenet")
    with np.load(vectors) as file:
        expected = {name: file[f"{name}_227"] for name in ("pool5", "fc7", "fc8")}
        given = file["image_451"][:, :, :WINDOW, :WINDOW].astype(int)
    definition = entry("caffenet").definition
    save(random_parameters(load_network(definition), seed=0), folder / "net.prototxt", folder / "net.caffemodel")
    images, mean = images_and_mean(given, np.random.default_rng(0))
    np.save(folder / "mean.npy", mean)
    weights, model = folder / "net.caffemodel", folder / "model"
    convert(definition, weights, model, mean=folder / "mean.npy", form="savedmodel")
    (folder / "photos").mkdir()
    Image.fromarray(images[0]).save(folder / "photos" / "0.png")
    return folder, expected


@pytest.mark.large
def test_full_caffenets_window_has_the_numbers_that_caffe_computed(
    full_caffenet: tuple[Path, dict[str, np.ndarray]],
):
    folder, expected = full_caffenet
    values = {"model": str(folder / "model"), "images": [str(folder / "photos")], "output": str(folder / "maps")}
    settings = {"windows": "center", "window_filter": "opencv", "scales": (), "features": ["pool5", "fc7", "fc8"]}
    run_job(describe_job(**values, **settings))
    window = MapTable(folder / "maps").read("0.png")
    for name in ("fc7", "fc8"):
        assert relative(window.features[name], expected[name]) <= TOLERANCE, name
    assert relative(window.features["pool5"], expected["pool5"][0].transpose(1, 2, 0)) <= TOLERANCE
