"""The `densecast` command; its commands are in `pipeline.cli.commands`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from conversion import nearest
from conversion.errors import DensecastError, UsageError
from pipeline.cli.console import finish_printing, quiet_libraries, quiet_threads, say, say_lines, start_printing
from pipeline.cli.help import COLUMNS, HELP_FLAGS, add_help, short_page
from pipeline.cli.interruption import interruptible
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode
from pipeline.own_packages import HiddenPackageError, import_own
from pipeline.storage.address import check_encoding

# Module of `pipeline.cli.commands` and attribute, in the order in which commands are used.
_COMMANDS = {
    "demo": ("table", "demo"),
    "convert": ("model", "convert"),
    "inspect": ("model", "inspect"),
    "models": ("models", "models"),
    "export": ("export", "export"),
    "compare": ("export", "compare"),
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


_NO_DOCSTRINGS = 2
"""The level of Python's optimization, `-OO` or PYTHONOPTIMIZE=2, that drops docstrings."""


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
        return add_help(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the arguments name; suggests one where there is none."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            close = nearest(name, _COMMANDS)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        if not ctx.resilient_parsing and not HELP_FLAGS & set(args):
            check_encoding()
        return super().resolve_command(ctx, args)


@add_help
@click.group(cls=LazyGroup, context_settings={"max_content_width": COLUMNS})
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
    Exit codes: 0 done, 1 failed, 2 wrong usage or job file, 3 more images rejected than allowed,
    4 the table is damaged, 5 another run holds the table, 6 drift, 130 interrupted.
    """
    ctx.obj = debug
    quiet_libraries(debug=debug)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its exit code.

    An error of densecast's own ends in one message. Any other error is a bug, and its traceback shows.
    """
    if args is None:
        _keep_docstrings()
    arguments = sys.argv[1:] if args is None else list(args)
    debug = "--debug" in arguments
    if not debug:
        quiet_threads()
    start_printing()
    with interruptible() as interruption:
        code = _run(arguments, debug=debug)
    not_printed = finish_printing()
    if interruption.came:
        # All is cleaned up. Threads that still compute what nobody waits for are not waited for.
        os._exit(code)
    code = ExitCode.FAILED if not_printed and code == ExitCode.DONE else code
    if args is None:
        atexit.register(_leave, code)
    sys.exit(code)


def _leave(code: int) -> None:
    """Ends the process as its last thread has ended, when all that is to be done at its exit is done.

    Python would take apart the modules, and libraries their models: half a second, for memory that the system frees.
    """
    atexit.unregister(_leave)
    atexit._run_exitfuncs()  # those that were registered earlier, and would come next
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none: `finish_printing` has said so
            stream.flush()
    os._exit(code)


def _keep_docstrings() -> None:
    """Starts the process again without `-OO`, which drops the docstrings that Beam and the help are made of."""
    if sys.flags.optimize < _NO_DOCSTRINGS:
        return
    arguments = sys.argv[1:]
    head = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    start = [word for word in head if re.fullmatch("-OO+", word) is None]
    if start != head or os.environ.get("PYTHONOPTIMIZE") != "1":
        environment = {**os.environ, "PYTHONOPTIMIZE": "1"}
        os.execve(sys.executable, [sys.executable, *start, *arguments], environment)  # noqa: S606 - this command itself


def _run(arguments: list[str], *, debug: bool) -> int:
    """Runs the command; returns its exit code, and prints why if it is an error's."""
    try:
        import_own("models")
        code = cli.main(args=arguments, prog_name="densecast", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.DONE
    except click.ClickException as error:
        _print_usage(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED  # the line about it was printed when the signal came
    except (DensecastError, HiddenPackageError, OSError) as error:
        if debug and not isinstance(error, InterruptedRunError):
            raise
        if isinstance(error, OSError):
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            say(f"densecast: {where}{error.strerror or error}", err=True)
            return ExitCode.FAILED
        say_lines(f"densecast: {error}", err=True)
        if isinstance(error, InterruptedRunError):
            return ExitCode.INTERRUPTED
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED


def _print_usage(error: click.ClickException) -> None:
    """Prints what is wrong with the command line; what it quotes of it is escaped."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        say_lines(short_page(error.ctx) if error.ctx is not None else error.format_message(), err=True)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say_lines(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
    say(f"Error: {error.format_message()}", err=True)
