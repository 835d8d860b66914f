"""The options that shape a dense network: `convert`, `inspect`, `verify` and `cast` take the same ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.console import say
from pipeline.cli.help import GroupedOption
from pipeline.cli.param_types import IMAGE_SIZE

if TYPE_CHECKING:
    from conversion import DenseOptions, Limits

Command = TypeVar("Command", bound=Callable[..., object])
_option = functools.partial(click.option, cls=GroupedOption, group="The shape of the network")
_NAMES = ("crop", "stages", "level", "output_blob", "output_stride", "pooling_rounding", "dialect")


def dense_options(command: Command) -> Command:
    """Adds `--crop`, `--stage`, `--level`, `--output-blob`, `--output-stride`, `--pooling-rounding` and `--dialect`."""
    options = (
        _option("--crop", type=IMAGE_SIZE, help="The size the classifier was trained at. Default: the definition's."),
        _option(
            "--stage", "stages", multiple=True, help="A stage that include and exclude rules ask for; may be repeated."
        ),
        _option("--level", type=int, help="The level that they ask for. Default: the definition's."),
        _option("--output-blob", help="The blob of the map, such as one of several Softmax blobs."),
        _option(
            *("--output-stride",),
            type=click.IntRange(min=1),
            help="Pixels between cells: a finer map, which costs more arithmetic.",
        ),
        _option(
            *("--pooling-rounding",),
            type=click.Choice(["floor"]),
            help="Let poolings round down where layers beside them do, if that is the same net at the training size.",
        ),
        _option(
            *("--dialect",),
            help="The fork of Caffe that a definition is for, where a name has several senses; a wrong one lists all.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_dense_options(options: dict[str, Any]) -> DenseOptions:
    """Takes the options that shape a network out of a command's options and returns them."""
    from conversion import DenseOptions

    return DenseOptions(**{name: options.pop(name) for name in _NAMES})


def print_cost(prototxt: str, shape: DenseOptions, limits: Limits) -> None:
    """Prints what a finer map costs, before the model is built."""
    from conversion import load_dense, receptive_field

    dense = load_dense(prototxt, options=shape, limits=limits)
    own = receptive_field(dense.own_stride, dense.output.blob).stride[0]
    ((blob, (_, channels, height, width)),) = dense.network.inputs.items()
    size = (2 * height, 2 * width)
    finer, plain = (net.multiply_adds({blob: (1, channels, *size)}) for net in (dense.network, dense.own_stride))
    say(
        f"an image of {size[0]}x{size[1]} pixels costs {finer / 1e9:.1f} GMAC at stride {shape.output_stride}, "
        f"{finer / plain:.1f} times as much as at the net's own stride of {own}",
        err=True,
    )
