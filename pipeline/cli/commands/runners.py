"""Commands about Beam's runners: verify-runner."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.commands.options import (
    PassThrough,
    beam_flags,
    given_storage,
    need_tensorflow,
    print_report,
    storage_options,
)
from pipeline.cli.setting_options import setting_option
from pipeline.exit_codes import ExitCode


@click.command("verify-runner", cls=PassThrough)
@click.argument("images", nargs=-1)
@click.option("--runner", required=True, help="The name of a Beam runner.")
@setting_option("flink_master")
@click.option("--pages", type=click.IntRange(min=4), default=12, show_default=True, help="Pages to compose and score.")
@click.option("--model", type=click.Path(), help="A model directory. Default: the digits model.")
@click.option("--output", "-o", help="Keep images and tables in a new folder below this one.")
@setting_option("rounding")
@storage_options
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
@click.pass_context
def verify_runner(
    ctx: click.Context,
    /,
    *,
    runner: str,
    flink_master: str | None,
    as_json: bool,
    **trial: Any,
) -> None:
    """Score one collection on a runner and on the local one, and compare all rows.

    All rows must be equal to the last bit, except run id and time. If the workers have processors or GPUs of other
    kinds, or with --rounding bounded, scores, residuals, probabilities and features must be equal within 1e-6, and
    classes unless their scores are that near; everything else must be exactly equal. The report says which of the two
    it held.

    The command makes the collection: pages of digits, whole and in tiles, at two scales, in files and in an archive,
    and images that are rejected. Some images change before a second run. IMAGES are scored too. Arguments after -- go
    to Beam on that runner. Exits with 0 if the tables are equal, with 1 if they differ or a run failed.

    Workers must find the folder and the model under the same name as this machine. Without --output both are in a
    temporary folder, which workers on this machine find. For other workers, give --output on shared storage, or
    --output s3://... and a --model that they find.

    \b
    densecast verify-runner --runner PrismRunner
    densecast verify-runner --runner FlinkRunner --flink-master localhost:8081 --output /shared/trials
    """
    from conversion import choose_forms
    from pipeline.tools.verify_runner import Trial, render, try_runner

    if "savedmodel" in choose_forms():
        need_tensorflow()
    described = Trial(storage=given_storage(), **trial)
    report = try_runner(runner, beam_flags(ctx), flink_master=flink_master, trial=described)
    print_report(report, render, as_json=as_json)
    if not report.equal:
        ctx.exit(ExitCode.FAILED)
