"""What densecast 0.1 wrote before its packages were split is read, resumed and checked as if it were written today."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from conversion import read_metadata
from pipeline import MapTable
from pipeline.cli.commands.maintenance import check, compact, runs, vacuum
from pipeline.cli.commands.nightly_command import drift, nightly
from pipeline.cli.commands.table import score
from tests.compatibility.make_fixture import HERE, TIME

FIXTURE = Path(__file__).parent / "before_rooms"
ANSWERS = json.loads((FIXTURE / "answers.json").read_text())
FIRST, SECOND = (run["run_id"] for run in ANSWERS["runs"])
URIS = [f"{HERE}/photos/{name}.png" for name in ("huge", "second", "tall", "wide")]

pytestmark = pytest.mark.skipif(not Path(HERE).is_dir(), reason="the addresses in the fixture need /proc")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixture, which is the current folder."""
    copy = tmp_path / "copy"
    shutil.copytree(FIXTURE, copy)
    for image in copy.glob("photos/*"):
        os.utime(image, (TIME, TIME))
    monkeypatch.chdir(copy)
    return copy


def run(command: click.Command, *arguments: str) -> str:
    """What a command that succeeds prints; it complains of nothing."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr.lower()
    return result.stdout


def last_line(printed: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return line


def arrays(table: MapTable) -> dict[str, np.ndarray]:
    """All that the maps of a table hold, by their keys."""
    arrays = {}
    for cells in table:
        for name in ("classes", "scores", "residual"):
            arrays[f"{cells.key}/{name}"] = getattr(cells, name)
        arrays |= {f"{cells.key}/features/{name}": values for name, values in cells.features.items()}
    return arrays


def check_maps() -> None:
    """The maps are to the last bit those that the old version read."""
    with np.load("maps.npz") as kept:
        expected = dict(kept)
    actual = arrays(MapTable("maps"))
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, strict=True)


def add_late_image() -> None:
    shutil.copy("died/late.png", "photos/late.png")
    os.utime("photos/late.png", (TIME, TIME))


class TestReading:
    def test_the_maps_are_the_same(self):
        check_maps()

    def test_images_are_found_as_before(self):
        table = MapTable("maps")
        assert table.read(URIS[0], scale=1.0).labels[:2] == ("digit 0", "digit 1")
        assert {cells.uri for cells in table} == set(URIS)
        assert all(table.scales(uri) == (0.75, 1.0) for uri in URIS)
        assert [(row.uri, row.reason) for row in table.rejections()] == [(f"{HERE}/photos/broken.png", "truncated")]
        assert [(row.uri, row.run_id) for row in table.deleted()] == [(f"{HERE}/photos/leaves.png", SECOND)]

    def test_the_runs_are_the_same(self):
        assert json.loads(run(runs, "maps", "--json")) == [{**line, "restored": None} for line in ANSWERS["runs"]]

    def test_a_check_finds_and_notes_nothing(self):
        answer = json.loads(run(check, "maps", "--json"))
        assert answer | {"seconds": 0} == ANSWERS["check"] | {
            "seconds": 0,
            "outdated": {},
            "rounding": {"exact": 0, "bounded": 8},
        }
        assert (answer["damage"], answer["notes"]) == ({}, [])

    def test_drift_is_not_measured_again(self):
        path = Path(f"maps/_densecast/drift/{SECOND}.json")
        before = path.read_bytes()
        line = last_line(run(nightly, "photos.toml", "--date=2026-11-02"))
        assert (line["status"], line["drift"], line["run_id"]) == ("done", [], f"{SECOND}-r2")
        assert (line["scored"], line["images"]["keep"]) == (0, 5)
        assert line["drift_report"].endswith(f"{SECOND}.json"), "nothing has changed since"
        assert path.read_bytes() == before

    def test_the_model_is_the_one_that_the_table_names(self):
        assert read_metadata("model").digest == ANSWERS["runs"][0]["model_digest"]


class TestResuming:
    def test_an_unchanged_collection_is_kept(self):
        before = sorted(path.name for path in Path("maps").glob("*.parquet"))
        arguments = (
            *("--top-k=3", "--scales=1,0.75", "--features=ip1:float16", "--tile-pixels=4096", "--prune"),
            *("--max-rejected=50%", "--device=cpu", "--json"),
        )
        run(score, f"{HERE}/model", f"{HERE}/photos/", "--output=maps", *arguments)
        summary = MapTable("maps").runs()[-1]
        assert {name: count for name, count in summary["images"].items() if count} == {
            "listed": 5,
            "keep": 5,
            "absent": 1,
            "still_rejected": 2,
        }
        assert (summary["scored"], summary["rejected"], summary["parts"]) == (0, 0, [])
        assert sorted(path.name for path in Path("maps").glob("*.parquet")) == before
        check_maps()

    def test_what_a_dead_run_wrote_is_adopted(self):
        add_late_image()
        for part in Path("died").glob("*.parquet"):
            shutil.copy(part, Path("maps") / part.name)
        job = Path("photos.toml").read_text()
        Path("photos.toml").write_text(f'rounding = "bounded"\n{job}')  # the old version did not promise exact bits
        line = last_line(run(nightly, "photos.toml", "--date=2026-11-03"))
        assert line["run_id"] == f"{FIRST.replace('11-01', '11-03')}-r2"
        assert (line["images"]["adopt"], line["images"]["keep"], line["images"].get("score", 0)) == (1, 5, 0)
        assert MapTable("maps").scales(f"{HERE}/photos/late.png") == (0.75, 1.0)

    def test_labels_come_into_a_table_that_has_no_column_for_them(self):
        assert set(MapTable("maps").to_arrow(["label"]).column(0).to_pylist()) == {None}
        Path("photos/list.txt").write_text("tall.png 7\nwide.png\nlate.png 9\n")
        add_late_image()
        arguments = ("--top-k=3", "--scales=1,0.75", "--features=ip1:float16", "--tile-pixels=4096", "--device=cpu")
        run(score, f"{HERE}/model", f"@{HERE}/photos/list.txt", "--output=maps", *arguments, "--max-rejected=50%")
        labels = {row["uri"]: row["label"] for row in MapTable("maps").to_arrow(["uri", "label"]).to_pylist()}
        assert labels.pop(f"{HERE}/photos/tall.png") == "7"
        assert labels.pop(f"{HERE}/photos/late.png") == "9"
        assert set(labels.values()) == {None}
        assert "label" in [field.name for field in DeltaTable("maps").schema().fields], "other programs see it too"
        answer = json.loads(run(check, "maps", "--json"))
        assert (answer["damage"], [note for note in answer["notes"] if "other programs" in note]) == ({}, [])

    def test_a_new_image_is_scored_by_the_old_model(self):
        add_late_image()
        line = last_line(run(nightly, "photos.toml", "--date=2026-11-03"))
        assert (line["images"]["score"], line["images"]["keep"], line["scored"]) == (1, 5, 2)
        assert json.loads(run(check, "maps", "--json"))["damage"] == {}
        json.loads(run(drift, "maps", "--json"))


class TestMaintaining:
    def test_compaction_keeps_the_maps(self):
        run(compact, "maps")
        assert len(MapTable("maps").files()) == 1
        check_maps()
        run(vacuum, "maps", "--retention=0h", "--force")
        check_maps()
        assert json.loads(run(check, "maps", "--json"))["notes"] == []


class TestNights:
    @pytest.mark.parametrize("day", ["2026-11-01", "2026-11-02"])
    def test_a_date_would_be_listed_again_under_an_id_of_its_own(self, day: str):
        """Its images do not depend on the date."""
        line = last_line(run(nightly, "photos.toml", f"--date={day}", "--dry-run"))
        assert line["run_id"] == {"2026-11-01": f"{FIRST}-r2", "2026-11-02": f"{SECOND}-r2"}[day]
        assert (line["status"], line["images"]["keep"], line["images"].get("score", 0)) == ("planned", 5, 0)

    def test_the_next_date_would_be_done(self):
        line = last_line(run(nightly, "photos.toml", "--date=2026-11-03", "--dry-run"))
        assert line["run_id"] == FIRST.replace("11-01", "11-03")
