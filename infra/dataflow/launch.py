"""Writes the specification of densecast's Dataflow flex template, and launches jobs from it.

Needs `google-cloud-dataflow-client`, which comes with `apache-beam[gcp]`, and Google's application default credentials.

    python infra/dataflow/launch.py spec --image IMAGE > densecast.json      (then copy it to gs://BUCKET/densecast.json)
    python infra/dataflow/launch.py run --project P --region europe-west4 --template gs://BUCKET/densecast.json \
        --image IMAGE --temp gs://BUCKET/temp --accelerator 'type:nvidia-tesla-t4;count:1;install-nvidia-driver' \
        images='gs://BUCKET/photos/' output=gs://BUCKET/maps
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import click
from google.cloud import dataflow_v1beta3 as dataflow

METADATA = Path(__file__).with_name("metadata.json")


def read_metadata() -> dataflow.TemplateMetadata:
    """Returns metadata.json as Dataflow's message; an unknown field is an error."""
    return dataflow.TemplateMetadata.from_json(METADATA.read_text(encoding="utf-8"))


def checked(pairs: tuple[str, ...], accelerator: str | None) -> dict[str, str]:
    """Returns the parameters of a job after the checks that Dataflow makes.

    Raises:
        click.UsageError: A parameter is unknown, missing, or does not match its regexes.
    """
    given = dict(pair.partition("=")[::2] for pair in pairs)
    if accelerator:
        given["dataflow_accelerator"] = accelerator
    known = {parameter.name: parameter for parameter in read_metadata().parameters}
    if unknown := sorted(given.keys() - known):
        raise click.UsageError(f"unknown parameter {', '.join(unknown)}; the parameters are {', '.join(known)}")
    for name, parameter in known.items():
        if name not in given:
            if not parameter.is_optional:
                raise click.UsageError(f"{name}=... is missing: {parameter.help_text}")
        elif not all(re.fullmatch(regex, given[name]) for regex in parameter.regexes):
            raise click.UsageError(f"{name}={given[name]!r} does not match {' '.join(parameter.regexes)}")
    return given


@click.group()
def cli() -> None:
    """The Dataflow flex template of densecast."""


@cli.command()
@click.option("--image", required=True, help="The image of infra/docker/Dockerfile, target dataflow.")
def spec(image: str) -> None:
    """Print the template's specification."""
    container = dataflow.ContainerSpec(
        image=image, metadata=read_metadata(), sdk_info=dataflow.SDKInfo(language=dataflow.SDKInfo.Language.PYTHON)
    )
    click.echo(
        dataflow.ContainerSpec.to_json(
            container, use_integers_for_enums=False, always_print_fields_with_no_presence=False
        )
    )


@cli.command()
@click.option("--project", required=True)
@click.option("--region", required=True)
@click.option("--template", required=True, help="The address of the specification: gs://BUCKET/densecast.json.")
@click.option("--image", required=True, help="The image of the workers, which is that of the template.")
@click.option("--temp", required=True, help="A folder for temporary files: gs://BUCKET/temp.")
@click.option("--accelerator", help="The GPU of every worker: type:nvidia-tesla-t4;count:1;install-nvidia-driver.")
@click.option("--machine-type", default="n1-standard-4", show_default=True)
@click.option("--max-workers", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--job-name", help="Default: densecast and the time.")
@click.option("--dry-run", is_flag=True, help="Print the request, and send nothing.")
@click.argument("parameters", nargs=-1, metavar="NAME=VALUE...")
def run(
    project: str,
    region: str,
    template: str,
    image: str,
    temp: str,
    accelerator: str | None,
    machine_type: str,
    max_workers: int,
    job_name: str | None,
    dry_run: bool,
    parameters: tuple[str, ...],
) -> None:
    """Launch a job with the template's parameters."""
    environment = dataflow.FlexTemplateRuntimeEnvironment(
        temp_location=temp,
        staging_location=f"{temp.rstrip('/')}/staging",
        machine_type=machine_type,
        max_workers=max_workers,
        sdk_container_image=image,
        # A GPU needs one process per worker, so that the model is loaded once.
        additional_experiments=["no_use_multiple_sdk_containers"] if accelerator else [],
    )
    launch = dataflow.LaunchFlexTemplateParameter(
        job_name=job_name or f"densecast-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        container_spec_gcs_path=template,
        parameters=checked(parameters, accelerator),
        environment=environment,
    )
    request = dataflow.LaunchFlexTemplateRequest(project_id=project, location=region, launch_parameter=launch)
    if dry_run:
        click.echo(dataflow.LaunchFlexTemplateRequest.to_json(request, always_print_fields_with_no_presence=False))
        return
    job = dataflow.FlexTemplatesServiceClient().launch_flex_template(request=request).job
    click.echo(json.dumps({"job": job.id, "name": job.name}))


if __name__ == "__main__":
    cli()
