"""The `densecast` command; what it can do is in `pipeline.cli.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from conversion.errors import DensecastError
from pipeline.cli.commands import maintenance, model, nightly_command, runners, table
from pipeline.cli.console import quiet_libraries, quiet_threads
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode


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
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 more images rejected than allowed,
    4 the table is damaged, 5 another run holds the table, 6 drift, 130 interrupted.
    """
    ctx.obj = debug
    quiet_libraries(debug=debug)


for command in (
    *(table.demo, model.convert, model.inspect, model.models, table.score, table.show, table.rejected),
    *(nightly_command.nightly, nightly_command.drift),
    *(maintenance.runs, maintenance.check, maintenance.compact, maintenance.vacuum),
    *(model.verify, runners.verify_runner, model.bench, model.cast, model.upgrade),
):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command: our own errors end in one message and exit code 1, anything else is a bug and shows itself."""
    arguments = sys.argv[1:] if args is None else list(args)
    if "--debug" not in arguments:
        quiet_threads()
    try:
        cli.main(args=arguments, prog_name="densecast")
    except InterruptedRunError as error:
        click.echo(f"densecast: {error}", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except (DensecastError, OSError) as error:
        if "--debug" in arguments:
            raise
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        what = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        click.echo(f"densecast: {where}{what}", err=True)
        sys.exit(ExitCode.FAILED)
