"""The program of the Dataflow flex template, which builds densecast's pipeline and submits it.

The template's launcher runs it in the image (infra/docker/Dockerfile, target dataflow) with the parameters of
metadata.json as flags, and with Dataflow's own flags (`--runner`, `--project`, `--region`, `--temp_location`, ...),
which go to Beam unchanged. It does not wait for the job, because a launcher that waits never starts it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.jobs.calibrate import Calibration
from pipeline.jobs.spec import ScoringJob, describe_job
from pipeline.jobs.submit import build_pipeline

MODEL = "/opt/densecast/model"  # the model's folder in the image


def parse(arguments: Sequence[str]) -> tuple[ScoringJob, PipelineOptions]:
    """Returns the job and Beam's options.

    Raises:
        JobError: A setting of the job is invalid.
        SystemExit: A flag is missing or malformed.
    """
    # No abbreviations: `--project` must not be taken for a flag of ours.
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--images", required=True, help="Folders, patterns, archives or @manifests; quoted as in a shell"
    )
    parser.add_argument("--output", required=True, help="The table: gs://bucket/maps")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--scores", help="top-k, log-uint8, float16 or float32")
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--features", help="Blobs to keep, with spaces between them")
    parser.add_argument("--device", help="auto, cpu or gpu; gpu where there is an accelerator")
    parser.add_argument("--run_id")
    parser.add_argument("--dataflow_accelerator", help="type:nvidia-tesla-t4;count:1;install-nvidia-driver")
    ours, beams = parser.parse_known_args(arguments)
    chosen = {name: getattr(ours, name) for name in ("scores", "top_k", "device", "run_id") if getattr(ours, name)}
    if ours.dataflow_accelerator:
        chosen.setdefault("device", "gpu")  # the user pays for it, so a worker that cannot use it fails
    if ours.features:
        chosen["features"] = tuple(ours.features.split())
    job = describe_job(model=ours.model, images=tuple(shlex.split(ours.images)), output=ours.output, **chosen)

    options = PipelineOptions(beams)
    google = options.view_as(GoogleCloudOptions)
    if ours.dataflow_accelerator:
        google.dataflow_service_options = [
            *(google.dataflow_service_options or ()),
            f"worker_accelerator={ours.dataflow_accelerator}",
        ]
    return job, options


def build(job: ScoringJob, options: PipelineOptions) -> beam.Pipeline:
    """Returns the pipeline that `densecast score` runs."""
    # No check here: the workers have access to the images, the launcher may not.
    return build_pipeline(Calibration(job), beam.Pipeline(options=options), check=False)


def main(arguments: Sequence[str]) -> None:
    """Submits the job."""
    job, options = parse(arguments)
    build(job, options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
