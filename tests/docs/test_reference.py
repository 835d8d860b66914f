"""What the pages list is what the product has: columns, reasons, keys, options, commands, flags, names, exit codes."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

import conversion
import pipeline
import tests.conversion.test_floors as conversion_floors
import tests.test_floors as pipeline_floors
from conversion.layers import registered
from pipeline.cli.main import cli
from pipeline.exit_codes import ExitCode
from pipeline.jobs.spec import JOB_KEYS
from pipeline.jobs.toml_file import DriftSettings, NightlySettings
from pipeline.maps.geometry import Geometry
from pipeline.rejection import Reason
from pipeline.settings import declared
from pipeline.storage.options import OPTIONS
from pipeline.table.schema import SCHEMA, Status
from tests.docs.commands import commands
from tests.docs.conftest import Workplace
from tests.docs.markdown import PAGES, ROOT, blocks, code_spans, table
from tests.support.command_table import all_commands, with_commands

DOCS = ROOT / "docs"
FORMAT, NIGHTLY, STORAGE, COMMANDS = (
    DOCS / f"{name}.md" for name in ("table-format", "nightly", "object-storage", "commands")
)

OTHER_FLAGS = {
    *(
        "--environment_type",
        "--environment_config",
        "--direct_running_mode",
        "--prism_location",
        "--job_endpoint",
        "--service_port",
    ),
    *("--center_only", "--resize_height", "--resize_width"),  # of Caffe's programs
    *("--constraint", "--only-binary", "--no-binary", "--python-platform", "--opt_out"),  # of installers, of OpenVINO
    *("--format", "--help", "--max-...", "--version"),
    *("--all", "--folder"),  # of the benchmarks
}
"""Flags of Beam and of other programs, and those that every command has."""


def code(cell: str) -> list[str]:
    """Returns what stands between backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def flags(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


# --- the table


def test_every_column_is_listed_with_its_type():
    short = {"float64": "double", "float32": "float"}
    rows = table(FORMAT, "column")
    assert [code(row[0])[0] for row in rows] == SCHEMA.names
    for name, kind, unit, null_when, meaning in rows:
        field = SCHEMA.field(code(name)[0])
        text = str(field.type)
        if text.startswith("list<element: struct"):
            text = "list of struct"
        elif text.startswith("list<element: "):
            text = f"list of {text.removeprefix('list<element: ').removesuffix('>').removesuffix(' not null')}"
        elif text.startswith("struct"):
            text = "struct of doubles"
        assert kind == short.get(text, text), name
        assert (null_when == "never") is not field.nullable, name
        assert unit
        assert meaning


def test_null_when_is_so_in_a_real_table(workplace: Workplace):
    """A table with a map, a rejection and a deletion."""
    workplace.reset()
    rows = pipeline.MapTable(workplace.folder / "maps").to_arrow().to_pylist()
    assert {row["status"] for row in rows} == {status.value for status in Status}
    for name, _, _, null_when, _ in table(FORMAT, "column"):
        column = code(name)[0]
        for row in rows:
            empty, scored = row[column] is None, row["status"] == "scored"
            if null_when.startswith("not scored"):
                assert empty or scored, (column, row["status"])
                assert not (empty and scored) or null_when != "not scored", column
            elif null_when == "not rejected":
                assert empty is (row["status"] != "rejected"), (column, row["status"])
            elif null_when.startswith("rejected"):
                assert not (empty and scored), column


def test_statuses_reasons_and_geometry():
    assert [code(row[0])[0] for row in table(FORMAT, "status")] == [status.value for status in Status]
    assert [code(row[0])[0] for row in table(FORMAT, "reason")] == [reason.value for reason in Reason]
    fields = [row for row in table(FORMAT, "field") if len(row) == 2]
    assert [name for row in fields for name in code(row[0])] == [field.name for field in dataclasses.fields(Geometry)]
    features = [row for row in table(FORMAT, "field") if len(row) == 3]
    element = SCHEMA.field("features").type.value_type
    assert [name for row in features for name in code(row[0])] == [field.name for field in element]


# --- job files


def keys(title: str) -> dict[str, list[str]]:
    return {code(row[0])[0].replace("-", "_"): row for row in table(NIGHTLY, title)}


def written(cell: str) -> object:
    """Returns the value of a cell such as `0.05`; None for `null` and what is not a value."""
    text = code(cell)[0] if code(cell) else "null"
    return None if text == "null" else tomllib.loads(f"value = {text}")["value"]


def test_every_key_of_a_job_is_listed_with_its_default():
    rows = keys("key")
    assert set(rows) == JOB_KEYS - {"run_id"}
    assert list(rows)[3:] == list(declared()), "in the order of `densecast score --help`"
    for name, setting in declared().items():
        value = written(rows[name][2])
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        assert value == default, name
        if setting.unit is not None:
            assert setting.unit.value in rows[name][1], name
        for choice in getattr(setting.kind, "__members__", {}).values():
            assert f"`{choice.value}`" in rows[name][1], name


def test_settings_that_do_not_change_maps():
    text = NIGHTLY.read_text(encoding="utf-8")
    sentence = re.search(r"stays done when you change them\. They are\n(.+?)\.\n", text, re.DOTALL)
    assert sentence is not None
    named = [name.replace("-", "_") for name in code(sentence[1])]
    assert named == [name for name, setting in declared().items() if not setting.help.changes_maps]


@pytest.mark.parametrize(("title", "model"), [("nightly", NightlySettings), ("nightly.drift", DriftSettings)])
def test_every_key_of_nightly_is_listed_with_its_default(title: str, model: type[BaseModel]):
    rows = keys(f"key of `[{title}]`")
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if name != "drift":
            assert written(rows[name][2]) == field.default, name


def test_every_storage_option_is_listed_with_its_variables():
    rows = {code(row[0])[0]: row for row in table(STORAGE, "option")}
    assert list(rows) == list(OPTIONS)
    for name, option in OPTIONS.items():
        assert tuple(code(rows[name][1])) == option.variables, name
        assert rows[name][2].endswith("; secret") is option.secret, name


# --- commands


def test_table_of_commands_is_that_of_the_help():
    text = COMMANDS.read_text(encoding="utf-8")
    assert with_commands(text) == text, "run: python -m tests.support.command_table docs/commands.md"


def test_every_exit_code_is_listed():
    rows = table(COMMANDS, "exit code")
    assert [(int(row[0]), row[1].upper()) for row in rows] == [(code.value, code.name) for code in ExitCode]


def test_commands_and_flags_of_examples_exist():
    """Also those of examples that are not run."""
    known = dict(all_commands())
    for page in (*PAGES, ROOT / "infra" / "README.md"):
        for block in blocks(page):
            if block.language != "console":
                continue
            for command in commands(block):
                words = command.words
                if words[0] != "densecast" or "..." in words:
                    continue
                name = next((n for n in (" ".join(words[1:3]), words[1]) if n in known), "")
                assert name, f"{block}: there is no command {words[1]}"
                ours = words[: words.index("--")] if "--" in words else words
                used = {word.partition("=")[0] for word in ours if word.startswith("--")}
                assert used <= flags(known[name]), f"{block}: {used - flags(known[name])}"


def test_flags_in_sentences_exist():
    known = {flag for _, command in all_commands() for flag in flags(command)} | flags(cli) | OTHER_FLAGS
    for page in PAGES:
        for span in code_spans(page):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span):
                assert flag in known, f"{page.name}: {span}"


