"""verify-runner: what differs on a runner is found, whatever it is, and what does not is told to be equal."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable
from rich.console import Console

from pipeline.cli.main import cli
from pipeline.errors import JobError, TableError
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import ScoringJob
from pipeline.settings import LOCAL, Rounding
from pipeline.table.reader import MapTable
from pipeline.tools.verify_runner import Trial, TrialReport, _same_native, compare_tables, render, try_runner
from pipeline.tools.verify_runner_images import shape_for
from tests.faults.collection import without_tensorflow
from tests.support.fakes import METADATA, WINDOW, FullEngine, write_model
from tests.support.maintained import commit

RUNNER = "FnApiRunner"
"""What stands for another runner: by name it is none but the local one."""

Run = Callable[[ScoringJob], JobResult]


def tried(model: Path, run: Run = run_job, **options: Any) -> TrialReport:
    with without_tensorflow(FullEngine, flush_bytes=20_000):
        return try_runner(RUNNER, trial=Trial(pages=4, model=str(model), **options), run=run)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("trial") / "model")


@pytest.fixture(scope="module")
def kept(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialReport, Path]:
    """A trial without a fault, and its folder."""
    output = tmp_path_factory.mktemp("kept")
    report = tried(model, output=str(output))
    [folder] = output.iterdir()
    return report, folder


def shown(report: TrialReport) -> str:
    terminal = Console(width=400)
    with terminal.capture() as captured:
        terminal.print(render(report))
    return captured.get()


# --- equal


def test_a_runner_equals_itself(kept: tuple[TrialReport, Path]):
    report, folder = kept
    assert report.equal
    assert report.folder == str(folder)
    assert report.about["class"].endswith(".FnApiRunner")
    assert set(report.versions) == {"apache-beam", "densecast", "python"}
    first, second = report.nights
    counters = {"listed": 22, "scored": 15, "rejected": 7, "left_out..tar": 1}
    assert first.there.counters == first.here.counters == counters
    assert second.there.images["listed"] == 11
    assert f"collection and tables are in {folder}" in shown(report)
    assert "the runners are equal" in shown(report)


def test_the_collection_has_every_kind_of_row(kept: tuple[TrialReport, Path]):
    """What no row of is there is not compared."""
    report, folder = kept
    columns = ["uri", "status", "scale", "tile_index", "tile_count", "run_id", "reason"]
    rows = MapTable(folder / "maps-there").to_arrow(columns).to_pylist()
    assert Counter(row["status"] for row in rows).keys() == {"scored", "rejected", "deleted"}
    assert any(row["tile_count"] > 1 for row in rows)
    assert any(row["tile_count"] == 1 and row["status"] == "scored" for row in rows)
    assert {row["run_id"] for row in rows} == {night.there.run_id for night in report.nights}
    [*narrow] = (row["status"] for row in rows if row["uri"].endswith("narrow.png") and row["tile_index"] == 0)
    assert sorted(narrow) == ["rejected", "scored"]
    assert len({row["reason"] for row in rows}) > 3
    assert any("shard.tar#" in row["uri"] for row in rows)
    outcomes = report.nights[1].there.images
    assert all(outcomes[name] for name in ("keep", "update", "score", "delete", "replaced", "probed", "still_rejected"))


@pytest.mark.large
@pytest.mark.parametrize(("tilt", "equal"), [(1e-7, True), (1e-5, False)])
def test_floats_may_differ_by_what_kernels_round(model: Path, tilt: float, equal: bool):
    def rounds(job: ScoringJob) -> JobResult:
        with without_tensorflow(functools.partial(FullEngine, tilt)):
            return run_job(job)

    report = tried(model, there(rounds), rounding=Rounding.BOUNDED)
    assert report.equal is equal
    told = shown(report)
    assert ("differ in the last digits only, by up to" in told) is equal
    assert ("NOT EQUAL" in told) is not equal


def test_an_exact_run_on_processors_of_one_kind_allows_no_rounding(model: Path):
    def rounds(job: ScoringJob) -> JobResult:
        with without_tensorflow(functools.partial(FullEngine, 1e-7)):
            return run_job(job)

    report = tried(model, there(rounds))
    assert not report.equal
    assert {night.promise for night in report.nights} == {Rounding.EXACT}
    assert "all bits have to be equal: the runs were exact, on processors of one kind" in shown(report)


@pytest.mark.large
def test_other_processors_are_compared_within_the_bound(model: Path, monkeypatch: pytest.MonkeyPatch):
    def elsewhere(job: ScoringJob) -> JobResult:
        with monkeypatch.context() as patch, without_tensorflow(functools.partial(FullEngine, 1e-7)):
            patch.setattr("pipeline.transforms.score_fn.processor_name", lambda: "Another, 64 cores")
            return run_job(job)

    report = tried(model, there(elsewhere))
    assert report.equal
    assert {night.promise for night in report.nights} == {Rounding.BOUNDED}


def test_the_native_engine_promises_all_bits_on_any_processors():
    native = {"name": "native", "versions": {"densecast-native": "0.1.0"}}
    newer = {"name": "native", "versions": {"densecast-native": "0.2.0"}}
    assert _same_native([{"engine": native}, {"engine": native}])
    assert not _same_native([{"engine": native}, {"engine": newer}])
    assert not _same_native([{"engine": {"name": "onnxruntime"}}] * 2)
    assert not _same_native([{}, {}])


@pytest.mark.large
def test_workers_in_other_processes_make_the_same_table(model: Path):
    """Beam's own runner with two worker processes: what is shipped to them is all that they need."""
    with without_tensorflow(FullEngine):
        flags = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
        report = try_runner(RUNNER, flags, trial=Trial(pages=4, model=str(model)))
    assert report.equal, shown(report)
    assert report.flags == flags
    assert report.folder is None


