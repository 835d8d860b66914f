"""What `densecast inspect` says, for every net of the catalog."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from conversion import DenseOptions
from models import entries
from pipeline.tools.inspect_network import _model_facts, inspect, render
from tests.support.fakes import METADATA

MAPS = {  # cells at 451 x 451, window, stride
    "caffenet": (8, 227, 32),
    "alexnet": (8, 227, 32),
    "vgg16": (9, 224, 32),
    "vgg19": (9, 224, 32),
    "googlenet": (8, 224, 32),
    "nin": (8, 224, 32),
    "squeezenet_1_0": (15, 227, 16),
    "squeezenet_1_1": (15, 227, 16),
    "resnet50": (9, 224, 32),
    "mobilenet": (9, 224, 32),
    "densenet121": (9, 224, 32),
    "places205": (8, 227, 32),
    "places365": (8, 227, 32),
    "age_levi": (8, 227, 32),
    "gender_levi": (8, 227, 32),
    "flickr_style": (8, 227, 32),
    "oxford102": (8, 227, 32),
    "open_nsfw": (9, 224, 32),
    "rcnn_ilsvrc13": (8, 227, 32),
    "digits": (106, 32, 4),
}
NO_MAP = {"se_resnet50"}  # it has no dense form


def test_every_entry_has_its_expectation():
    assert {entry.name for entry in entries()} == {*MAPS, *NO_MAP}


@pytest.mark.parametrize("name", MAPS)
def test_map_size_and_geometry_at_451(name: str):
    report = inspect(name, (451, 451))
    cells, window, stride = MAPS[name]
    assert report.map_size == [cells, cells]
    assert (report.geometry.y.window, report.geometry.y.stride) == (window, stride)
    stream = io.StringIO()
    Console(width=120, file=stream).print(render(report))
    text = stream.getvalue()
    assert f"{cells}x{cells} cells" in text
    assert f"{window} pixels: the crop" in text


def test_the_layer_is_named_for_which_the_native_engine_does_not_run_a_net(tmp_path: Path):
    head = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
    net = (
        head
        + """
        layer { name: "twice" type: "Tile" bottom: "data" top: "twice" tile_param { tiles: 2 } }
        layer { name: "c" type: "Convolution" bottom: "BOTTOM" top: "c"
                convolution_param { num_output: 2 kernel_size: 8 } }
        layer { name: "prob" type: "Softmax" bottom: "c" top: "prob" }"""
    )
    reports = {}
    for bottom in ("data", "twice"):
        (tmp_path / "net.prototxt").write_text(net.replace("BOTTOM", bottom))
        reports[bottom] = inspect(str(tmp_path / "net.prototxt"), options=DenseOptions(output_blob="prob"))
    assert reports["data"].not_native is None
    assert reports["twice"].not_native == "layer 'twice' (Tile): no plain operations compute Tile"
    stream = io.StringIO()
    Console(width=200, file=stream).print(render(reports["twice"]))
    assert "layer 'twice' (Tile): no plain operations compute Tile; another engine runs the net" in stream.getvalue()


def test_a_model_says_whether_its_mean_image_is_kept():
    kept = METADATA.model_copy(update={"mean_image": (256, 256)})
    lost = METADATA.model_copy(update={"notes": ("the mean image of 256x256 is reduced to its channel mean",)})
    found = {name: dict(_model_facts(model)).get("mean image", "") for name, model in (("kept", kept), ("lost", lost))}
    assert found["kept"].startswith("256x256, kept for windows")
    assert found["lost"].startswith("not kept")
    assert "mean image" not in dict(_model_facts(METADATA))
