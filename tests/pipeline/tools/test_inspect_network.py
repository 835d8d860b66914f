"""What `densecast inspect` says, for every net of the catalog."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

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


def test_a_model_says_whether_its_mean_image_is_kept():
    kept = METADATA.model_copy(update={"mean_image": (256, 256)})
    lost = METADATA.model_copy(update={"notes": ("the mean image of 256x256 is reduced to its channel mean",)})
    found = {name: dict(_model_facts(model)).get("mean image", "") for name, model in (("kept", kept), ("lost", lost))}
    assert found["kept"].startswith("256x256, kept for windows")
    assert found["lost"].startswith("not kept")
    assert "mean image" not in dict(_model_facts(METADATA))