# --- planted differences


def there(change: Callable[[ScoringJob], JobResult]) -> Run:
    """A runner that does something else; the local one is left alone."""
    return lambda job: run_job(job) if job.execution.runner == LOCAL else change(job)


def loses_an_archive(job: ScoringJob) -> JobResult:
    """Until the second night, which finds it."""
    lost = job.images if Path(job.output, "_delta_log").exists() else tuple(i for i in job.images if "tar" not in i)
    return run_job(job.replace(images=lost))


def computes_something_else_and_forgets_to_prune(job: ScoringJob) -> JobResult:
    with without_tensorflow(functools.partial(FullEngine, 1e-4)):
        return run_job(job.replace(prune=False))


def publishes_a_part_twice(job: ScoringJob) -> JobResult:
    """Under another name, so that Delta takes it for another part."""
    result = run_job(job)
    root = Path(job.output)
    again = root / "part-again.parquet"
    if not again.exists():
        shutil.copy(sorted(DeltaTable(str(root)).file_uris())[0], again)
        commit(root, [again], [], statistics={"numRecords": pq.read_metadata(again).num_rows})
    return result


@pytest.mark.large
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (loses_an_archive, ["there: 10 rows are missing", "shard.tar#0.png", "9 listed", "the summaries differ"]),
        (
            computes_something_else_and_forgets_to_prune,
            ["rows differ", "scores in", "by up to", "map_digest in", "status in 2 rows", "scored there, deleted here"],
        ),
        (publishes_a_part_twice, ["rows too many", "damage: duplicate"]),
    ],
)
def test_what_a_runner_does_wrong_is_found(model: Path, fault: Callable[[ScoringJob], JobResult], words: list[str]):
    report = tried(model, there(fault))
    assert not report.equal
    told = shown(report)
    assert "NOT EQUAL" in told
    assert [word for word in words if word not in told] == [], told


def test_a_summary_that_says_something_else_is_a_difference(kept: tuple[TrialReport, Path]):
    report, _ = kept
    first = report.nights[0]
    night = first.model_copy(update={"there": first.there.model_copy(update={"scored": 14})})
    assert first.equal
    assert not night.equal
    assert "the summaries differ" in shown(report.model_copy(update={"nights": (night,)}))


def test_work_that_is_repeated_is_told_and_no_difference(kept: tuple[TrialReport, Path]):
    """The invariant is of the table; how often a runner did what it had to is its own affair."""
    report, _ = kept
    first = report.nights[0]
    assert first.here.counters is not None
    more = first.there.model_copy(update={"counters": {**first.here.counters, "scored": 40}})
    night = first.model_copy(update={"there": more})
    assert night.equal
    assert "40 scored; here: " in shown(report.model_copy(update={"nights": (night,)}))
    night = first.model_copy(update={"there": first.there.model_copy(update={"counters": None})})
    assert night.equal
    assert "the runner has no counters" in shown(report.model_copy(update={"nights": (night,)}))


# --- what fits a model, and what is refused


@pytest.mark.parametrize("window", [WINDOW, 100, 227, 500])
def test_pages_are_as_large_as_a_model_needs(window: int):
    """At the smaller scale too a page is no smaller than a window, and tiles may be as large as they must."""
    axis = dataclasses.replace(METADATA.geometry.y, window=window, receptive_field=window + 128)
    geometry = dataclasses.replace(METADATA.geometry, y=axis, x=axis)
    shape = shape_for(METADATA.model_copy(update={"geometry": geometry}))
    assert shape.window == window
    assert 160 * shape.enlarged * 0.5 >= window
    assert shape.tile_pixels >= (window + 128) ** 2


def test_too_few_pages_for_a_second_night_are_refused(model: Path):
    with pytest.raises(JobError, match="3 pages are too few"):
        try_runner(RUNNER, trial=Trial(pages=3, model=str(model)))


def test_a_runner_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, model: Path):
    with pytest.raises(JobError, match="no runner 'Abacus'"):
        try_runner("Abacus", trial=Trial(model=str(model), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_tables_that_are_none_are_an_error(tmp_path: Path):
    with pytest.raises(TableError):
        compare_tables(str(tmp_path), str(tmp_path))


# --- the command


@pytest.mark.parametrize("equal", [True, False])
def test_the_exit_code_says_whether_they_are_equal(
    monkeypatch: pytest.MonkeyPatch, kept: tuple[TrialReport, Path], equal: bool
):
    asked = {}

    def stand_in(runner: str, flags: tuple[str, ...], **options: Any) -> TrialReport:
        asked.update(runner=runner, flags=flags, **options)
        return kept[0].model_copy(update={"equal": equal})

    monkeypatch.setattr("pipeline.tools.verify_runner.try_runner", stand_in)
    arguments = ["verify-runner", "--runner", "X", "--json", "a.jpg", "--pages", "5", "--", "--flag=1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == (0 if equal else 1)
    assert json.loads(result.stdout)["equal"] is equal
    assert asked == {
        "runner": "X",
        "flags": ("--flag=1",),
        "flink_master": None,
        "trial": Trial(pages=5, images=("a.jpg",)),
    }


@pytest.mark.large
def test_the_digits_model_is_converted_where_none_is_named(tmp_path: Path):
    """The command as it is: TensorFlow and all."""
    result = CliRunner().invoke(cli, ["verify-runner", "--runner", RUNNER, "--pages", "4", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "the runners are equal" in result.output
    [folder] = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"images", "maps-here", "maps-there", "model"}
