"""The help of all commands, those included that are added later: it fits a screen, and has two examples."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from pipeline.cli.help import COLUMNS, LINES, GroupedOption, add_help, short_page
from pipeline.cli.main import cli, main
from pipeline.settings import TITLES, declared


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            assert child.name == name
            yield from commands(child, (*path, name))


COMMANDS = dict(commands())


def printed(*arguments: str, columns: int = COLUMNS) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, list(arguments), prog_name="densecast")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(("densecast", *path)))
def test_help_fits_a_screen_and_has_two_examples(path: tuple[str, ...]):
    page = printed(*path, "--help")
    lines = page.splitlines()
    assert lines[0].startswith(" ".join(("Usage: densecast", *path)))
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    examples = page.partition("\nExamples:\n")[2].partition("\n\n")[0].splitlines()
    assert sum(line.startswith(" ".join(("  densecast", *path))) for line in examples) >= 2
    assert page == printed(*path, "-h")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(("densecast", *path)))
def test_the_whole_help_has_all_options_and_fits_the_columns(path: tuple[str, ...]):
    page = printed(*path, "--help-all")
    assert max(map(len, page.splitlines())) <= COLUMNS
    command = COMMANDS[path]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    for option in options:
        assert f"{max(option.opts, key=len)}" in page
        if isinstance(option, GroupedOption):
            assert f"\n{option.group}:\n" in page
    assert "more option" not in page


def test_the_help_of_score_has_the_groups_of_the_settings():
    whole = printed("score", "--help-all")
    titles = [whole.index(f"\n{title}:\n") for title in TITLES.values()]
    assert titles == sorted(titles)
    common = [setting for setting in declared().values() if setting.help.common]
    page = printed("score", "--help")
    assert [setting.name for setting in common if f"--{setting.name.replace('_', '-')}" not in page] == []
    rest = sum(setting.help.has_flag and not setting.help.common for setting in declared().values())
    assert f"{rest + 1} more options: densecast score --help-all" in page, "--storage-option too"


def test_a_narrow_terminal_gets_as_many_lines():
    lines = printed("score", "--help", columns=80).splitlines()
    assert len(lines) <= LINES
    assert max(len(line) for line in lines if not line.startswith("  densecast")) <= 80, "examples stay whole"


def test_a_command_that_knows_nothing_of_it_is_cut_to_fit():
    """Many long options and a long description, as another module may add."""

    def work(**options: object) -> None:
        """Does one thing.

        \b
        densecast many --option-0 1
        densecast many \\
            --option-1 2
        densecast many
        """

    work.__doc__ = f"{work.__doc__}\n\n        {'Long words follow. ' * 200}"
    command = click.command("many")(work)
    for number in range(60):
        command = click.option(f"--option-{number}", type=click.IntRange(0), help=f"Number {number}. {'More. ' * 9}")(
            command
        )
    context = click.Context(add_help(command), info_name="densecast many", max_content_width=COLUMNS)
    context.terminal_width = COLUMNS
    page = short_page(context)
    assert page.count("\n") < LINES
    assert "--option-0 N " in page
    assert "--option-1 2" in page
    assert "densecast many\n" not in page.partition("Examples:")[2], "the third example"
    assert page.endswith(" more options: densecast many --help-all")
    assert page.count("--option-") + int(page.splitlines()[-1].split()[0]) == 60 + 2, "two are in examples"


def test_a_group_without_a_command_prints_its_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["models"])
    assert ended.value.code == 2
    assert "Examples:\n  densecast models list" in capsys.readouterr().err
