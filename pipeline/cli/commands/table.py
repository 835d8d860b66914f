"""Commands about collections and tables: score, rejected, show, demo."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from conversion import hash_ahead
from pipeline.cli.commands.options import (
    PassThrough,
    beam_flags,
    given_storage,
    need_tensorflow,
    storage_options,
    table_root,
)
from pipeline.cli.console import console, output_given_up, printing_does_not_count, say, say_fields, say_json
from pipeline.cli.console import show as show_renderable
from pipeline.cli.param_types import CELL
from pipeline.cli.setting_options import setting_options
from pipeline.exit_codes import ExitCode
from pipeline.quiet_beam import import_lean_beam, without_collections
from pipeline.settings import LOCAL

if TYPE_CHECKING:
    from pipeline.jobs.run import JobResult

_SWITCH_S = 0.0005
"""How long a thread that runs Python makes others wait: the thread of the engine, which rarely does, goes first."""


@click.command(cls=PassThrough)
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@click.option("--output", "-o", required=True, help="The table to write to; made if there is none.")
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@storage_options
@click.pass_context
def score(ctx: click.Context, /, *, as_json: bool, **values: object) -> None:
    """Write the classification map of every image to a Delta table.

    IMAGES are folders, files, glob patterns, archives and other shards (*.tar, *.zip, *.parquet, *.tfrecord), or
    manifests (@list.txt, @list.csv, @list.jsonl and others), whose paths are relative to the manifest. Arguments after
    -- go to Beam.

    A second run scores only images that are new or have changed; so it resumes a run that was killed.

    \b
    densecast score caffenet photos/ 'more/**/*.jpg' @list.csv --output maps
    densecast score caffenet 'shards/*.tar' --output maps --scales 1,0.7,0.5 --max-rejected 1%
    densecast score caffenet photos/ --output maps --accuracy-bound 0.01 --prune
    densecast score caffenet photos/ --output features \\
        --windows ten --scales none --blob fc7 --blob fc7:before
    densecast score caffenet photos/ --output maps --runner FlinkRunner --flink-master localhost:8081
    """
    if values["runner"] == LOCAL:
        hash_ahead(str(values["model"]), only_with="densecast.json")  # beside the imports
    sys.setswitchinterval(_SWITCH_S)
    with without_collections():
        from pipeline.jobs.ahead import starting_decoders, starting_engine
        from pipeline.jobs.spec import describe_job

    if values["accuracy_bound"] is not None and ctx.get_parameter_source("scores") is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --scores or --accuracy-bound, not both: the bound chooses what is kept")
    job = describe_job(storage=given_storage(), **values, beam_options=beam_flags(ctx))
    with starting_engine(job), starting_decoders(job):
        with without_collections():
            import_lean_beam()  # takes a second, for which neither wrong usage nor the engine waits
            from pipeline.jobs.run import run_job

        printing_does_not_count()
        result = run_job(job)
    if as_json:
        more = {"seconds_total": result.seconds, "failed": result.failed, "left_out": dict(result.left_out)}
        more["outside_root"] = result.outside_root
        say_json({**result.summary._asdict(), **more})
    else:
        for line in _result_lines(job.output, result):
            say(line)
    if result.failed:
        say(
            f"more than {job.policy.max_rejected:.1%} of the images have no map; see `densecast rejected {job.output}`",
            err=True,
        )
        ctx.exit(ExitCode.REJECTED)


def _result_lines(output: str, result: JobResult) -> Iterator[str]:
    """Yields what a run did, in lines for people."""
    from pipeline.sources.globs import format_left_out

    summary, images = result.summary, result.summary.images
    unchanged = sum(images.get(name, 0) for name in ("keep", "update"))
    counts = {
        "unchanged": unchanged,
        "taken over from a run that died": images.get("adopt", 0),
        "deleted": images.get("delete", 0),
    }
    others = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    yield f"{images.get('listed', 0):,} images: {summary.scored:,} new maps, {summary.rejected:,} rejected{others}"
    yield from (f"  {count:,} {reason}" for reason, count in summary.reasons.items())
    if result.left_out:
        yield f"left out of folders: {format_left_out(result.left_out)}"
    if only_first := images.get("only_first_frame", 0):
        yield f"{only_first:,} images are the first of several frames; --frames all scores the others too"
    if result.outside_root:
        yield f"not below the root, so that their addresses are absolute: {result.outside_root:,} files"
    if result.choice is not None:
        choice = result.choice
        yield (
            f"maps are kept as {choice.form}: probabilities differ from the exact ones by at most {choice.error:.2g} "
            f"on {choice.images} images"
        )
    if result.parity is not None:
        parity = result.parity
        yield (
            f"computed in {parity.precision}: probabilities differ from float32 by at most {parity.largest:.2g} on "
            f"{parity.images} images, {parity.flips:.2%} of the cells have another best class"
        )
    if summary.devices:
        yield f"computed on {', '.join(summary.devices)}"
    rate = images.get("score", 0) / result.seconds if result.seconds else 0.0
    yield f"{result.seconds:.1f} s, {rate:.1f} images/s; run {summary.run_id}; {output} version {summary.version}"


@click.command()
@click.argument("table")
@click.option("--json", "as_json", is_flag=True, help="Print the images for programs.")
@storage_options
def rejected(table: str, as_json: bool) -> None:
    """List the images of a table that have no map, and why.

    After a header, one line for each: address, reason and detail, separated by tabs. Control characters are escaped;
    --json has the exact addresses.

    \b
    densecast rejected maps
    densecast rejected maps --json > rejected.json
    """
    from pipeline.table.reader import MapTable

    rejections = MapTable(table_root(table)).rejections()
    if as_json:
        say_json([rejection._asdict() for rejection in rejections])
        return
    say_fields("image", "reason", "detail")
    for rejection in rejections:
        if output_given_up():
            break
        say_fields(rejection.uri, rejection.reason, rejection.detail)


@click.command()
@click.argument("table")
@click.argument("image")
@click.option(
    *("--output", "-o"),
    type=click.Path(),
    help="The picture to write: .png, .jpg, .webp or .tiff. Default: IMAGE-map.png here.",
)
@click.option("--overwrite", is_flag=True, help="Replace a picture that exists.")
@click.option("--parents", is_flag=True, help="Make the folders of --output that are missing.")
@click.option(
    "--window",
    "windows",
    type=CELL,
    multiple=True,
    help="Outline the window of a cell in the picture, the pixels that it stands for; may be repeated.",
)
@click.option("--scale", type=float, help="Which map, if the image was scored at several scales.")
@click.option("--fused", is_flag=True, help="The mean of the maps at all scales.")
@click.option("--key", default="", help="The beginning of the map's key, if the scale does not name one map.")
@click.option("--root", help="Where the images are now. Default: the --root of the table's last run.")
@storage_options
@click.pass_context
def show(
    ctx: click.Context,
    /,
    *,
    table: str,
    image: str,
    output: str | None,
    overwrite: bool,
    parents: bool,
    windows: tuple[tuple[int, int], ...],
    **which: Any,
) -> None:
    """Show one image's map: a table of class names, and a picture of the map over the image.

    IMAGE is an address of the table, a path, an image's own id, or the end of an address, such as a file's name, if
    only one image has it. Exits with 1 if --output is given and there is no picture to write.

    \b
    densecast show maps cat.jpg --output cat-map.png
    densecast show maps 'shards/1.tar#cats/1.jpg' --fused
    densecast show maps cat.jpg --window 3,5 --overwrite
    """
    from pipeline.tools.show import Picture
    from pipeline.tools.show import show as show_map

    terminal = console()
    picture = Picture(
        path=Path(output) if output is not None else None, overwrite=overwrite, parents=parents, windows=windows
    )
    shown = show_map(
        table_root(table),
        image,
        picture,
        terminal=(terminal.width, terminal.height if terminal.is_terminal else None),
        **which,
    )
    show_renderable(shown.renderable)
    if shown.missing and output is not None:
        ctx.exit(ExitCode.FAILED)


@click.command()
@click.option(
    *("--output", "-o"),
    default="densecast-demo",
    show_default=True,
    type=click.Path(),
    help="The folder for the model, the pages, the table and the picture.",
)
@click.option("--pages", type=click.IntRange(min=1), default=40, show_default=True, help="Pages to compose and score.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the pages.")
def demo(output: str, pages: int, seed: int) -> None:
    """Convert the digits model, score pages of digits, and report how many digits it names right.

    densecast ships all that it needs. The model has never seen the digits of these pages.

    \b
    densecast demo
    densecast demo --output trial --pages 100
    """
    import_lean_beam()
    from conversion import choose_forms
    from pipeline.tools.demo import run_demo

    if "savedmodel" in choose_forms():
        need_tensorflow()
    printing_does_not_count()
    run_demo(Path(output), pages, seed, say)
