"""Elements are spread over workers; one process shuffles nothing in vain."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.testing.util import assert_that, equal_to

from pipeline.transforms.shuffle import spread


class Elsewhere(PipelineRunner):
    """A runner that may have several workers."""


@pytest.mark.parametrize(
    ("runner", "flags", "spreads"),
    [
        (FnApiRunner, [], False),
        (FnApiRunner, ["--direct_num_workers=2"], True),
        (FnApiRunner, ["--direct_num_workers=0"], True),  # one for each core
        (Elsewhere, [], True),
    ],
)
def test_elements_are_spread_where_there_are_several_workers(
    runner: type[PipelineRunner], flags: list[str], spreads: bool
):
    pipeline = beam.Pipeline(runner=runner(), options=PipelineOptions(flags))
    elements = pipeline | beam.Create([1, 2], reshuffle=False)
    assert (spread(elements, "Spread") is not elements) == spreads


def test_what_is_not_spread_is_the_collection_itself():
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        assert_that(spread(pipeline | beam.Create([1, 2]), "Spread"), equal_to([1, 2]))
