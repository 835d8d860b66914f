"""Options made from the declarations of `pipeline.settings`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click

from pipeline.cli.help import GroupedOption
from pipeline.cli.param_types import NUMBERS, RESIZE, SHARE
from pipeline.settings import TITLES, Setting, Unit, declared

Command = TypeVar("Command", bound=Callable[..., object])


def setting_option(name: str, **shown: Any) -> Callable[[Command], Command]:
    """Returns a decorator that adds the option of one setting, `--top-k` for `top_k`.

    Args:
        name: The setting.
        shown: Where help lists it: `group` and `tail` of `GroupedOption`.
    """
    setting = declared()[name]
    flags = [f"--{name.replace('_', '-')}", *filter(None, (setting.help.alias, setting.help.short_flag))]
    if setting.kind is bool:
        return click.option(*flags, cls=GroupedOption, is_flag=True, help=setting.help.text, **shown)
    multiple = setting.kind == tuple[str, ...]
    return click.option(
        *flags,
        cls=GroupedOption,
        type=_param_type(setting),
        multiple=multiple,
        default=None if multiple else _default(setting),
        show_default=True,
        metavar=setting.help.metavar or (setting.unit.upper() if setting.unit else None),
        help=setting.help.text,
        **shown,
    )


def setting_options(command: Command) -> Command:
    """Adds the options of all settings that have a flag, under the headings of their groups."""
    for setting in reversed(declared().values()):
        if setting.help.has_flag:
            group = TITLES[setting.group]
            command = setting_option(setting.name, group=group, tail=not setting.help.common)(command)
    return command


def _param_type(setting: Setting) -> click.ParamType[object]:
    kind, bounds = setting.kind, setting.range
    if setting.unit is Unit.SHARE:
        return SHARE
    if kind is int:
        return click.IntRange(min=None if bounds.ge is None else int(bounds.ge))
    if kind is float:
        least, most = (bounds.ge if bounds.gt is None else bounds.gt), (bounds.le if bounds.lt is None else bounds.lt)
        return click.FloatRange(least, most, min_open=bounds.gt is not None, max_open=bounds.lt is not None)
    if kind == tuple[float, ...]:
        return NUMBERS
    if kind == int | tuple[int, int]:
        return RESIZE
    return click.Choice([member.value for member in kind]) if issubclass(kind, StrEnum) else click.STRING


def _default(setting: Setting) -> object:
    """Returns a default as people would write it."""
    default = setting.default
    if setting.unit is Unit.SHARE and isinstance(default, float):
        return f"{default * 100:g}%"
    if isinstance(default, tuple):
        return ",".join(f"{number:g}" for number in default)
    return default.value if isinstance(default, StrEnum) else default
