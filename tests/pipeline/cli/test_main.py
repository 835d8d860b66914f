"""The command line as a user meets it, in its own process; and its small parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conversion import evaluate, load_network
from pipeline.cli.param_types import IMAGE_SIZE
from pipeline.table.reader import MapTable
from tests.support.golden_cases import GOLDEN

NET = GOLDEN / "nets" / "caffenet_small"


def densecast(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("".join(f"n{n:08d} class {n}, also {n}\n" for n in range(40)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, labels: Path) -> Path:
    output = tmp_path_factory.mktemp("cli") / "model"
    done = densecast(
        "convert",
        NET / "net.prototxt",
        NET / "net.caffemodel",
        "-o",
        output,
        "--mean",
        "104,117,123",
        "--labels",
        labels,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no noise of TensorFlow's or Beam's"
    assert "receptive field" in done.stdout
    return output


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for n in range(3):
        pixels = rng.integers(0, 256, (240, 260 + 40 * n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"p{n}.png")
    (folder / "photos" / "bad.jpg").write_bytes(b"not an image")
    (folder / "photos" / "phone.heic").touch()
    done = densecast("score", model, "photos", "--output", "maps", "--max-rejected", "50%", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "4 images: 3 new maps, 1 rejected" in done.stdout
    noise = [
        line for line in done.stderr.splitlines() if not line.startswith(("scoring: ", "densecast: loading the model"))
    ]
    assert not noise, "no lines of TensorFlow's or Beam's"
    assert "1 unknown-format" in done.stdout
    assert "left out of folders: 1 .heic" in done.stdout
    return folder


def test_score_wrote_the_maps(scored: Path):
    table = MapTable(str(scored / "maps"))
    assert len(table) == 3
    assert table.read(str(scored / "photos" / "p0.png")).size == (2, 2)


def test_too_many_rejections_exit_with_3_and_say_where_to_look(scored: Path, model: Path):
    done = densecast("score", model, scored / "photos", "-o", scored / "strict", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["rejected"] == 1
    assert json.loads(done.stdout)["left_out"] == {".heic": 1}
    assert "densecast rejected" in done.stderr
    listed = densecast("rejected", scored / "strict")
    assert listed.stdout.splitlines()[1].split("\t")[1] == "unknown-format"


def test_show_prints_the_map_and_draws_it(scored: Path):
    done = densecast("show", "maps", "photos/p2.png", "--output", "map.png", cwd=scored)
    assert done.returncode == 0, done.stderr
    assert "class" in done.stdout
    with Image.open(scored / "map.png") as picture:
        assert picture.width >= 340
    assert densecast("show", "maps", "photos/p9.png", cwd=scored).returncode == 1


def test_inspect_is_the_same_for_model_and_definition(model: Path):
    reports = [
        json.loads(densecast("inspect", path, "--input-size", "451x300", "--json").stdout)
        for path in (model, NET / "net.prototxt")
    ]
    assert reports[0]["map_size"] == reports[1]["map_size"] == [8, 4]
    assert reports[0]["geometry"] == reports[1]["geometry"]
    assert reports[0]["layers"] == reports[1]["layers"]
    axis = {"stride": 32, "offset": 113, "window": 227, "receptive_field": 355, "shift": 0}
    assert reports[0]["geometry"] == {"y": axis, "x": axis}


def test_bench_measures_what_it_says(model: Path):
    done = densecast("bench", model, "--sizes", "227", "--batches", "1,2", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(t["size"], t["batch"], t["map_size"]) for t in report["timings"]] == [
        ([227, 227], 1, [1, 1]),
        ([227, 227], 2, [1, 1]),
    ]
    assert report["claim"]["map_size"] == [8, 8]


@pytest.mark.large
def test_beam_flags_go_through_and_bad_ones_are_reported(scored: Path, model: Path):
    done = densecast(
        *("score", model, scored / "photos", "-o", scored / "beam", "--max-rejected", "50%"),
        *("--", "--direct_num_workers=1", "--job_name=mine"),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert", "no.prototxt", "no.caffemodel", "-o", "x"], 1, ["no.prototxt", "cannot be read"]),
        (["score", "no-model", "x", "-o", "y"], 1, ["not a densecast model", "densecast convert"]),
        (["show", "no-table", "x"], 1, ["no-table"]),
        (["inspect", "no-net"], 1, ["no-net"]),
        (["models", "fetch", "caffenett"], 1, ["caffenet"]),
        (["score", "m", "-o", "y"], 2, ["IMAGES"]),
        (["inspect", "m", "--input-size", "0x5"], 2, ["451x451"]),
        (["score", "m", "i", "-o", "o", "--top-k", "0"], 2, ["top-k"]),
    ],
)
def test_wrong_use_ends_in_one_message(tmp_path: Path, arguments: list[str], code: int, words: list[str]):
    done = densecast(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(("text", "expected"), [("451", (451, 451)), ("227x300", (227, 300)), ("5X6", (5, 6))])
def test_size(text: str, expected: tuple[int, int]):
    assert IMAGE_SIZE.convert(text, None, None) == expected


def test_verify_holds_a_model_against_its_caffe_files_and_its_crops(model: Path):
    files = ["--definition", NET / "net.prototxt", "--weights", NET / "net.caffemodel"]
    done = densecast("verify", model, "--crops", *files, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["caffe"]["worst"] < 1e-4
    assert report["crops"]["cells"] == 32
    assert 0 < report["crops"]["largest"] < 1, "the inner convolutions are padded: maps and crops differ"
    assert densecast("verify", model).returncode == 2


def test_cast_writes_files_that_load_and_opencv_computes_the_same(tmp_path: Path):
    """OpenCV reads Caffe files by itself: an engine of another make that must agree with our cast."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is in the extra `bench`")
    out = (tmp_path / "dense.prototxt", tmp_path / "dense.caffemodel")
    files = ["--output-prototxt", out[0], "--output-weights", out[1]]
    done = densecast("cast", NET / "net.prototxt", NET / "net.caffemodel", *files)
    assert done.returncode == 0, done.stderr
    image = np.random.default_rng(0).normal(0, 50, (1, 3, 259, 291)).astype(np.float32)
    network = load_network(*out)
    net = cv2.dnn.readNetFromCaffe(*map(str, out))
    net.setInput(image)
    np.testing.assert_allclose(net.forward(), evaluate(network, {"data": image})["prob"], atol=1e-5)


def test_upgrade_writes_what_caffes_own_tools_write(tmp_path: Path):
    folder = GOLDEN / "layers" / "fmt_v0"
    for name in ("net.prototxt", "net.caffemodel"):
        assert densecast("upgrade", folder / name, "--output", tmp_path / name).returncode == 0
    ours = load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    theirs = load_network(folder / "net_upgraded.prototxt", folder / "net_upgraded.caffemodel")
    assert [layer.definition for layer in ours.layers] == [layer.definition for layer in theirs.layers]
    for name, blobs in theirs.parameters.items():
        for mine, other in zip(ours.parameters[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)
