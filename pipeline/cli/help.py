"""The help of every command: a short page that fits a screen, and the whole one behind `--help-all`.

`add_help` gives it to any command of click's, so a command need not know of it. What a command says is its docstring
and its options. A block of the docstring that keeps its lines and begins with `densecast` holds examples. Options are
listed by groups: `GroupedOption` names one.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from pipeline.cli.console import say_lines

Command = TypeVar("Command", bound=click.Command)

LINES = 40
"""The most lines of the short page."""
COLUMNS = 100
"""The most columns of a page."""
EXAMPLES = 2
"""How many examples the short page has."""
HELP_FLAGS = {"-h", "--help", "--help-all"}
"""The flags that print a page."""

_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z-])")
_OTHERS = "Options"
_SHORT = (("INTEGER RANGE", "N"), ("FLOAT RANGE", "X"), ("INTEGER", "N"), ("FLOAT", "X"))
"""What the help calls numbers."""
_NAMES_WIDTH = 34


class GroupedOption(click.Option):
    """An option that help lists under a heading.

    Args:
        declarations: Its names, as click takes them.
        group: The heading.
        tail: Whether only `--help-all` lists it.
        attributes: What click's option takes.
    """

    def __init__(
        self, declarations: Sequence[str], *, group: str = _OTHERS, tail: bool = False, **attributes: Any
    ) -> None:
        super().__init__(declarations, **attributes)
        self.group, self.tail = group, tail


@dataclasses.dataclass(frozen=True)
class _Shape:
    """How much a page holds.

    Attributes:
        whole: Whether it has the whole description and all examples.
        brief: Whether each option has its first sentence alone.
        cut: Whether each option and command has one line.
        options: How many of the options; None: all.
        commands: How many of a group's commands are described; None: all.
    """

    whole: bool = False
    brief: bool = False
    cut: bool = False
    options: int | None = None
    commands: int | None = None


def add_help(command: Command) -> Command:
    """Returns a copy of a command, and of the commands of a group, with `--help` and `--help-all`."""
    command = copy.copy(command)
    taken = {name for param in command.params for name in param.opts}
    names = [name for name in ("-h", "--help") if name not in taken]
    command.params = [
        *command.params,
        _help_option(names, short_page, "Show the help on one screen."),
        _help_option(["--help-all"], whole_page, "Show the help with all options."),
    ]
    if isinstance(command, click.Group):
        command.commands = {name: add_help(child) for name, child in command.commands.items()}
    return command


def _help_option(names: Sequence[str], page: Callable[[click.Context], str], text: str) -> click.Option:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click calls it
        if value and not ctx.resilient_parsing:
            say_lines(page(ctx))
            ctx.exit()

    return click.Option(names, is_flag=True, expose_value=False, is_eager=True, callback=show, help=text)


def whole_page(ctx: click.Context) -> str:
    """Returns the help with all options."""
    options, commands = _options(ctx, tail=True), _commands(ctx)
    return _page(ctx, _Shape(whole=True), options, commands)


def short_page(ctx: click.Context) -> str:
    """Returns the help in at most `LINES` lines, with what is needed most.

    What does not fit is left out in this order: all but the first paragraph of the description, all but the first
    sentence of each option, what is over a line of each, the options from the last on, the descriptions of the commands
    from the last on. The last line says that there is more.
    """
    options, commands = _options(ctx, tail=False), _commands(ctx)
    total = sum(not HELP_FLAGS & set(option.opts) for option in _options(ctx, tail=True))
    page = ""
    for shape in _shapes(len(options), len(commands)):
        page = _page(ctx, shape, options, commands)
        more = total - len(options[: shape.options])
        if more or not shape.whole:
            page += f"\n\n{f'{more} more options' if more else 'More'}: {ctx.command_path} --help-all"
        if page.count("\n") < LINES:
            break
    return page


def _shapes(options: int, commands: int) -> Iterator[_Shape]:
    yield _Shape(whole=True)
    yield _Shape()
    yield _Shape(brief=True)
    yield _Shape(brief=True, cut=True)
    yield from (_Shape(brief=True, cut=True, options=count) for count in range(options - 1, -1, -1))
    yield from (_Shape(brief=True, cut=True, options=0, commands=count) for count in range(commands - 1, -1, -1))


def _options(ctx: click.Context, *, tail: bool) -> list[click.Option]:
    """Returns the options that a page lists, those of one group together."""
    shown = [param for param in ctx.command.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
    if not tail:
        shown = [option for option in shown if not _only_in_whole(option)]
    groups = list(dict.fromkeys(map(_group, shown)))
    if _OTHERS in groups:  # required ones are there
        groups.insert(0, groups.pop(groups.index(_OTHERS)))
    return sorted(shown, key=lambda option: (not option.required, groups.index(_group(option))))


def _only_in_whole(option: click.Option) -> bool:
    return bool(HELP_FLAGS & set(option.opts)) or (isinstance(option, GroupedOption) and option.tail)


def _group(option: click.Option) -> str:
    return option.group if isinstance(option, GroupedOption) else _OTHERS


def _commands(ctx: click.Context) -> list[tuple[str, str]]:
    """Returns the names of a group's commands, and their short help."""
    group = ctx.command
    if not isinstance(group, click.Group):
        return []
    found = ((name, group.get_command(ctx, name)) for name in group.list_commands(ctx))
    return [(name, command.get_short_help_str(limit=1000)) for name, command in found if command and not command.hidden]


