"""The `densecast` command: one thin function a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from conversion.errors import DensecastError
from pipeline.console import console, load_tensorflow, quiet_libraries
from pipeline.rows import Form

# Exit codes, stable: 0 done, 1 failed with an error, 2 wrong usage (click's own), 3 more rejections than allowed.
EXIT_ERROR, EXIT_REJECTED = 1, 3


class PassThrough(click.Command):
    """A command whose arguments after `--` go to Beam as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes `--` and what follows away before click sees it."""
        if "--" in args:
            at = args.index("--")
            ctx.meta["densecast.beam"] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


class Size(click.ParamType[tuple[int, int]]):
    """HEIGHTxWIDTH in pixels, or one number for a square."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parses it."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) not in (1, 2) or not all(p.isdecimal() and int(p) > 0 for p in parts):
            self.fail(f"{value!r} is not a size: write 451x451 (height x width) or 451", param, ctx)
        return int(parts[0]), int(parts[-1])


class Examples(click.Group):
    """Keeps the order in which commands are defined: the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In order of definition."""
        return list(self.commands)


@click.group(cls=Examples, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="densecast")
@click.option("--debug", is_flag=True, help="Show the logs of Beam and TensorFlow, and tracebacks.")
@click.pass_context
def cli(ctx: click.Context, /, debug: bool) -> None:
    """Caffe classifiers as dense TensorFlow models, run over image collections.

    \b
    densecast demo                                      see it work, on what densecast ships
    densecast convert deploy.prototxt net.caffemodel --output model
    densecast score model photos/ --output maps
    densecast show maps photos/cat.jpg

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 more images rejected than allowed.
    """
    ctx.obj = debug
    quiet_libraries(debug=debug)