# --- names


def test_public_names_are_on_the_page_of_python():
    page = DOCS / "python.md"
    public = set(dir(pipeline))
    listed = {name for row in table(page, "name") for name in code(row[0])}
    assert listed >= public
    missing = [name for name in listed - public if not hasattr(conversion, name)]
    assert not missing


def test_floors_of_the_page_are_those_that_are_tested():
    page = {name: int(row[0]) for row in table(DOCS / "architecture.md", "floor") for name in code(row[1])}
    tested = {**conversion_floors.FLOORS, **pipeline_floors.FLOORS}
    packages = {name: floor for name, floor in tested.items() if (ROOT.joinpath(*name.split("."))).is_dir()}
    packages["conversion.surgery"] = tested["conversion.surgery"]
    assert page == {name.partition(".")[2]: floor for name, floor in packages.items() if "." in name}


def test_layers_of_the_page_are_registered():
    assert [code(row[0])[0] for row in table(DOCS / "layers.md", "layer")] == list(registered())


def test_modules_and_files_that_pages_name_exist():
    """Paths such as `tests/faults` and `python -m tests.faults`."""
    for page in PAGES:
        for span in code_spans(page):
            if re.fullmatch(r"(?:tests|infra|pipeline|conversion|models)/[\w/.-]*\w", span):
                assert (ROOT / span).exists(), f"{page.name}: {span}"
            for module in re.findall(r"python -m ((?:tests|models|pipeline)[\w.]*)", span):
                path = ROOT.joinpath(*module.split("."))
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {span}"


def test_picture_of_the_readme_is_small():
    assert Path(DOCS / "images" / "demo.png").stat().st_size < 1_000_000
