"""The table of commands, generated from click.

`python -m tests.support.command_table FILE.md` writes it between `<!-- commands -->` and `<!-- /commands -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli.main import cli

_BETWEEN = re.compile(r"(?<=<!-- commands -->\n).*?(?=<!-- /commands -->)", re.DOTALL)


def all_commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yields the name and the command of every command, those of groups included, in the order of the help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path}{name} ")
        elif command is not None:
            yield f"{path}{name}", command


def with_commands(text: str) -> str:
    """Returns the text with the table between its two markers; raises ValueError unless it has both."""
    rows = [f"| `{name}` | {command.get_short_help_str(limit=1000)} |" for name, command in all_commands()]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows, ""])
    if len(_BETWEEN.findall(text)) != 1:
        raise ValueError("the text must hold <!-- commands --> and <!-- /commands -->, each once")
    return _BETWEEN.sub(lambda _: table, text)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_commands(path.read_text(encoding="utf-8")), encoding="utf-8")
