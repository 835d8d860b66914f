"""What several commands share: types of arguments, and TensorFlow."""

from __future__ import annotations

import dataclasses
import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from rich.console import RenderableType

from conversion import Limits, limit_flag
from conversion.errors import ConversionError
from pipeline.cli.console import console
from pipeline.engines.load_tensorflow import load_tensorflow

Report = TypeVar("Report", bound=BaseModel)
Command = TypeVar("Command", bound=Callable[..., Any])


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


class Resize(click.ParamType[int | tuple[int, int]]):
    """The length of an image's shorter side in pixels, or HEIGHTxWIDTH."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        """Parses it."""
        if isinstance(value, int | tuple):
            return value
        size = Size().convert(value, param, ctx)
        return size if "x" in str(value).lower() else size[0]


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parses them."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between them, such as 1,0.7,0.5", param, ctx)


def device_option(command: Command) -> Command:
    """Adds `--device`."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|gpu|gpu:N",
        help="auto: GPUs, or the CPU where there are none. gpu: GPUs, or an error.",
    )(command)


def storage_options(command: Command) -> Command:
    """Adds `--storage-option`; what it says holds from then on for all that the command opens."""
    return click.option(
        *("--storage-option", "pairs"),
        multiple=True,
        metavar="NAME=VALUE",
        expose_value=False,
        callback=_use_storage,
        help="How object stores are opened, as aws_region=eu-west-1; secrets as aws_secret_access_key=env:NAME.",
    )(command)


def _use_storage(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> None:
    from pipeline.storage.options import CredentialsError, parse_options, use

    try:
        use(parse_options(pairs))
    except CredentialsError as error:
        told = ": ".join(text for text in (error.where, error.what, error.remedy) if text)
        raise click.BadParameter(told, ctx, param) from None


@contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """What systemd and Kubernetes send to stop a run ends it as Ctrl-C does.

    So a lease is given back, and a job on a cluster is cancelled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_tensorflow() -> None:
    """Raises MissingExtraError if TensorFlow is not there; it is imported where it is used, which may be nowhere."""
    if importlib.util.find_spec("tensorflow") is None:
        need_tensorflow()


def need_tensorflow() -> None:
    """Imports TensorFlow, quietly unless `--debug` was given."""
    load_tensorflow(debug=bool(click.get_current_context().find_root().obj))


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not numbers with commas", param_hint=option) from None


def limit_options(command: Command) -> Command:
    """Adds a flag for each of `Limits`: `--max-layers` and so on; `take_limits` reads them."""
    for field in reversed(dataclasses.fields(Limits)):
        if field.name == "allow_nonfinite":
            option = click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite weights.")
        else:
            option = click.option(
                *(limit_flag(field.name), f"limit_{field.name}"),
                type=click.IntRange(min=1),
                default=getattr(Limits(), field.name),
                show_default=True,
                help="Limit on what a file may ask for.",
            )
        command = option(command)
    return command


def take_limits(options: dict[str, Any]) -> Limits:
    """The limits among a command's options, which are taken out of them."""
    names = [field.name for field in dataclasses.fields(Limits)]
    flags = {name: name if name == "allow_nonfinite" else f"limit_{name}" for name in names}
    return Limits(**{name: options.pop(limit_flag) for name, limit_flag in flags.items()})


def print_report(report: Report, render: Callable[[Report], RenderableType], *, as_json: bool) -> None:
    """Prints a report: as JSON for programs, or rendered for people."""
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        console().print(render(report))


def refuse_existing(outputs: Sequence[str], inputs: Sequence[str], *, overwrite: bool) -> None:
    """Raises ConversionError if an output is an input, or is there and may not be replaced."""
    given = {Path(path).resolve() for path in inputs}
    for output in outputs:
        if Path(output).resolve() in given:
            raise ConversionError("the output is the input", where=output, remedy="name another file")
        if Path(output).exists() and not overwrite:
            raise ConversionError("the output exists", where=output, remedy="name another, or give --overwrite")
