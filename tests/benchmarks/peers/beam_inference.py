"""Beam's RunInference on the local runner: files are decoded, scored and saved by one fused stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from tests.benchmarks.peers.dense import INPUT, OUTPUT, decode, open_session, save

BATCH = 8
FLAGS = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
"""One thread decodes while the other scores."""


class Dense(ModelHandler):
    """Beam's own handler of ONNX stacks a batch, which images of several sizes do not allow."""

    def __init__(self, graph: str) -> None:
        super().__init__(max_batch_size=BATCH)
        self._graph = graph

    def load_model(self) -> Any:
        return open_session(self._graph)

    def run_inference(self, batch: Sequence[np.ndarray], model: Any, inference_args: Any = None) -> Iterator[Any]:
        for pixels in batch:
            [probabilities] = model.run([OUTPUT], {INPUT: pixels[None]})
            yield probabilities[0]


def main(graph: str, images: str, output: str) -> None:
    paths = sorted(map(str, Path(images).rglob("*.jpg")))
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(FLAGS)) as pipeline:
        _ = (
            pipeline
            | beam.Create(paths)
            | beam.Reshuffle()
            | beam.Map(lambda path: (path, decode(path)))
            | RunInference(KeyedModelHandler(Dense(graph)))
            | beam.MapTuple(lambda path, probabilities: save(output, path, probabilities))
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
