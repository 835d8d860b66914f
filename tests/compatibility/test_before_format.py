"""A table from before tables had a format is read as it is; its next commit gives it columns and format."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline import MapTable
from pipeline.cli.commands.maintenance import check, compact, runs
from pipeline.cli.commands.nightly_command import nightly
from pipeline.table.schema import COMMENTS, SCHEMA
from pipeline.table.table_format import FORMAT, PROPERTY
from tests.compatibility.make_fixture import HERE, TIME
from tests.compatibility.test_before_rooms import add_late_image, check_maps, last_line, run

FIXTURES = Path(__file__).parent

pytestmark = pytest.mark.skipif(not Path(HERE).is_dir(), reason="the addresses in the fixture need /proc")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The older fixture with the table of the newer one; it is the current folder."""
    copy = tmp_path / "copy"
    shutil.copytree(FIXTURES / "before_rooms", copy, ignore=shutil.ignore_patterns("maps"))
    shutil.copytree(FIXTURES / "before_format" / "maps", copy / "maps")
    for image in copy.glob("photos/*"):
        os.utime(image, (TIME, TIME))
    monkeypatch.chdir(copy)
    return copy


def test_it_is_read_as_it_is() -> None:
    check_maps()
    assert "best_labels" not in [field.name for field in DeltaTable("maps").schema().fields]
    assert set(MapTable("maps").to_arrow(["best_labels"]).column(0).to_pylist()) == {None}
    answer = json.loads(run(check, "maps", "--json"))
    assert (answer["damage"], answer["findings"], answer["notes"]) == ({}, [], [])
    assert [line["version"] for line in json.loads(run(runs, "maps", "--json"))] == [0, 1]


def test_its_next_night_gives_it_columns_and_format() -> None:
    add_late_image()
    line = last_line(run(nightly, "photos.toml", "--date=2026-11-03"))
    assert (line["images"]["score"], line["images"]["keep"], line["scored"]) == (1, 5, 2)
    table = DeltaTable("maps")
    fields = {field.name: field for field in table.schema().fields}
    assert list(fields) == SCHEMA.names
    assert fields["best_labels"].nullable
    assert {name: field.metadata["comment"] for name, field in fields.items()} == COMMENTS
    assert table.metadata().configuration[PROPERTY] == str(FORMAT)
    rows = MapTable("maps").to_arrow(["uri", "status", "best_labels"]).to_pylist()
    named = {row["uri"]: row["best_labels"] for row in rows if row["best_labels"] is not None}
    assert set(named) == {f"{HERE}/photos/late.png"}, "the maps that were kept are as they were"
    assert set(named[f"{HERE}/photos/late.png"]) <= {f"digit {number}" for number in range(10)}
    answer = json.loads(run(check, "maps", "--json"))
    assert (answer["damage"], [note for note in answer["notes"] if "other programs" in note]) == ({}, [])


def test_its_next_compaction_gives_it_columns_and_format() -> None:
    run(compact, "maps")
    check_maps()
    assert DeltaTable("maps").metadata().configuration[PROPERTY] == str(FORMAT)
    assert [field.name for field in DeltaTable("maps").schema().fields] == SCHEMA.names
    assert json.loads(run(check, "maps", "--json"))["damage"] == {}
