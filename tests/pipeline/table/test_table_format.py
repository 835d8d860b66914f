"""Every way into a table refuses the same tables; a format has a version; other programs see comments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import click
import polars as pl
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from click.testing import CliRunner
from deltalake import DeltaTable, TableFeatures
from deltalake.transaction import AddAction
from PIL import Image

from conversion.errors import DensecastError
from pipeline import MapTable, ScoreImages
from pipeline.cli.main import cli
from pipeline.drift.measure import measure_drift
from pipeline.errors import TableError
from pipeline.maintenance.check import check
from pipeline.maintenance.compact import compact
from pipeline.maintenance.restore import plan_restore, restore
from pipeline.maintenance.vacuum import vacuum
from pipeline.runners.registry import open_runner
from pipeline.table.commit import Changes, commit
from pipeline.table.schema import COMMENTS, LATER_COLUMNS, SCHEMA
from pipeline.table.table_format import FORMAT, NAME, PROPERTY
from pipeline.transforms.inventory import take_inventory
from pipeline.transforms.list_images import ListImages
from tests.support.fakes import FakeEngine, write_model
from tests.support.maintained import MODEL, mixed_rows, publish_rows, scored


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two runs with a model, an image and a job."""
    folder = tmp_path_factory.mktemp("ways")
    write_model(folder / "model")
    (folder / "photos").mkdir()
    Image.new("RGB", (24, 24)).save(folder / "photos" / "a.png")
    publish_rows(folder / "maps", mixed_rows())
    publish_rows(folder / "maps", [scored("z.jpg", "r2")], "r2")
    (folder / "job.toml").write_text(
        'model = "model"\nimages = ["photos/"]\noutput = "maps"\nmix-models = true\n[nightly]\n'
    )
    return folder


def by_command(*words: str) -> Callable[[Path], None]:
    """A command as a user types it."""

    def run(folder: Path) -> None:
        words_here = [word.replace("maps", str(folder / "maps")).replace("HERE", str(folder)) for word in words]
        result = CliRunner().invoke(cli, words_here)
        # `nightly` reports the error of a night, and ends.
        if isinstance(result.exception, SystemExit) and result.exit_code == 1:
            raise TableError(result.output)
        assert result.exception is not None, result.output
        raise result.exception

    return run


def in_beam(folder: Path) -> None:
    options = PipelineOptions([])
    with beam.Pipeline(runner=open_runner("local"), options=options) as pipeline:
        transform = ScoreImages(str(folder / "model"), str(folder / "maps"), open_engine=FakeEngine)
        _ = pipeline | ListImages([str(folder / "photos")]) | transform


