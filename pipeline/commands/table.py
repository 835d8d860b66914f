"""Commands about collections and tables: score, rejected, show, demo."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import PassThrough, need_tensorflow
from pipeline.console import console
from pipeline.recipe import Form

EXIT_REJECTED = 3


@click.command(cls=PassThrough)
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@click.option("--output", "-o", required=True, help="The table to write.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes kept a cell.")
@click.option(
    "--scores",
    type=click.Choice([form.value for form in Form]),
    default=Form.TOP_K.value,
    show_default=True,
    help="How much of a map is kept.",
)
@click.option("--max-rejected", default="5%", show_default=True, help="Exit with 3 if more images get no map.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Reject larger images from their header.")
@click.option("--runner", default="local", show_default=True, help="local, or the name of a Beam runner.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@click.pass_context
def score(ctx: click.Context, /, model: str, images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write the classification map of every image to a Delta table.

    IMAGES are folders, files, glob patterns, or manifests (@list.txt, @list.csv). What follows -- goes to Beam.

    \b
    densecast score caffenet photos/ 'more/**/*.jpg' @list.csv --output maps
    densecast score caffenet photos/ --output maps --scores float16 --max-rejected 1%
    densecast score caffenet photos/ --output maps --runner FlinkRunner -- --flink_master=localhost:8081
    """
    from pipeline.job import describe_job, run_job

    values = {name: value for name, value in options.items() if value is not None}
    need_tensorflow()
    job = describe_job(model=model, images=images, beam_options=ctx.meta.get("densecast.beam", ()), **values)
    result = run_job(job)
    published = result.published
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(result), "published": published._asdict()}))
    else:
        rate = published.rows / result.seconds if result.seconds else 0.0
        click.echo(f"{published.rows:,} images: {published.scored:,} maps, {published.rejected:,} rejected")
        for reason, count in result.reasons.items():
            click.echo(f"  {count:,} {reason}")
        click.echo(
            f"{result.seconds:.1f} s, {rate:.1f} images/s; run {job.run_id}; {job.output} version {published.version}"
        )
    if result.failed:
        click.echo(
            f"more than {job.max_rejected:.1%} of the images were rejected; see `densecast rejected {job.output}`",
            err=True,
        )
        ctx.exit(EXIT_REJECTED)


@click.command()
@click.argument("table")
def rejected(table: str) -> None:
    """List the images of a table that have no map, and why."""
    from pipeline.table import MapTable

    for rejection in MapTable(table).rejections():
        click.echo(f"{rejection.uri}\t{rejection.reason}\t{rejection.detail}")


@click.command()
@click.argument("table")
@click.argument("image")
@click.option("--output", "-o", type=click.Path(), help="The picture to write. Default: IMAGE-map.png here.")
def show(table: str, image: str, output: str | None) -> None:
    """Show one image's map: a table of class names, and a picture of the map over the image.

    \b
    densecast show maps photos/cat.jpg --output cat-map.png
    """
    from pipeline.showing import show as show_map

    terminal = console()
    terminal.print(show_map(table, image, output, width=terminal.width))


@click.command()
@click.option(
    "--output", "-o", default="densecast-demo", show_default=True, type=click.Path(), help="A folder for what it makes."
)
@click.option("--pages", type=click.IntRange(min=1), default=40, show_default=True, help="Pages to compose and score.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(output: str, pages: int, seed: int) -> None:
    """Convert the digits model, score pages of digits it never saw, and report what the maps found."""
    from pipeline.demo import run_demo

    need_tensorflow()
    run_demo(Path(output), pages, seed, console())