def _page(
    ctx: click.Context, shape: _Shape, options: Sequence[click.Option], commands: Sequence[tuple[str, str]]
) -> str:
    formatter = click.HelpFormatter(width=ctx.terminal_width, max_width=COLUMNS)
    ctx.command.format_usage(ctx, formatter)
    described, examples = _parts(ctx.command.help or "")
    if not shape.whole:
        described, examples = described[:1], examples[:EXAMPLES]
    for paragraph in described:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(paragraph)
    if examples:
        with formatter.section("Examples"):
            for line in (line for example in examples for line in example):
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
    kept = options[: shape.options]
    for group in dict.fromkeys(map(_group, kept)):
        with formatter.section(group):
            rows = [_row(ctx, option, shape) for option in kept if _group(option) == group]
            _write_rows(formatter, rows, shape)
    _write_commands(formatter, commands, shape)
    return formatter.getvalue().rstrip("\n")


def _write_rows(formatter: click.HelpFormatter, rows: Sequence[tuple[str, str]], shape: _Shape) -> None:
    if shape.cut:
        width = min(max(len(name) for name, _ in rows), _NAMES_WIDTH)
        rows = [(name, _one_line(text, formatter.width - formatter.current_indent - width - 2)) for name, text in rows]
    formatter.write_dl(rows, col_max=_NAMES_WIDTH)


def _write_commands(formatter: click.HelpFormatter, commands: Sequence[tuple[str, str]], shape: _Shape) -> None:
    described = commands[: shape.commands]
    if described:
        with formatter.section("Commands"):
            _write_rows(formatter, described, shape)
    if rest := commands[len(described) :]:
        with formatter.section("More commands"):
            formatter.write_text(", ".join(name for name, _ in rest))


def _one_line(text: str, limit: int) -> str:
    """Returns a text that fits a line; it ends after a word, with three dots, if it is cut."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 3].rpartition(' ')[0].rstrip(',:;')}..."


def _row(ctx: click.Context, option: click.Option, shape: _Shape) -> tuple[str, str]:
    """Returns the names and the text of an option; a brief text is its first sentence and the default."""
    names, text = option.get_help_record(ctx) or ("", "")
    for long, short in _SHORT:
        names = re.sub(rf"\b{long}$", short, names)
    if shape.brief:
        extra = option.get_help_extra(ctx)
        default = f" [default: {extra['default']}]" if "default" in extra else ""
        text = _SENTENCE.split(option.help or "", maxsplit=1)[0] + default + (" [required]" if option.required else "")
    if shape.cut and len(names) > _NAMES_WIDTH and "|" in names:
        names = f"{names[: _NAMES_WIDTH - 4].rpartition('|')[0]}|...]"
    return names, text


def _parts(text: str) -> tuple[list[str], list[list[str]]]:
    """Returns the paragraphs of a docstring, and its examples as lines; an example may go on after a backslash."""
    described: list[str] = []
    examples: list[list[str]] = []
    for paragraph in inspect.cleandoc(text).partition("\f")[0].split("\n\n"):
        block = paragraph.removeprefix("\b\n")
        if block == paragraph or not block.startswith("densecast "):
            described.append(paragraph)
            continue
        continued = False
        for line in block.splitlines():
            if continued:
                examples[-1].append(line)
            else:
                examples.append([line])
            continued = line.endswith("\\")
    return described, examples