def at(function: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda folder: function(str(folder / "maps"))


COMMANDS = {
    "runs": by_command("runs", "maps"),
    "rejected": by_command("rejected", "maps"),
    "show": by_command("show", "maps", "a.jpg"),
    "check": by_command("check", "maps"),
    "drift": by_command("drift", "maps"),
    "vacuum": by_command("vacuum", "maps"),
    "score": by_command("score", "HERE/model", "HERE/photos", "--output", "maps", "--device", "cpu"),
    "nightly": by_command("nightly", "HERE/job.toml", "--date", "2026-11-03"),
    "compact": by_command("compact", "maps"),
    "restore": by_command("restore", "maps", "--version", "0"),
}
CALLS: dict[str, Callable[[Path], object]] = {
    "MapTable": at(MapTable),
    "an earlier version": at(lambda root: MapTable(root, MapTable(root).version)),
    "measure_drift": at(measure_drift),
    "check()": at(check),
    "vacuum()": at(vacuum),
    "a plan of nights": by_command("nightly", "HERE/job.toml", "--date", "2026-11-03", "--dry-run"),
    "ScoreImages": in_beam,
    "an inventory": at(lambda root: take_inventory(root, "r3")),
    "a commit": at(lambda root: commit(root, Changes(1, []), run_id="r3", model_json={"digest": MODEL}, summary={})),
    "compact()": at(compact),
    "restore()": at(lambda root: restore(root, 0)),
    "a plan of a restore": at(lambda root: plan_restore(root, 0)),
}
WRITERS = {
    *("score", "nightly", "compact", "restore"),
    *("a plan of nights", "ScoreImages", "an inventory", "a commit", "compact()", "restore()", "a plan of a restore"),
}
WAYS = {**COMMANDS, **CALLS}


def refusals(workplace: Path, ways: set[str]) -> dict[str, str]:
    """What each way says of the table; it must not change it."""
    version = DeltaTable(workplace / "maps").version()
    found = {}
    for way in sorted(ways):
        # Beam wraps what a worker raises.
        with pytest.raises((DensecastError, RuntimeError, TableError)) as caught:
            WAYS[way](workplace)
        found[way] = str(caught.value)
    assert DeltaTable(workplace / "maps").version() == version
    return found


@pytest.fixture
def maps(workplace: Path) -> Iterator[DeltaTable]:
    """The table as another program opens it. Each test leaves the table as it was."""
    root = workplace / "maps"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    yield DeltaTable(root)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path not in before:
            path.unlink()
        elif path.read_bytes() != before[path]:
            path.write_bytes(before[path])


def test_every_command_that_takes_a_table_is_tried() -> None:
    takes = set()
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if {"table", "job_file", "jobfile", "job"} & {parameter.name for parameter in command.params}:
            takes.add(name)
    assert takes | {"score"} == COMMANDS.keys()


def test_deletion_vectors_are_refused_by_all_ways_alike(workplace: Path, maps: DeltaTable) -> None:
    maps.alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    for way, message in refusals(workplace, WAYS.keys()).items():
        assert "Delta features that densecast does not read: " in message, (way, message)
        assert "eletion" in message, way


@pytest.mark.parametrize("where", ["property", "name"])
def test_a_newer_format_is_refused_by_all_ways_alike(workplace: Path, maps: DeltaTable, where: str) -> None:
    if where == "property":
        maps.alter.set_table_properties({PROPERTY: str(FORMAT + 1)}, raise_if_not_exists=False)
    else:
        maps.alter.set_table_name(f"densecast format {FORMAT + 1}")
    for way, message in refusals(workplace, WAYS.keys()).items():
        assert f"the table has format {FORMAT + 1}, and this version of densecast knows the formats 1 to" in message, (
            way
        )


@pytest.mark.parametrize(
    ("demand", "named"),
    [
        (lambda maps: maps.alter.set_table_properties({"delta.appendOnly": "true"}), "appendOnly"),
        (lambda maps: maps.alter.add_constraint({"small": "scale < 9"}), "the constraint small"),
    ],
    ids=["append-only", "constraint"],
)
def test_what_densecast_cannot_write_is_refused_by_all_writers_and_read(
    workplace: Path, maps: DeltaTable, demand: Callable[[DeltaTable], None], named: str
) -> None:
    demand(maps)
    for way, message in refusals(workplace, WRITERS).items():
        assert f"Delta features that densecast does not write: {named}" in message, (way, message)
    assert len(MapTable(str(workplace / "maps"))) == 6
    assert check(str(workplace / "maps")).clean


@pytest.mark.parametrize("value", ["", "0", "-1", "two", "1.5", "9" * 400, "\uff12"])
def test_a_property_that_is_not_a_version(maps: DeltaTable, value: str) -> None:
    maps.alter.set_table_properties({PROPERTY: value}, raise_if_not_exists=False)
    with pytest.raises(TableError, match="is not the version of a format"):
        MapTable(maps.table_uri.removeprefix("file://"))


def test_a_new_table_has_format_and_comments(tmp_path: Path) -> None:
    publish_rows(tmp_path / "maps", [scored("a.jpg")])
    table = DeltaTable(tmp_path / "maps")
    assert (table.version(), table.metadata().name) == (0, NAME)
    assert {field.name: field.metadata["comment"] for field in table.schema().fields} == COMMENTS
    assert [field.name for field in table.schema().fields] == SCHEMA.names


def test_other_programs_keep_the_format(tmp_path: Path) -> None:
    root = tmp_path / "maps"
    publish_rows(root, [scored("a.jpg")])
    frame = pl.read_delta(str(root)).with_columns(note=pl.lit("seen"))
    frame.write_delta(str(root), mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    DeltaTable(root).delete("uri = 'b.jpg'")
    DeltaTable(root).optimize.compact()
    assert DeltaTable(root).metadata().name == NAME
    DeltaTable(root).alter.set_table_name("ours")  # then it is of format 1, and upgraded
    publish_rows(root, [scored("c.jpg", "r2")], "r2")
    metadata = DeltaTable(root).metadata()
    assert (metadata.name, metadata.configuration[PROPERTY]) == ("ours", str(FORMAT))


def make_old(root: Path) -> None:
    """Makes a table as earlier versions did: without later columns, comments, and a format."""
    publish_rows(root, [scored("a.jpg")])
    log = root / "_delta_log" / f"{0:020}.json"
    text = log.read_text().replace(NAME, "densecast")
    for name in SCHEMA.names:
        text = text.replace(f'{{\\"comment\\":\\"{COMMENTS[name]}\\"}}', "{}")
    for name in LATER_COLUMNS:
        kind = '\\"string\\"'
        if name == "best_labels":
            kind = f'{{\\"type\\":\\"array\\",\\"elementType\\":{kind},\\"containsNull\\":true}}'
        text = text.replace(
            f',{{\\"name\\":\\"{name}\\",\\"type\\":{kind},\\"nullable\\":true,\\"metadata\\":{{}}}}', ""
        )
    log.write_text(text)
    assert not LATER_COLUMNS & {field.name for field in DeltaTable(root).schema().fields}


@pytest.mark.parametrize("by", ["run", "compaction"])
def test_an_old_table_gets_columns_comments_and_format_with_its_next_commit(tmp_path: Path, by: str) -> None:
    root = tmp_path / "maps"
    make_old(root)
    assert MapTable(str(root)).to_arrow(["best_labels"]).to_pylist() == [{"best_labels": None}]
    if by == "run":
        publish_rows(root, [scored("b.jpg", "r2")], "r2")
    else:
        [part] = root.glob("*.parquet")
        twin = part.with_name(part.name.replace("part-r1", "part-r0"))
        twin.write_bytes(part.read_bytes())
        DeltaTable(root).create_write_transaction(
            [AddAction(twin.name, twin.stat().st_size, {}, 0, True, '{"numRecords": 1}')],
            "append",
            DeltaTable(root).schema(),
        )
        assert compact(str(root)).passes == 1
    table = DeltaTable(root)
    fields = {field.name: field for field in table.schema().fields}
    assert fields.keys() == set(SCHEMA.names)
    assert all(fields[name].nullable for name in LATER_COLUMNS)
    assert {name: field.metadata.get("comment") for name, field in fields.items()} == COMMENTS
    assert table.metadata().configuration[PROPERTY] == str(FORMAT)
    assert not any("other programs" in note for note in check(str(root)).notes) or by == "compaction"
    version = table.version()
    publish_rows(root, [scored("c.jpg", "r3")], "r3")
    assert DeltaTable(root).version() == version + 1, "once"


def test_nothing_in_the_walk_needs_a_real_job(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a feature that is refused, the same ways work: the refusals above are not of something else."""
    monkeypatch.setattr("pipeline.jobs.submit.ScoreImages", functools.partial(ScoreImages, open_engine=FakeEngine))
    for way in ("MapTable", "check()", "an inventory", "a plan of a restore"):
        WAYS[way](workplace)
    result = CliRunner().invoke(cli, ["nightly", str(workplace / "job.toml"), "--date", "2026-11-03", "--dry-run"])
    assert result.exit_code == 0, result.output
