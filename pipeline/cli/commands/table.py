"""Commands about collections and tables: score, rejected, show, demo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.cli.commands.options import (
    Numbers,
    PassThrough,
    Resize,
    check_tensorflow,
    device_option,
    need_tensorflow,
    storage_options,
    terminated_is_interrupted,
)
from pipeline.cli.console import console
from pipeline.exit_codes import ExitCode
from pipeline.maps.recipe import Form, Precision

if TYPE_CHECKING:
    from pipeline.jobs.run import JobResult


@click.command(cls=PassThrough)
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@click.option("--output", "-o", required=True, help="The table to write to; made if there is none.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes kept a cell.")
@click.option(
    "--scores",
    type=click.Choice([form.value for form in Form]),
    default=Form.TOP_K.value,
    show_default=True,
    help="How much of a map is kept.",
)
@click.option(
    "--accuracy-bound",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Instead of --scores: keep the smallest form whose probabilities are off by no more on a sample.",
)
@click.option("--features", "-f", multiple=True, help="Keep a blob as well: fc7, or fc7:float16.")
@click.option("--scales", type=Numbers(), default="1", show_default=True, help="One map for each, as 1,0.7,0.5.")
@click.option("--resize", type=Resize(), help="First bring the shorter side to N pixels, or the image to HxW.")
@click.option("--max-side", type=click.IntRange(min=1), help="And shrink images whose longer side is longer.")
@click.option("--retry-rejected", is_flag=True, help="Try rejected images again though they have not changed.")
@click.option("--rescore", is_flag=True, help="Score all images again.")
@click.option("--prune", is_flag=True, help="Mark the table's images that are not among IMAGES as deleted.")
@click.option("--max-pruned", default="50%", show_default=True, help="Fail if --prune would mark more of the table.")
@click.option("--max-rejected", default="5%", show_default=True, help="Exit with 3 if more images get no map.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Reject larger images that cannot be read by window.")
@click.option("--max-image-bytes", type=click.IntRange(min=1), help="Reject larger files unread.")
@click.option("--tile-pixels", type=click.IntRange(min=1), help="Cut larger images into tiles of so many pixels.")
@click.option("--decode-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds a decoder may take.")
@device_option
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    default=Precision.FLOAT32.value,
    show_default=True,
    help="What the net computes in; measured on the first images against float32.",
)
@click.option(
    "--max-parity-error",
    type=click.FloatRange(0, 1),
    help="Refuse a precision that changes a probability by more. Default: 0.01.",
)
@click.option("--max-parity-flips", help="Or the best class of more cells. Default: 1%.")
@click.option("--xla", is_flag=True, help="Have XLA compile the net for the sizes of the first images.")
@click.option("--xla-shapes", type=click.IntRange(min=1), help="How many sizes at most. Default: 8.")
@click.option("--runner", default="local", show_default=True, help="local, or the name of a Beam runner.")
@click.option("--flink-master", metavar="HOST:PORT", help="The REST address of a Flink cluster, for FlinkRunner.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@storage_options
@click.pass_context
def score(ctx: click.Context, /, model: str, images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write the classification map of every image to a Delta table.

    IMAGES are folders, files, glob patterns, archives and other shards (*.tar, *.zip, *.parquet, *.tfrecord), or
    manifests (@list.txt, @list.csv, @list.jsonl). What follows -- goes to Beam.

    Run it again, and only what is new or has changed is scored; so a run that was killed is resumed.

    \b
    densecast score caffenet photos/ 'more/**/*.jpg' @list.csv --output maps
    densecast score caffenet 'shards/*.tar' --output maps --scales 1,0.7,0.5 --max-rejected 1%
    densecast score caffenet photos/ --output maps --accuracy-bound 0.01 --prune
    densecast score caffenet photos/ --output maps --runner FlinkRunner --flink-master localhost:8081
    """
    from pipeline.jobs.run import run_job
    from pipeline.jobs.spec import describe_job

    values = {name: value for name, value in options.items() if value is not None}
    if "accuracy_bound" in values and ctx.get_parameter_source("scores") is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --scores or --accuracy-bound, not both: the bound chooses what is kept")
    check_tensorflow()
    job = describe_job(model=model, images=images, beam_options=ctx.meta.get("densecast.beam", ()), **values)
    with terminated_is_interrupted():
        result = run_job(job)
    if as_json:
        click.echo(json.dumps({**result.summary._asdict(), "seconds_total": result.seconds, "failed": result.failed}))
    else:
        click.echo("\n".join(_told(job.output, result)))
    if result.failed:
        click.echo(
            f"more than {job.max_rejected:.1%} of the images have no map; see `densecast rejected {job.output}`",
            err=True,
        )
        ctx.exit(ExitCode.REJECTED)


