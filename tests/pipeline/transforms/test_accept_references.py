"""Whatever windows and triggers a bounded input has, every image gets its map; other inputs are refused by name."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing import test_stream
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark, Repeatedly
from apache_beam.transforms.window import FixedWindows, GlobalWindows, Sessions, SlidingWindows, TimestampedValue
from PIL import Image

from pipeline import ImageReference, ListImages, MapTable, ScoreImages
from pipeline.errors import JobError, SourceError
from pipeline.runners.options import SharedViews
from pipeline.runners.registry import open_runner
from pipeline.transforms.accept_references import AcceptReferences
from tests.support.fakes import FakeEngine, write_model

IMAGES = 6
DISCARDING, ACCUMULATING = AccumulationMode.DISCARDING, AccumulationMode.ACCUMULATING

WINDOWINGS = {
    "global, by count": functools.partial(
        beam.WindowInto, GlobalWindows(), trigger=Repeatedly(AfterCount(5)), accumulation_mode=DISCARDING
    ),
    "global, accumulating": functools.partial(
        beam.WindowInto, GlobalWindows(), trigger=Repeatedly(AfterCount(1)), accumulation_mode=ACCUMULATING
    ),
    "global, once": functools.partial(
        beam.WindowInto, GlobalWindows(), trigger=AfterCount(1), accumulation_mode=DISCARDING
    ),
    "global, early and by the clock": functools.partial(
        beam.WindowInto,
        GlobalWindows(),
        trigger=AfterWatermark(early=AfterProcessingTime(1)),
        accumulation_mode=DISCARDING,
    ),
    "fixed": functools.partial(beam.WindowInto, FixedWindows(4)),
    "fixed, by count": functools.partial(
        beam.WindowInto, FixedWindows(4), trigger=Repeatedly(AfterCount(2)), accumulation_mode=DISCARDING
    ),
    "sliding": functools.partial(beam.WindowInto, SlidingWindows(6, 3)),
    "sessions": functools.partial(beam.WindowInto, Sessions(2)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("accepted") / "model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for n in range(IMAGES):
        pixels = np.random.default_rng(n).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return [str(folder / f"{n}.png") for n in range(IMAGES)]


def new_pipeline(*flags: str) -> beam.Pipeline:
    return beam.Pipeline(runner=open_runner("local"), options=SharedViews([*flags]))


@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_references_are_in_one_window_with_the_default_trigger(windowing: str):
    references = new_pipeline() | beam.Create([ImageReference("/a.png")]) | WINDOWINGS[windowing]()
    assert not references.windowing.is_default()
    assert (references | AcceptReferences()).windowing.is_default()


@pytest.mark.parametrize("windowing", ["global, by count", "fixed, by count", "sessions"])
def test_every_image_gets_its_map_in_any_windows(tmp_path: Path, model: str, images: list[str], windowing: str):
    with new_pipeline() as pipeline:
        _ = (
            pipeline
            | beam.Create(list(enumerate(images)))
            | beam.MapTuple(lambda second, path: TimestampedValue(ImageReference(path), second))
            | WINDOWINGS[windowing]()
            | ScoreImages(model, tmp_path / "maps", open_engine=FakeEngine)
        )
    table = MapTable(tmp_path / "maps")
    assert sorted(found.uri for found in table) == sorted(images)
    assert table.version == 0


def test_the_summary_has_a_type_and_is_one_element(tmp_path: Path, model: str, images: list[str]):
    with new_pipeline() as pipeline:
        runs = pipeline | ListImages(images) | ScoreImages(model, tmp_path / "maps", open_engine=FakeEngine)
        assert runs.element_type.__name__ == "RunSummary"
        _ = runs | beam.Map(lambda run: run.scored) | beam.combiners.ToList() | beam.Map(_is_all_images)


def _is_all_images(counts: list[int]) -> None:
    assert counts == [IMAGES]


def test_an_input_without_an_end_is_refused_by_name(tmp_path: Path, model: str):
    stream = new_pipeline("--streaming") | "Uploads" >> test_stream.TestStream()
    with pytest.raises(JobError, match="the input of ScoreImages is not bounded: Uploads"):
        _ = stream | ScoreImages(model, tmp_path / "maps")


@pytest.mark.parametrize(
    ("elements", "kind"),
    [(["/a.png"], "str"), ([("key", ImageReference("/a.png"))], r"tuple|Tuple\[.*ImageReference"), ([1.5], "float")],
)
def test_other_elements_are_refused_while_the_pipeline_is_built(
    tmp_path: Path, model: str, elements: list[object], kind: str
):
    with pytest.raises(SourceError, match=rf"elements of type .*({kind})") as caught:
        _ = new_pipeline() | beam.Create(elements) | ScoreImages(model, tmp_path / "maps")
    assert "ListImages" in str(caught.value)
    assert "ImageReference(" in str(caught.value)


def test_other_inputs_are_refused(tmp_path: Path, model: str):
    with pytest.raises(JobError, match="not a PCollection"):
        _ = new_pipeline() | ScoreImages(model, tmp_path / "maps")


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ("/a.png", "elements of type str: '/a.png'"),
        (("key", ImageReference("/a.png")), "elements of type tuple: "),
        (None, "elements of type NoneType"),
        (ImageReference(""), "the address of a reference is ''"),
        (ImageReference(Path("/a.png")), "the address of a reference is .*Path"),
    ],
)
@pytest.mark.parametrize("hint", [Any, object, str | ImageReference])
def test_an_element_that_no_type_announced_is_refused_by_the_worker(element: object, said: str, hint: object):
    pipeline = new_pipeline()
    _ = pipeline | beam.Create([0]) | beam.Map(lambda _: element).with_output_types(hint) | AcceptReferences()
    with pytest.raises((SourceError, RuntimeError), match=said):
        pipeline.run()


def test_without_beams_type_check_the_worker_refuses():
    pipeline = new_pipeline("--no_pipeline_type_check")
    _ = pipeline | beam.Create(["/a.png"]) | AcceptReferences()
    with pytest.raises((SourceError, RuntimeError), match=r"elements of type str: '/a\.png'"):
        pipeline.run()


def test_list_images_is_refused_after_a_collection(images: list[str]):
    with pytest.raises(SourceError, match="ListImages is applied to a PCollection"):
        _ = new_pipeline() | beam.Create(images) | ListImages(images)
