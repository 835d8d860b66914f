"""What several commands share: options, TensorFlow, and the forms of a conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from conversion import Limits, limit_flag
from conversion.errors import ConversionError
from pipeline.cli.console import say, say_json, show
from pipeline.cli.help import GroupedOption

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

    from conversion import FormChoice
    from pipeline.storage.options import StorageOptions
    from pipeline.table.paths import TableRoot

Report = TypeVar("Report", bound="BaseModel")
_STORAGE = "densecast.storage"
_LIMITS: dict[str, Any] = {"cls": GroupedOption, "group": "Limits on what a file may ask for", "tail": True}
Command = TypeVar("Command", bound=Callable[..., object])


class PassThrough(click.Command):
    """A command whose arguments after `--` go to Beam as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes `--` and what follows out of the arguments before click parses them."""
        if "--" in args:
            at = args.index("--")
            ctx.meta["densecast.beam"] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


def beam_flags(ctx: click.Context) -> tuple[str, ...]:
    """Returns the arguments after `--` of a `PassThrough` command."""
    flags: tuple[str, ...] = ctx.meta.get("densecast.beam", ())
    return flags


def storage_options(command: Command) -> Command:
    """Adds `--storage-option`; it holds for all that the command opens."""
    return click.option(
        *("--storage-option", "pairs"),
        cls=GroupedOption,
        tail=True,
        multiple=True,
        metavar="NAME=VALUE",
        expose_value=False,
        callback=_parse_storage,
        help="How object stores are opened, as aws_region=eu-west-1; secrets as aws_secret_access_key=env:NAME.",
    )(command)


def _parse_storage(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> None:
    # Completion and help parse without arguments: they need no storage.
    if not pairs:
        return
    from pipeline.storage.options import CredentialsError, parse_options

    try:
        ctx.meta[_STORAGE] = parse_options(pairs)
    except CredentialsError as error:
        message = ": ".join(text for text in (error.where, error.what, error.remedy) if text)
        raise click.BadParameter(message, ctx, param) from None


def given_storage() -> StorageOptions | None:
    """Returns what `--storage-option` of the command that runs says; None where it was not given."""
    given: StorageOptions | None = click.get_current_context().meta.get(_STORAGE)
    return given


def table_root(table: str) -> TableRoot:
    """Returns a table's root with the options that `--storage-option` of the command that runs says."""
    from pipeline.table.paths import TableRoot

    return TableRoot(table, given_storage())


def need_tensorflow() -> None:
    """Imports TensorFlow; hides what it prints unless `--debug` was given.

    Raises:
        MissingExtraError: It is not installed.
    """
    from pipeline.engines.load_tensorflow import load_tensorflow

    load_tensorflow(debug=bool(click.get_current_context().find_root().obj))


def choose_written_forms(wanted: FormChoice | None = None) -> tuple[str, ...]:
    """Returns the forms that a conversion writes; says so if TensorFlow is missing for one of them."""
    from conversion import choose_forms

    forms = choose_forms(wanted)
    if wanted is None and "savedmodel" not in forms:
        say(
            "TensorFlow is not installed: the model gets its ONNX form alone, which `densecast export` and other "
            "programs read; `densecast score` needs the SavedModel",
            err=True,
        )
    return forms


def limit_options(command: Command) -> Command:
    """Adds an option for each of `Limits`: `--max-layers` and so on; `take_limits` reads them."""
    for field in reversed(dataclasses.fields(Limits)):
        if field.name == "allow_nonfinite":
            option = click.option(
                *("--allow-nonfinite",), is_flag=True, help="Accept NaN and infinite weights.", **_LIMITS
            )
        else:
            option = click.option(
                *(limit_flag(field.name), f"limit_{field.name}"),
                type=click.IntRange(min=1),
                default=getattr(Limits(), field.name),
                show_default=True,
                help="Limit on what a file may ask for.",
                **_LIMITS,
            )
        command = option(command)
    return command


def take_limits(options: dict[str, Any]) -> Limits:
    """Takes the limits out of a command's options and returns them."""
    names = [field.name for field in dataclasses.fields(Limits)]
    flags = {name: name if name == "allow_nonfinite" else f"limit_{name}" for name in names}
    return Limits(**{name: options.pop(flag) for name, flag in flags.items()})


def print_report(report: Report, render: Callable[[Report], RenderableType], *, as_json: bool) -> None:
    """Prints a report: as JSON for programs, or rendered for people."""
    if as_json:
        say_json(report.model_dump(mode="json"), indent=2)
    else:
        show(render(report))


def refuse_existing(outputs: Sequence[str], inputs: Sequence[str], *, overwrite: bool) -> None:
    """Checks that no output is an input, and that none exists unless it may be overwritten.

    Raises:
        ConversionError: One is or does.
    """
    input_paths = {Path(path).resolve() for path in inputs}
    for output in outputs:
        if Path(output).resolve() in input_paths:
            raise ConversionError("the output is the input", where=output, remedy="name another file")
        if Path(output).exists() and not overwrite:
            raise ConversionError("the output exists", where=output, remedy="name another, or give --overwrite")
