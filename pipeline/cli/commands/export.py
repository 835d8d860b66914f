"""The command `export`: a model as one ONNX file, or maps and features of a table as one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conversion.errors import printable
from pipeline.cli.commands.options import need_tensorflow, storage_options, table_root
from pipeline.cli.console import printing_does_not_count, say, say_json, show
from pipeline.cli.param_types import IMAGE_SIZE
from pipeline.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.exports.compare_features import Comparison

_MODEL_FORMATS = ("onnx",)
_TABLE_FORMATS = ("npy", "npz", "hdf5", "mat", "parquet")
_OF_MODELS = ("classifier", "input_size", "fp16", "raw_input")
_OF_TABLES = ("run", "scale", "blobs", "average")


@click.command()
@click.argument("source", metavar="MODEL|TABLE", type=click.Path())
@click.argument("output", type=click.Path())
@click.option(
    "--format",
    "form",
    type=click.Choice([*_MODEL_FORMATS, *_TABLE_FORMATS]),
    help="What is written. Default: what the ending of OUTPUT says.",
)
@click.option("--classifier", is_flag=True, help="Models: the net as it was trained, for one window.")
@click.option(
    "--input-size", type=IMAGE_SIZE, help="Models: HEIGHTxWIDTH, for one image of that size. Default: any size."
)
@click.option("--fp16", is_flag=True, help="Models: weights and computation in float16 where it is safe.")
@click.option("--raw-input", is_flag=True, help="Models: the input is float32 NCHW, with the mean subtracted already.")
@click.option("--run", help="Tables: the maps that this run made. Default: all.")
@click.option(
    "--scale", type=float, help="Tables: the scale of the maps; 0 for windows. Default: windows, or the only scale."
)
@click.option(
    "--blob",
    "blobs",
    multiple=True,
    help="Tables: a feature, probabilities, classes or scores; may be repeated. Default: features and probabilities.",
)
@click.option("--average", is_flag=True, help="Tables: the mean over the cells of each image, as over ten windows.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
@storage_options
def export(source: str, output: str, *, form: str | None, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Write a model, or the maps and features of a table, in a form that other programs read.

    A model becomes one ONNX file, which ONNX Runtime computes as the reference does before it is put in place. Its
    input is uint8 RGB images, as the model's; with --raw-input it is what the first layer reads.

    Of a table, the images are in the order of their addresses, and the file has their names; those of an .npy are in
    a file .json beside it.

    \b
    densecast export caffenet caffenet.onnx --format onnx
    densecast export caffenet fc7.onnx --format onnx --classifier --raw-input
    densecast export maps features.npz --blob fc7 --blob fc7:before
    densecast export maps prob.npy --blob prob --average
    """
    model = is_model(source)
    kind, others = ("a model", _OF_TABLES) if model else ("a table", _OF_MODELS)
    if wrong := [name for name in others if options[name] not in (None, False, ())]:
        flags = {"blobs": "--blob"}
        named = ", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in wrong)
        raise click.UsageError(f"{named} is not for {kind}, and {source} is {kind}")
    kept = {name: value for name, value in options.items() if name not in others}
    if model:
        if form in _TABLE_FORMATS or (form is None and not output.endswith(".onnx")):
            raise click.UsageError(f"{source} is a model, which is written as ONNX: --format onnx")
        _export_model(source, output, overwrite=overwrite, as_json=as_json, **kept)
        return
    if form in _MODEL_FORMATS or (form is None and output.endswith(".onnx")):
        raise click.UsageError(f"{source} is not a model directory: it has no densecast.json")
    _export_table(source, output, form, overwrite=overwrite, as_json=as_json, **kept)


def is_model(source: str) -> bool:
    """Returns whether an address is a model directory; otherwise it is taken for a table."""
    return (Path(source) / "densecast.json").exists()


def _export_model(source: str, output: str, *, as_json: bool, **options: Any) -> None:
    from conversion import export_onnx, needs_tensorflow

    if needs_tensorflow(source):
        need_tensorflow()
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