@cli.command()
@click.argument("prototxt", type=click.Path())
@click.argument("weights", type=click.Path())
@click.option("--output", "-o", required=True, type=click.Path(), help="The model directory to make.")
@click.option("--mean", help="B,G,R values, one value, or a mean image (.npy, .binaryproto). Default: 0.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplied after the mean is subtracted.")
@click.option(
    "--channel-order",
    type=click.Choice(["bgr", "rgb", "gray"]),
    help="Of the network. Default: bgr, or gray for one channel.",
)
@click.option("--labels", type=click.Path(), help="Class names, one a line (Caffe's synset_words.txt works).")
@click.option("--crop", type=Size(), help="The size the classifier was trained at. Default: the definition's own.")
@click.option("--features", help="Blobs to offer as features, with commas. Default: what InnerProducts read and write.")
@click.option("--name", default="", help="The model's name. Default: the definition's own.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written to densecast.json.")
def convert(
    prototxt: str,
    weights: str,
    output: str,
    mean: str | None,
    scale: float,
    channel_order: Any,
    labels: str | None,
    crop: tuple[int, int] | None,
    features: str | None,
    name: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a Caffe classifier into a dense model, verified layer by layer.

    \b
    densecast convert deploy.prototxt caffenet.caffemodel --output caffenet \\
        --mean 104.00699,116.66877,122.67892 --labels synset_words.txt
    """
    from conversion import convert as convert_model
    from conversion import read_labels
    from pipeline.inspecting import inspect, render

    _tensorflow()
    metadata = convert_model(
        prototxt,
        weights,
        output,
        mean=_mean(mean),
        scale=scale,
        channel_order=channel_order,
        crop=crop,
        labels=read_labels(labels) if labels else (),
        features=[f.strip() for f in features.split(",")] if features else None,
        name=name,
        overwrite=overwrite,
    )
    if as_json:
        click.echo(metadata.model_dump_json(indent=2))
    else:
        console().print(render(inspect(output)))


@cli.command()
@click.argument("network", type=click.Path(), metavar="MODEL|PROTOTXT")
@click.option("--input-size", type=Size(), help="HEIGHTxWIDTH of the image. Default: the training size.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inspect(network: str, input_size: tuple[int, int] | None, as_json: bool) -> None:
    """Show layers, shapes, parameters, multiply-adds and geometry.

    \b
    densecast inspect caffenet --input-size 451x451
    densecast inspect deploy.prototxt
    """
    from pipeline.inspecting import inspect as inspect_network
    from pipeline.inspecting import render

    report = inspect_network(network, input_size)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        console().print(render(report))


@cli.group()
def models() -> None:
    """The models that densecast knows."""


@models.command("list")
def models_list() -> None:
    """List the models, and where their weights are published."""
    from models import entries

    table = Table()
    for column in ("model", "title", "crop", "classes", "weights"):
        table.add_column(column, overflow="fold")
    for entry in entries():
        where = entry.published.url if entry.published else "shipped with densecast"
        table.add_row(entry.name, entry.title, str(entry.crop), str(len(entry.labels)), where)
    console().print(table)


@models.command("fetch")
@click.argument("name")
@click.option("--directory", type=click.Path(), help="Where to put it. Default: densecast's cache.")
@click.option("--output", "-o", type=click.Path(), help="Convert it too, into this model directory.")
def models_fetch(name: str, directory: str | None, output: str | None) -> None:
    """Download a model's published weights; an interrupted download goes on where it stopped.

    \b
    densecast models fetch caffenet --output caffenet
    """
    from rich.progress import Progress

    from models import entry
    from models.fetch import fetch

    chosen = entry(name)
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=None)
        path = fetch(
            chosen,
            Path(directory) if directory else None,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    click.echo(str(path))
    if output:
        _convert_entry(chosen, path, output)
        click.echo(output)


@models.command("random")
@click.argument("name")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--output", "-o", required=True, type=click.Path(), help="The model directory to make.")
def models_random(name: str, seed: int, output: str) -> None:
    """Make a model with seeded random weights: full size and full speed, classes without meaning.

    \b
    densecast models random caffenet --output caffenet-random && densecast bench caffenet-random
    """
    import tempfile

    from conversion import load_network, save
    from conversion.surgery import random_parameters
    from models import entry

    chosen = entry(name)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{name}.caffemodel"
        save(random_parameters(load_network(chosen.definition), seed), Path(folder) / "net.prototxt", weights)
        _convert_entry(chosen, weights, output)
    click.echo(output)


@cli.command(cls=PassThrough)
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
    _tensorflow()
    job = describe_job(model=model, images=images, beam_options=ctx.meta.get("densecast.beam", ()), **values)
    result = run_job(job)
    published = result.published
    if as_json:
        import dataclasses
        import json

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


@cli.command()
@click.argument("table")
def rejected(table: str) -> None:
    """List the images of a table that have no map, and why."""
    from pipeline.table import MapTable

    for rejection in MapTable(table).rejections():
        click.echo(f"{rejection.uri}\t{rejection.reason}\t{rejection.detail}")


@cli.command()
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


@cli.command()
@click.argument("model", type=click.Path())
@click.option("--sizes", default="", help="Sides of square images, with commas. Default: 1x1, 8x8, larger maps.")
@click.option("--batches", default="1,8", show_default=True, help="Images a batch, with commas.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Timed runs; the median counts."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench(model: str, sizes: str, batches: str, repeats: int, as_json: bool) -> None:
    """Measure images a second and the share of this machine's matrix-multiply peak.

    \b
    densecast bench caffenet --sizes 227,451 --batches 1,4
    """
    from pipeline.benchmark import bench as bench_model
    from pipeline.benchmark import render

    _tensorflow()
    report = bench_model(model, _numbers(sizes, "--sizes"), _numbers(batches, "--batches"), repeats)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        console().print(render(report))


@cli.command()
@click.option(
    "--output", "-o", default="densecast-demo", show_default=True, type=click.Path(), help="A folder for what it makes."
)
@click.option("--pages", type=click.IntRange(min=1), default=40, show_default=True, help="Pages to compose and score.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(output: str, pages: int, seed: int) -> None:
    """Convert the digits model, score pages of digits it never saw, and report what the maps found."""
    from pipeline.demo import run_demo

    _tensorflow()
    run_demo(Path(output), pages, seed, console())


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command: our own errors end in one message and exit code 1, anything else is a bug and shows itself."""
    arguments = sys.argv[1:] if args is None else list(args)
    try:
        cli.main(args=arguments, prog_name="densecast")
    except DensecastError as error:
        if "--debug" in arguments:
            raise
        click.echo(f"densecast: {error}", err=True)
        sys.exit(EXIT_ERROR)


def _tensorflow() -> None:
    load_tensorflow(debug=bool(click.get_current_context().find_root().obj))


def _mean(text: str | None) -> Any:
    """--mean as `convert` takes it: numbers, or a path."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return Path(text)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not numbers with commas", param_hint=option) from None


def _convert_entry(entry: Any, weights: Path, output: str) -> None:
    from conversion import convert as convert_model

    _tensorflow()
    convert_model(
        entry.definition,
        weights,
        output,
        mean=entry.mean,
        scale=entry.scale,
        channel_order=entry.channel_order,
        labels=entry.labels,
        name=entry.name,
    )


if __name__ == "__main__":
    main()
