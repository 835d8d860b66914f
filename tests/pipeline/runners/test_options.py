"""Options whose views are made once behave as Beam's own."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from unittest import mock

import apache_beam as beam
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, StandardOptions, TypeOptions

from pipeline import ListImages, ScoreImages
from pipeline.maps.recipe import Recipe
from pipeline.runners.options import SharedViews
from pipeline.runners.registry import open_runner
from tests.support.fakes import FakeEngine, write_model

FLAGS = ["--streaming", "--experiments=a", "--job_name=mine"]


def test_views_share_their_values():
    options = SharedViews(FLAGS)
    debug = options.view_as(DebugOptions)
    assert options.view_as(DebugOptions) is debug
    assert debug.experiments == ["a"]
    options.view_as(StandardOptions).streaming = False
    debug.experiments = ["b"]
    assert not options.view_as(StandardOptions).streaming
    assert options.get_all_options()["experiments"] == ["b"]
    assert options.get_all_options() == {
        **PipelineOptions(FLAGS).get_all_options(),
        "streaming": False,
        "experiments": ["b"],
    }


def test_a_copy_shares_nothing_with_its_original():
    options = SharedViews(FLAGS)
    original = options.view_as(TypeOptions)
    for other in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):  # noqa: S301 - our own
        other.view_as(TypeOptions).runtime_type_check = True
        assert other.get_all_options()["runtime_type_check"]
        assert not original.runtime_type_check
        assert other.view_as(DebugOptions).experiments == ["a"]


def test_a_pipeline_is_built_with_one_parser_a_class(tmp_path: Path):
    """And is the one that Beam's own options give."""
    model = write_model(tmp_path / "model")
    (tmp_path / "images").mkdir()

    def build(options: PipelineOptions) -> tuple[int, object]:
        made = mock.Mock(wraps=pipeline_options._BeamArgumentParser)
        with mock.patch.object(pipeline_options, "_BeamArgumentParser", made):
            pipeline = beam.Pipeline(runner=open_runner("local"), options=options)
            score = ScoreImages(model, tmp_path / "maps", Recipe(k=2), run_id="one", open_engine=FakeEngine)
            _ = pipeline | ListImages([str(tmp_path / "images")]) | score
        labels = [node.full_label for node in pipeline.transforms_stack[0].parts]
        return made.call_count, labels

    parsers, labels = build(SharedViews([]))
    many, expected = build(PipelineOptions([]))
    assert labels == expected
    assert parsers < 30 < many
