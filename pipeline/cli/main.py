"""The `densecast` command; its commands are in `pipeline.cli.commands`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from conversion import nearest
from conversion.errors import DensecastError
from pipeline.cli.console import quiet_libraries, quiet_threads
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode

# Module of `pipeline.cli.commands` and attribute, in the order in which commands are used.
_COMMANDS = {
    "demo": ("table", "demo"),
    "convert": ("model", "convert"),
    "inspect": ("model", "inspect"),
    "models": ("model", "models"),
    "score": ("table", "score"),
    "show": ("table", "show"),
    "rejected": ("table", "rejected"),
    "nightly": ("nightly_command", "nightly"),
    "drift": ("nightly_command", "drift"),
    "runs": ("maintenance", "runs"),
    "check": ("maintenance", "check"),
    "compact": ("maintenance", "compact"),
    "vacuum": ("maintenance", "vacuum"),
    "restore": ("maintenance", "restore"),
    "verify": ("model", "verify"),
    "verify-runner": ("runners", "verify_runner"),
    "bench": ("model", "bench"),
    "cast": ("model", "cast"),
    "upgrade": ("model", "upgrade"),
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is used, or when help lists it.

    Help takes the short help from the commands, so modules of commands import at the top only what is light:
    `tests/test_startup.py` lists what is not.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Returns the names of the commands in the order in which they are used."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Returns a command; None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"pipeline.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the arguments name; suggests one where there is none."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            close = nearest(name, _COMMANDS)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    An error of densecast's own ends in one message and exit code 1. Any other error is a bug, and its traceback shows.
    """
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
