"""The command `export`: a model as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.console import printing_does_not_count, say, say_json
from pipeline.cli.param_types import IMAGE_SIZE

_MODEL_FORMATS = ("onnx",)


@click.command()
@click.argument("source", metavar="MODEL", type=click.Path())
@click.argument("output", type=click.Path())
@click.option("--format", "form", required=True, type=click.Choice(_MODEL_FORMATS), help="What is written.")
@click.option("--classifier", is_flag=True, help="Models: the net as it was trained, for one window.")
@click.option(
    "--input-size", type=IMAGE_SIZE, help="Models: HEIGHTxWIDTH, for one image of that size. Default: any size."
)
@click.option("--fp16", is_flag=True, help="Models: weights and computation in float16 where it is safe.")
@click.option("--raw-input", is_flag=True, help="Models: the input is float32 NCHW, with the mean subtracted already.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
def export(source: str, output: str, *, form: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Write a model in a form that other programs read.

    A model becomes one ONNX file, which ONNX Runtime computes as the reference does before it is put in place. Its
    input is uint8 RGB images, as the model's; with --raw-input it is what the first layer reads.

    \b
    densecast export caffenet caffenet.onnx --format onnx
    densecast export caffenet fc7.onnx --format onnx --classifier --raw-input
    """
    del form  # a model has one form
    if not is_model(source):
        raise click.UsageError(f"{source} is not a model directory: it has no densecast.json")
    _export_model(source, output, overwrite=overwrite, as_json=as_json, **options)


def is_model(source: str) -> bool:
    """Returns whether an address is a model directory; otherwise it is taken for a table."""
    return (Path(source) / "densecast.json").exists()


def _export_model(source: str, output: str, *, as_json: bool, **options: Any) -> None:
    from conversion import export_onnx

    printing_does_not_count()
    report = export_onnx(source, output, **options)
    if as_json:
        say_json(report.model_dump(mode="json"), indent=2)
        return
    for path, size in report.files.items():
        say(f"wrote {path}: {size:,} bytes")
    for kind, values in (("input", report.inputs), ("output", report.outputs)):
        for name, value in values.items():
            say(f"{kind} {name}: {value}")
    v = report.verification
    say(f"verified: {v.blobs} blobs at {len(v.sizes)} sizes, worst {v.worst:.1e} of absmax ({v.worst_blob})")