def _export_table(
    source: str, output: str, form: str | None, *, overwrite: bool, as_json: bool, **selection: Any
) -> None:
    from pipeline.exports.export_table import export_table, format_of
    from pipeline.exports.gather import Selection

    kind = format_of(output, form)
    printing_does_not_count()
    report = export_table(table_root(source), output, kind, Selection(**selection), overwrite=overwrite)
    if as_json:
        say_json(report.model_dump(mode="json"), indent=2)
        return
    for path, size in report.files.items():
        say(f"wrote {path}: {size:,} bytes")
    for name, shape in report.arrays.items():
        say(f"{name}: {' x '.join(map(str, shape))}, of {report.images:,} images")


@click.command()
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@click.option("--run", help="Of tables, the maps that this run made. Default: all.")
@click.option("--scale", type=float, help="Of tables, the scale of the maps; 0 for windows. Default: as in export.")
@click.option("--blob", "blobs", multiple=True, help="A blob to compare; may be repeated. Default: all that both have.")
@click.option(
    "--match",
    type=click.Choice(["uri", "name", "id"]),
    default="uri",
    show_default=True,
    help="Match images by their address, the file's name in it, or your own name.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Exit with 6 if a value differs by a larger share of its blob's largest magnitude, or images or blobs lack.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison for programs.")
@storage_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    *,
    old: str,
    new: str,
    match: str,
    tolerance: float | None,
    as_json: bool,
    **selection: Any,
) -> None:
    """Say how far two sets of features are apart, blob by blob.

    OLD and NEW are tables, or files that `densecast export` wrote, or arrays of your own: an .npy with the names of
    its rows beside it, in a file .json with a list `uri`; an .npz or HDF5 with one array a blob and `uri`. Where both
    lack names, rows are matched by their order.

    \b
    densecast compare published.npy maps --blob fc7 --match name
    densecast compare old.npz new.npz --tolerance 1e-4
    """
    from pipeline.exports.compare_features import Match, compare_features
    from pipeline.exports.gather import Selection
    from pipeline.exports.read_features import read_features

    printing_does_not_count()
    chosen = Selection(**selection)
    with read_features(table_root(old), chosen) as before, read_features(table_root(new), chosen) as after:
        comparison = compare_features(before, after, Match(match))
    within = tolerance is None or comparison.within(tolerance)
    if as_json:
        verdict = {} if tolerance is None else {"tolerance": tolerance, "within": within}
        say_json({**comparison.model_dump(mode="json"), **verdict}, indent=2)
    else:
        show(_comparison_table(comparison))
        for line in _comparison_lines(comparison):
            say(line)
    if not within:
        say(f"the difference is more than {tolerance:g} of a blob's largest value, or images are missing", err=True)
        ctx.exit(ExitCode.DRIFTED)


def _comparison_table(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table("blob", "images", "max", "mean", "of absmax", "correlation", "least cosine", box=None)
    for blob in comparison.blobs:
        differences = (blob.largest, blob.mean, blob.relative)
        likenesses = (blob.correlation, blob.cosine)
        table.add_row(
            printable(blob.blob),
            f"{blob.images:,}",
            *("-" if value is None else f"{value:.3g}" for value in differences),
            *("-" if value is None else f"{value:.7f}" for value in likenesses),
        )
    return table


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yields what is not in both sets, and where the largest differences are."""
    for count, name in ((comparison.only_old, comparison.old), (comparison.only_new, comparison.new)):
        if count:
            yield f"{count:,} images are only in {name}"
    for blobs, name in ((comparison.only_old_blobs, comparison.old), (comparison.only_new_blobs, comparison.new)):
        if blobs:
            yield f"only in {name}: {', '.join(blobs)}"
    for blob in comparison.blobs:
        if blob.other_shape:
            yield f"{blob.blob}: {blob.other_shape:,} images have another number of values"
        if blob.images and blob.largest is None:
            yield f"{blob.blob}: a difference is not a number, first in {blob.worst}"
        elif blob.largest:
            yield f"{blob.blob}: the largest difference is in {blob.worst}"
