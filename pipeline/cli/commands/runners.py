"""Commands about Beam's runners: verify-runner."""

from __future__ import annotations

import click

from pipeline.cli.commands.options import PassThrough, need_tensorflow, print_report, storage_options
from pipeline.exit_codes import ExitCode


@click.command("verify-runner", cls=PassThrough)
@click.argument("images", nargs=-1)
@click.option("--runner", required=True, help="The name of a Beam runner.")
@click.option("--flink-master", metavar="HOST:PORT", help="The REST address of a Flink cluster, for FlinkRunner.")
@click.option("--pages", type=click.IntRange(min=4), default=12, show_default=True, help="Pages to compose and score.")
@click.option("--model", type=click.Path(), help="A model directory. Default: the digits model.")
@click.option("--output", "-o", help="Keep images and tables in a new folder below this one.")
@storage_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def verify_runner(
    ctx: click.Context,
    /,
    images: tuple[str, ...],
    runner: str,
    flink_master: str | None,
    pages: int,
    model: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Score one collection on a runner and on the local one, over two nights, and compare all rows.

    Scores, residuals, probabilities and features have to be equal within 1e-6, for TensorFlow may round their last
    digits otherwise at another place of a batch or on another processor; where it does, the digest of the map differs
    too. Classes and everything else have to be exactly equal, but for run id and time.

    The collection is made for it: pages of digits, whole and in tiles, at two scales, in files and in an archive, and
    images that are rejected; some change before the second night. IMAGES are scored besides. What follows -- goes to
    Beam on that runner. Exits with 0 if the tables are equal, with 1 if they are not, or a run failed.

    The folder and the model have to be where the workers find them under the same name: without --output both are in a
    temporary folder, which does for workers on this machine. For others, give --output on storage that is shared, or
    --model there and --output s3://...

    \b
    densecast verify-runner --runner PrismRunner
    densecast verify-runner --runner FlinkRunner --flink-master localhost:8081 --output /shared/trials
    """
    from pipeline.tools.verify_runner import render, try_runner

    need_tensorflow()
    flags = ctx.meta.get("densecast.beam", ())
    report = try_runner(
        runner, flags, flink_master=flink_master, pages=pages, model=model, images=images, output=output
    )
    print_report(report, render, as_json=as_json)
    if not report.equal:
        ctx.exit(ExitCode.FAILED)