def _told(output: str, result: JobResult) -> Iterator[str]:
    """What a run did, in lines for people."""
    summary, images = result.summary, result.summary.images
    unchanged = sum(images.get(name, 0) for name in ("keep", "update"))
    others = {
        "unchanged": unchanged,
        "taken over from a run that died": images.get("adopt", 0),
        "deleted": images.get("delete", 0),
    }
    told = "".join(f", {count:,} {what}" for what, count in others.items() if count)
    yield f"{images.get('listed', 0):,} images: {summary.scored:,} new maps, {summary.rejected:,} rejected{told}"
    yield from (f"  {count:,} {reason}" for reason, count in summary.reasons.items())
    if result.choice is not None:
        choice = result.choice
        yield f"maps are kept as {choice.form}: off by at most {choice.error:.2g} on {choice.images} images"
    if result.parity is not None:
        parity = result.parity
        yield (
            f"computed in {parity.precision}: off by at most {parity.largest:.2g} from float32 on {parity.images} "
            f"images, {parity.flips:.2%} of the cells have another best class"
        )
    if summary.devices:
        yield f"computed on {', '.join(summary.devices)}"
    rate = images.get("score", 0) / result.seconds if result.seconds else 0.0
    yield f"{result.seconds:.1f} s, {rate:.1f} images/s; run {summary.run_id}; {output} version {summary.version}"


@click.command()
@click.argument("table")
@storage_options
def rejected(table: str) -> None:
    """List the images of a table that have no map, and why."""
    from pipeline.table.reader import MapTable

    for rejection in MapTable(table).rejections():
        click.echo(f"{rejection.uri}\t{rejection.reason}\t{rejection.detail}")


@click.command()
@click.argument("table")
@click.argument("image")
@click.option("--output", "-o", type=click.Path(), help="The picture to write. Default: IMAGE-map.png here.")
@click.option("--scale", type=float, help="Which map, where the image was scored at several scales.")
@click.option("--fused", is_flag=True, help="The mean of the maps at all scales.")
@click.option("--key", default="", help="How the map's key begins, where that is not enough.")
@storage_options
def show(table: str, image: str, output: str | None, scale: float | None, fused: bool, key: str) -> None:
    """Show one image's map: a table of class names, and a picture of the map over the image.

    \b
    densecast show maps photos/cat.jpg --output cat-map.png
    densecast show maps 'shards/1.tar#cats/1.jpg' --fused
    """
    from pipeline.tools.show import show as show_map

    terminal = console()
    terminal.print(show_map(table, image, output, scale=scale, fused=fused, key=key, width=terminal.width))


@click.command()
@click.option(
    "--output", "-o", default="densecast-demo", show_default=True, type=click.Path(), help="A folder for what it makes."
)
@click.option("--pages", type=click.IntRange(min=1), default=40, show_default=True, help="Pages to compose and score.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(output: str, pages: int, seed: int) -> None:
    """Convert the digits model, score pages of digits it never saw, and report what the maps found."""
    from pipeline.tools.demo import run_demo

    need_tensorflow()
    run_demo(Path(output), pages, seed, console())
