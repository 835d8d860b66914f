"""Nights with a fake engine: once a date, one at a time, and every result told in the same way."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tenacity import wait_none

from pipeline import MapTable, ScoreImages
from pipeline.cli.commands.nightly_command import drift as drift_command
from pipeline.cli.commands.nightly_command import nightly as nightly_command
from pipeline.cli.interruption import interruptible
from pipeline.drift.measure import DriftReport
from pipeline.errors import SourceError
from pipeline.exit_codes import ExitCode
from pipeline.jobs import attempts
from pipeline.jobs.attempts import find_attempt, make_date
from pipeline.jobs.dates import parse_dates, parse_day
from pipeline.jobs.metrics import write_metrics
from pipeline.jobs.night_report import Failure, Night, Report
from pipeline.jobs.nightly import run_nights
from pipeline.jobs.notify import post
from pipeline.jobs.run import JobResult
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.toml_file import load_jobfile
from pipeline.table.commit import Changes, commit
from pipeline.table.lease import Lease
from pipeline.table.log import open_delta
from tests.support.fakes import METADATA, FakeEngine, write_model, write_network
from tests.support.stored_rows import MODEL_JSON, scored, write

DAY = date(2026, 11, 23)


class Job:
    """A job file, its collection and its table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.images = folder, folder / "photos.toml", "photos/**/*"
        (folder / "photos").mkdir()
        (folder / "models").mkdir()
        write_model(folder / "models" / "v1")
        (folder / "models" / "current").symlink_to("v1")
        for number in range(4):
            self.put(f"{number}.png", number)
        self.write()

    @property
    def table(self) -> str:
        return str(self.folder / "maps")

    def put(self, name: str, seed: int, darkest: int = 0) -> None:
        pixels = np.random.default_rng(seed).integers(darkest, 256, (24, 32, 3), dtype=np.uint8)
        (self.folder / "photos" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.folder / "photos" / name)

    def write(self, job: str = "", nightly: str = "") -> None:
        head = f'model = "models/current"\nimages = ["{self.images}"]\noutput = "maps"\ntop-k = 2\n'
        self.path.write_text(f"{head}{job}\n[nightly]\n{nightly}\n")

    def by_date(self, *days: date) -> Job:
        """Makes a job of it whose images depend on the date; each date has the same ones."""
        self.images = "photos/{date}/*"
        for day in days:
            shutil.copytree(self.folder / "photos", self.folder / str(day))
        shutil.rmtree(self.folder / "photos")
        (self.folder / "photos").mkdir()
        for day in days:
            (self.folder / str(day)).rename(self.folder / "photos" / str(day))
        self.write()
        return self

    def of(self, day: date = DAY) -> attempts.JobDate:
        return make_date(load_jobfile(self.path), day, METADATA.digest)

    def base(self, day: date = DAY) -> str:
        return self.of(day).base

    def run(self, *arguments: str, day: date | None = DAY) -> tuple[int, dict[str, Any], Result]:
        """Runs the command; its exit code, its last line, all of it."""
        when = [f"--date={day}"] if day is not None else []
        result = CliRunner().invoke(nightly_command, [str(self.path), *when, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        found = json.loads(result.stdout.splitlines()[-1])
        assert found["exit_code"] == result.exit_code
        return result.exit_code, found, result

    def files(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if path.is_file()}


def publish_without_beam(job: ScoringJob) -> JobResult:
    """What `run_job` does, in a hundredth of the time: a map of each new image, made of its name."""
    found = [str(path) for pattern in job.images for path in Path("/").glob(pattern[1:]) if path.is_file()]
    if not found:
        raise SourceError("nothing matches")
    table = open_delta(job.output)
    known = set() if table is None else set(MapTable(job.output).to_arrow(["uri"])["uri"].to_pylist())
    new = [scored(path, job.run_id) for path in sorted(found) if path not in known]
    receipts = write(job.output, *new, run_id=job.run_id)
    changes = Changes(table.version() if table is not None else -1, receipts)
    summary = {"images": {"listed": len(found), "keep": len(found) - len(new)}}
    model = {**MODEL_JSON, "digest": METADATA.digest}
    published = commit(job.output, changes, run_id=job.run_id, model_json=model, summary=summary)
    return JobResult(published, seconds=0.0, failed=False, left_out={".heic": 2})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.jobs.nightly.run_job", publish_without_beam)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.jobs.submit.ScoreImages", functools.partial(ScoreImages, open_engine=FakeEngine))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


class TestNights:
    """The command."""

    def test_a_date_is_done_once(self, job: Job):
        job.by_date(DAY)
        code, found, result = job.run()
        assert code == 0
        assert found["status"] == "done"
        assert found["run_id"] == job.base() == f"nightly-2026-11-23-{load_jobfile(job.path).identity}"
        assert (found["scored"], found["rejected"], found["images"]["listed"], found["version"]) == (4, 0, 4, 0)
        assert (found["job"], found["date"], found["table"]) == ("photos", "2026-11-23", job.table)
        assert found["model_digest"] == METADATA.digest
        assert found["model"] == str((job.folder / "models" / "v1").resolve())
        assert found["seconds"] > 0
        assert "4 new maps" in result.stdout
        job.put(f"{DAY}/new.png", 9)
        again, found, result = job.run()
        assert (again, found["status"], found["version"], found["scored"]) == (0, "done-before", 0, 4)
        assert "done before" in result.stdout
        assert "--force" in result.stdout
        assert len(MapTable(job.table)) == 4

    @pytest.mark.usefixtures("quick")
    def test_a_job_without_dates_in_its_images_lists_them_again(self, job: Job):
        """By hand in the day, then at night; or again after midnight: no image waits for the next date."""
        assert job.run()[1]["run_id"] == job.base()
        job.put("new.png", 9)
        code, found, _ = job.run()
        assert (code, found["status"], found["run_id"], found["scored"]) == (0, "done", f"{job.base()}-r2", 1)
        code, found, _ = job.run()
        assert (code, found["status"], found["scored"], found["images"]["keep"]) == (0, "done", 0, 5)

    @pytest.mark.usefixtures("quick")
    def test_a_date_that_was_not_over_is_not_done(self, job: Job):
        """More images may come until midnight; a date in the future may have been a slip."""
        for day in (date.today(), date(9998, 1, 1)):
            job.put(f"{day}/a.png", 1)
        job.images = "photos/{date}/*"
        job.write()
        for word, folder in (("today", str(date.today())), ("9998-01-01", "9998-01-01")):
            job.run(f"--date={word}", day=None)
            job.put(f"{folder}/b.png", 2)
            code, found, _ = job.run(f"--date={word}", day=None)
            assert (code, found["status"], found["scored"]) == (0, "done", 1)

    def test_when_a_date_is_done(self, job: Job):
        night = job.by_date().of()
        after, before = "2026-11-24T12:00:00+00:00", "2026-11-23T12:00:00+00:00"
        done = {"model_digest": METADATA.digest, "images": {"listed": 1}, "began_at": after}
        assert night.is_done_by(done)
        assert night.is_done_by({**done, "began_at": None, "published_at": after}), "of an earlier version"
        assert not night.is_done_by({**done, "began_at": before, "published_at": after})
        assert not night.is_done_by({**done, "began_at": "soon"})
        assert not night.is_done_by({**done, "images": {"listed": 0}}), "the images may be late"
        assert not night.is_done_by({**done, "images": {}})
        assert not night.is_done_by({**done, "model_digest": "e" * 64})
        assert not night._replace(dated=False).is_done_by(done)

    @pytest.mark.usefixtures("quick")
    def test_the_next_date_scores_what_is_new(self, job: Job):
        job.run()
        job.put("new.png", 9)
        code, found, result = job.run(day=date(2026, 11, 24))
        assert (code, found["scored"], found["version"]) == (0, 1, 1)
        assert (found["images"]["keep"], found["left_out"]) == (4, {".heic": 2})
        assert "2 .heic" in result.stdout
        code, found, _ = job.run(day=date(2026, 11, 25))
        assert (code, found["status"], found["scored"], found["images"]["keep"]) == (0, "done", 0, 5)

    @pytest.mark.usefixtures("quick")
    def test_force_makes_another_run(self, job: Job):
        job.by_date(DAY).run()
        job.put(f"{DAY}/new.png", 9)
        code, found, _ = job.run("--force")
        assert (code, found["run_id"], found["scored"]) == (0, f"{job.base()}-r2", 1)
        code, found, _ = job.run()
        assert (found["status"], found["run_id"]) == ("done-before", f"{job.base()}-r2")
        assert job.run("--force")[1]["run_id"] == f"{job.base()}-r3"

    def test_the_date_is_in_the_paths(self, job: Job):
        job.put("2026/a.png", 1)
        job.path.write_text('model="models/current"\nimages="photos/{date:%Y}/*"\noutput="maps/{date}"\ntop-k=2\n')
        code, found, _ = job.run()
        assert (code, found["scored"]) == (0, 1)
        assert found["table"] == f"{job.table}/2026-11-23"
        assert len(MapTable(found["table"])) == 1

    @pytest.mark.usefixtures("quick")
    def test_today_is_the_default(self, job: Job):
        assert job.run("--dry-run", day=None)[1]["date"] == str(date.today())

    @pytest.mark.usefixtures("quick")
    def test_json_leaves_the_last_line_only(self, job: Job):
        assert len(job.run("--json")[2].stdout.splitlines()) == 1
        assert len(job.run("--json", "--dry-run")[2].stdout.splitlines()) == 1

    def test_a_run_that_died_is_taken_over_by_the_next_attempt(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        with monkeypatch.context() as patch:

            def die(*_: Any, **__: Any) -> None:
                raise OSError("killed before the commit")

            patch.setattr("pipeline.transforms.publish_fn.commit", die)
            code, found, result = job.run()
            assert (code, found["status"], found["error"]["type"]) == (1, "failed", "WorkerError")
            assert "killed" in found["error"]["message"]
            assert "killed" in result.stderr
        code, found, _ = job.run()
        assert (code, found["run_id"], found["scored"]) == (0, f"{job.base()}-r2", 4)
        assert found["images"]["adopt"] == 4

    @pytest.mark.usefixtures("quick")
    def test_a_run_that_died_after_its_commit_is_concluded_and_another_looks_for_more(self, job: Job):
        job.by_date(DAY).run()
        (job.folder / "maps" / "_densecast" / "runs" / f"{job.base()}.json").unlink()
        assert find_attempt(job.table, job.of()) == (f"{job.base()}-r2", False, (job.base(),))
        job.put(f"{DAY}/new.png", 9)
        code, found, _ = job.run()
        assert (code, found["run_id"], found["scored"], found["version"]) == (0, f"{job.base()}-r2", 1, 1)
        runs = [(run["run_id"], run["scored"], run["model_digest"]) for run in MapTable(job.table).runs()]
        assert runs == [(job.base(), 4, MODEL_JSON["digest"]), (f"{job.base()}-r2", 1, METADATA.digest)]

    @pytest.mark.usefixtures("quick")
    def test_an_id_that_has_committed_nothing_new_is_not_used_again(self, job: Job):
        """A commit under it would change nothing."""
        job.run()
        job.run(day=date(2026, 11, 24))
        (job.folder / "maps" / "_densecast" / "runs" / f"{job.base(date(2026, 11, 24))}.json").unlink()
        job.put("new.png", 9)
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["run_id"], found["scored"]) == (0, f"{job.base(date(2026, 11, 24))}-r2", 1)
        assert len(MapTable(job.table)) == 5

    @pytest.mark.usefixtures("quick")
    def test_records_of_a_table_that_is_gone_do_not_count(self, job: Job):
        job.run()
        shutil.rmtree(job.folder / "maps" / "_delta_log")
        assert find_attempt(job.table, job.of()).done is False
        assert job.run()[0] == 0
        assert len(MapTable(job.table)) == 4

    def test_too_many_rejections_exit_with_3_again_and_again(self, job: Job):
        (job.folder / "photos" / "bad.jpg").write_bytes(b"no image")
        code, found, result = job.run()
        assert (code, found["status"], found["rejected"]) == (3, "rejected", 1)
        assert "more than 5.0%" in result.stderr
        assert "a run with retry-rejected" in result.stderr
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["rejected"], found["images"]["still_rejected"]) == (3, 0, 1)

    @pytest.mark.usefixtures("quick")
    def test_a_date_that_was_done_with_too_many_rejections_says_how_to_run_it_again(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ):
        job.by_date(DAY).run()
        monkeypatch.setattr("pipeline.jobs.nightly.too_many_rejected", lambda *_: True)
        code, found, result = job.run()
        assert (code, found["status"]) == (3, "rejected")
        assert "done before" in result.stdout
        assert "with --force" in result.stderr
        monkeypatch.undo()
        assert job.run()[0] == 0, "today's limit counts"

    def test_a_date_is_done_for_the_model_that_scored_it(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        job.by_date(DAY).run()
        assert job.run()[1]["status"] == "done-before"
        other = METADATA.model_copy(update={"digest": "e" * 64})
        (job.folder / "models" / "v2").mkdir()
        (job.folder / "models" / "v2" / "densecast.json").write_text(other.model_dump_json())
        (job.folder / "models" / "current").unlink()
        (job.folder / "models" / "current").symlink_to("v2")
        monkeypatch.setattr(FakeEngine, "metadata", other)
        _, found, _ = job.run()
        assert (found["status"], found["model_digest"], found["scored"]) == ("done", "e" * 64, 4)
        assert found["model"].endswith("v2")

    def test_a_dry_run_counts_what_a_run_would_do(self, job: Job):
        job.run()
        job.put("1.png", 7)
        os.utime(job.folder / "photos" / "2.png", (1, 1))
        job.put("new.png", 9)
        _, found, result = job.run("--dry-run")
        assert found["images"] == {"listed": 5, "score": 1, "probe": 2, "keep": 2}
        assert "5 images: 1 to score, 2 to compare by their content, 2 unchanged" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--date", "2026-13-01"], "2026-13-01"),
            (["--date", "20261123"], "today or yesterday"),
            (["--date", "tomorrow"], "today or yesterday"),
            (["--backfill", "2026-11-05..2026-11-01"], "days"),
            (["--backfill", "yesterday"], "range of dates"),
            (["--backfill", "2026-11-01..2026-11-02", "--date", "2026-11-01"], "not both"),
        ],
    )
    def test_wrong_usage_exits_with_2(self, job: Job, arguments: list[str], words: str):
        result = CliRunner().invoke(nightly_command, [str(job.path), *arguments])
        assert result.exit_code == ExitCode.USAGE
        assert words in result.stderr
        assert not (job.folder / "maps").exists()

    def test_a_day_without_images_may_be_allowed(self, job: Job):
        """And is not done: the images may only be late."""
        job.images = "photos/{date}/"
        job.write("allow-empty = true\naccuracy-bound = 0.01")
        code, found, _ = job.run()
        assert (code, found["status"], found["scored"], found["version"]) == (0, "done", 0, 0)
        job.write("allow-empty = true")
        job.put(f"{DAY}/a.png", 1)
        code, found, _ = job.run()
        assert (code, found["status"], found["scored"]) == (0, "done", 1)
        job.write()
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["error"]["type"]) == (1, "NoImagesError")

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ('model = "none"\nimages = ["photos"]\noutput = "maps"', "ModelError"),
            ('model = "models/v1"\nimages = ["none/*.png"]\noutput = "maps"', "NoImagesError"),
            ('model = "models/v1"\nimages = ["none.png"]\noutput = "maps"', "SourceError"),
            ('model = "models/v1"\nimages = ["photos"]\noutputs = "maps"', "SettingError"),
            ('model = "models/v1"\nimages = ["photos"]\noutput = "photos.toml"', "TableError"),
            ('model = "models/v1"\nimages = ["photos"]\noutput = "photos"', "TableError"),
        ],
    )
    def test_errors_end_in_a_line_of_json_too(self, job: Job, text: str, kind: str):
        job.path.write_text(text)
        code, found, result = job.run()
        assert (code, found["status"], found["error"]["type"]) == (1 + (kind == "SettingError"), "failed", kind)
        assert result.stderr.startswith("densecast: ")
        assert not (job.folder / "photos" / "_densecast").exists(), "no lease among what is not ours"

    def test_a_bug_shows_itself_and_ends_in_a_line_of_json_too(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pipeline.jobs.nightly.run_job", lambda _: [][0])
        result = CliRunner().invoke(nightly_command, [str(job.path)])
        assert isinstance(result.exception, IndexError)
        assert json.loads(result.stdout.splitlines()[-1])["error"]["type"] == "Bug"

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_a_run_as_an_interrupt_and_gives_the_lease_back(
        self, number: signal.Signals, job: Job, monkeypatch: pytest.MonkeyPatch
    ):
        def work(_: Any) -> None:
            os.kill(os.getpid(), number)
            time.sleep(10)

        before = signal.signal(number, signal.SIG_DFL)  # nohup and the like ignore SIGHUP
        try:
            with monkeypatch.context() as patch, interruptible():
                patch.setattr("pipeline.jobs.nightly.run_job", work)
                code, found, _ = job.run()
            assert (code, found["status"]) == (130, "interrupted")
            assert signal.getsignal(number) == signal.SIG_DFL
        finally:
            signal.signal(number, before)
        assert job.run()[0] == 0, "nobody holds the lease"


@pytest.mark.usefixtures("quick")
class TestBackfill:
    """Several dates."""

    def test_dates_are_run_in_order_until_one_fails(self, job: Job):
        job.path.write_text('model="models/current"\nimages="photos/{date}/*"\noutput="maps"\ntop-k=2\n')
        for day in (1, 2, 4):
            job.put(f"2026-11-0{day}/a.png", day)
        code, found, result = job.run("--backfill", "2026-11-01..2026-11-04", day=None)
        assert code == 1
        assert [(night["date"], night["status"]) for night in found["nights"]] == [
            ("2026-11-01", "done"),
            ("2026-11-02", "done"),
            ("2026-11-03", "failed"),
        ]
        assert (found["status"], found["nights"][-1]["error"]["type"]) == ("failed", "SourceError")
        job.put("2026-11-03/a.png", 3)
        code, found, result = job.run("--backfill", "2026-11-01..2026-11-04", day=None)
        assert code == 0
        assert [night["status"] for night in found["nights"]] == ["done-before", "done-before", "done", "done"]
        assert len({night["run_id"] for night in found["nights"]}) == 4
        assert "2026-11-04" in result.stdout
        assert len(MapTable(job.table)) == 4

    @pytest.mark.parametrize("again", [False, True])
    def test_a_date_whose_maps_are_published_does_not_hold_up_the_others(
        self, job: Job, monkeypatch: pytest.MonkeyPatch, again: bool
    ):
        """Neither when it ends with 3, nor when it has ended with 3 before."""
        job.by_date(*(date(2026, 11, day) for day in (1, 2, 3)))
        if again:
            job.run(day=date(2026, 11, 2))
        monkeypatch.setattr(
            "pipeline.jobs.nightly.too_many_rejected", lambda scoring, _: "2026-11-02" in scoring.images[0]
        )
        code, found, _ = job.run("--backfill", "2026-11-01..2026-11-03", day=None)
        assert (code, found["status"]) == (3, "rejected")
        assert [(night["status"], night["exit_code"]) for night in found["nights"]] == [
            ("done", 0),
            ("rejected", 3),
            ("done", 0),
        ]
        assert len(MapTable(job.table)) == 12

    def test_a_failure_decides_the_exit_code_since_it_may_be_tried_again(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ):
        job.by_date(date(2026, 11, 1))
        monkeypatch.setattr("pipeline.jobs.nightly.too_many_rejected", lambda *_: True)
        code, found, _ = job.run("--backfill", "2026-11-01..2026-11-04", day=None)
        assert (code, found["status"]) == (1, "failed")
        assert [night["exit_code"] for night in found["nights"]] == [3, 1]

    def test_all_dates_have_the_model_of_the_start(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        real, used = publish_without_beam, []

        def exchange(scoring: Any) -> Any:
            used.append(scoring.model)
            (job.folder / "models" / "current").unlink()
            (job.folder / "models" / "current").symlink_to("nowhere")
            return real(scoring)

        monkeypatch.setattr("pipeline.jobs.nightly.run_job", exchange)
        assert job.run("--backfill", "2026-11-01..2026-11-02", day=None)[0] == 0
        assert used == [str((job.folder / "models" / "v1").resolve())] * 2

    def test_a_range_is_limited(self):
        with pytest.raises(ValueError, match="days"):
            parse_dates("0001-01-01..2026-01-01")

    def test_words_for_dates(self):
        assert parse_day("yesterday") == parse_day("today") - timedelta(days=1)
        assert parse_day("today") == date.today()


@pytest.mark.usefixtures("quick")
class TestDryRun:
    """Nothing is written."""

    def test_it_says_what_would_be_done(self, job: Job):
        job.by_date(DAY, date(2026, 11, 24))
        before = job.files()
        code, found, result = job.run("--dry-run")
        assert (code, found["status"], found["version"], found["run_id"]) == (0, "planned", None, job.base())
        assert found["images"] == {"listed": 4, "score": 4}
        assert "4 images: 4 to score" in result.stdout
        assert "would run" in result.stdout
        assert "no table yet" in result.stdout
        assert METADATA.digest in result.stdout
        assert job.files() == before
        job.run()
        before = job.files()
        _, found, result = job.run("--dry-run", "--backfill", "2026-11-23..2026-11-24", day=None)
        assert [night["status"] for night in found["nights"]] == ["done-before", "planned"]
        assert [night["version"] for night in found["nights"]] == [0, 0]
        assert job.files() == before

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ('images = ["@none.csv"]', "SourceError"),
            ('images = ["@list.csv"]', "SourceError"),
            ('images = ["none/"]', "NoImagesError"),
            ('images = ["photos/{date}/"]', "NoImagesError"),
            ('images = ["photos/[z-a].png"]', "SourceError"),
            ('images = ["photos/**/*"]\nrunner = "NoSuchRunner"', "JobError"),
            ('images = ["photos/**/*"]\nfeatures = ["none"]', "SettingError"),
        ],
    )
    def test_what_would_fail_fails(self, job: Job, text: str, kind: str):
        (job.folder / "list.csv").write_text("colour\nred\n")
        job.path.write_text(f'model = "models/v1"\noutput = "maps"\ntop-k = 2\n{text}\n')
        write_network(job.folder / "models" / "v1")
        before = job.files()
        code, found, result = job.run("--dry-run")
        assert (code, found["status"], found["error"]["type"]) == (1 + (kind == "SettingError"), "failed", kind)
        assert found["error"]["message"] in result.stderr
        assert job.files() == before

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            ('webhook = "env:NO_SUCH_VARIABLE"', "the variable NO_SUCH_VARIABLE is not set"),
            ('metrics = "no/such/photos.prom"', "there is no such folder"),
        ],
    )
    @pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
    def test_what_cannot_be_reported_is_said_before_a_night_begins(
        self, job: Job, key: str, words: str, arguments: tuple[str, ...]
    ):
        job.write(nightly=key)
        code, found, _ = job.run(*arguments)
        assert code != 0
        assert found["error"]["type"] == "JobError"
        assert words in found["error"]["message"]
        assert not (job.folder / "maps").exists()

    def test_it_says_who_works(self, job: Job):
        with Lease(job.table, "theirs"):
            code, _, result = job.run("--dry-run")
        assert code == 0
        assert "run theirs" in result.stdout


@pytest.mark.usefixtures("quick")
class TestLeases:
    """Runs beside each other."""

    def test_a_second_run_exits_with_5_and_does_nothing(self, job: Job):
        with Lease(job.table, "theirs"):
            code, found, result = job.run()
            assert (code, found["status"], found["version"]) == (5, "busy", None)
            assert "run theirs" in result.stderr
            job.write(nightly="lease-minutes = 0")
            assert job.run()[0] == 0, "no lease was asked for"

    def test_a_run_waits_for_the_lease_where_the_job_says_so(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        theirs = Lease(job.table, "theirs")
        theirs.__enter__()
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                theirs.__exit__(None, None, None)

        monkeypatch.setattr("pipeline.jobs.nightly.time.sleep", pause)
        job.write(nightly="lease-wait-minutes = 60")
        code, found, result = job.run()
        assert (code, found["scored"], len(pauses)) == (0, 4, 3)
        assert result.stderr.count("waits for the lease of theirs") == 1

    def test_waiting_ends(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        now = iter(range(0, 100_000, 1000))
        monkeypatch.setattr("pipeline.jobs.nightly.time.monotonic", lambda: next(now))
        monkeypatch.setattr("pipeline.jobs.nightly.time.sleep", lambda _: None)
        job.write(nightly="lease-wait-minutes = 60")
        with Lease(job.table, "theirs"):
            code, found, _ = job.run()
        assert (code, found["status"]) == (5, "busy")

    def test_a_run_that_may_still_work_keeps_its_id_for_itself(self, job: Job):
        """A run whose lease lapsed, because its machine slept, has written nothing yet under the id of its date."""
        with Lease(job.table, job.base()):
            lease = job.folder / "maps" / "_densecast" / "lease.json"
            content = lease.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {os.getppid()}')
            lease.write_text(content.replace('"space": "', '"space": "elsewhere '))
            os.utime(lease, (1, 1))
            code, found, _ = job.run()
        assert (code, found["run_id"]) == (0, f"{job.base()}-r2")

    def test_a_date_that_is_done_needs_no_lease(self, job: Job):
        job.by_date(DAY).run()
        with Lease(job.table, "theirs"):
            assert job.run()[1]["status"] == "done-before"

    def test_who_waited_for_the_lease_does_not_repeat_the_work(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        """The other run publishes between the first look and the lease."""
        other = load_jobfile(job.by_date(DAY).path)

        class Late(Lease):
            def __enter__(self) -> Lease:
                monkeypatch.setattr("pipeline.jobs.nightly.Lease", Lease)
                assert run_nights(other, [DAY]).exit_code == 0
                return super().__enter__()

        monkeypatch.setattr("pipeline.jobs.nightly.Lease", Late)
        code, found, _ = job.run()
        assert (code, found["status"], found["run_id"]) == (0, "done-before", job.base())

    def test_a_run_that_lost_its_lease_goes_on_and_says_so(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Lease, "lost", "another run has acquired it")
        code, found, result = job.run()
        assert (code, found["scored"]) == (0, 4)
        assert found["lease_lost"] == "another run has acquired it"
        assert "lease was lost" in result.stderr


class TestDrift:
    """After a night."""

    def test_it_is_kept_and_judged(self, job: Job):
        limits = "[nightly.drift]\nmax-area = 0.1\nmin-maps = 0"
        job.write(nightly=limits)
        code, found, _ = job.run()
        assert (code, found["drift"]) == (0, None), "the first night"
        for number in range(8):
            job.put(f"bright{number}.png", number, darkest=250)
        day = date(2026, 11, 24)
        for status in ("first", "again"):
            code, found, result = job.run(day=day)
            assert (code, found["status"]) == (6, "drifted"), status
            assert any("of dark of all" in text for text in found["drift"])
            assert "dark" in result.stderr
        report = DriftReport.model_validate_json(Path(found["drift_report"]).read_text())
        assert (report.run.run_id, report.against.run_id) == (job.base(day), job.base()), "measured once"
        assert report.groups["new"].after.maps == 8
        job.put("more.png", 9)
        assert job.run(day=day)[0] == 6
        report = DriftReport.model_validate_json(Path(job.run(day=day)[1]["drift_report"]).read_text())
        # All runs of a date are compared with the same run.
        assert (report.run.run_id, report.against.run_id) == (f"{job.base(day)}-r3", job.base())
        job.write(nightly="[nightly.drift]\nmax-area = 1.0")
        assert job.run(day=day)[0] == 0, "today's limit counts"
        job.write(nightly="[nightly.drift]\nenabled = false")
        assert job.run(day=day)[1]["drift"] is None

    def test_what_cannot_be_measured_is_no_success_if_there_is_a_limit(self, job: Job):
        job.by_date(DAY, date(2026, 11, 24)).run()
        before = [Path(path) for path in MapTable(job.table).files()]
        job.write("rescore = true")
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["drift"], found["scored"]) == (0, [], 4)
        for path in before:
            path.unlink()
        job.write("rescore = true", "[nightly.drift]\nmax-area = 1.0")
        assert job.run(day=date(2026, 11, 24))[0] == 0, "it was measured before"
        Path(found["drift_report"]).write_text("half")
        code, failed, _ = job.run(day=date(2026, 11, 24))
        assert (code, failed["error"]["type"]) == (1, "TableError")
        job.write("rescore = true")
        code, told, result = job.run(day=date(2026, 11, 24))
        assert (code, told["drift"]) == (0, None)
        assert "drift was not measured" in result.stderr

    def test_the_command_shows_it_and_exits_with_6(self, job: Job):
        job.run()
        (job.folder / "photos" / "bad.jpg").write_bytes(b"no image")
        job.put("bright.png", 1, darkest=250)
        job.run(day=date(2026, 11, 24))
        shown = CliRunner().invoke(drift_command, [job.table])
        assert shown.exit_code == 0, shown.output
        assert job.base() in shown.stdout
        assert "dark" in shown.stdout
        assert "unknown-format: 0 before, 1 after" in shown.stdout
        judged = CliRunner().invoke(drift_command, [job.table, "--max-rejections", "5%", "--json"])
        assert judged.exit_code == 6
        report = json.loads(judged.stdout)
        assert report["exceeded"][0]["measure"] == "rejections"
        assert "rejections of all images" in judged.stderr
        wrong = CliRunner().invoke(drift_command, [job.table, "--max-area", "much"])
        assert wrong.exit_code == 2


class Hook:
    """A webhook on loopback that gives the answers of a list."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.received = list(answers), []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                code = hook.answers.pop(0) if hook.answers else 200
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/secret"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Hook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as found:
        yield found


REPORT = Report(job="photos", exit_code=0, status="done", nights=(Night(date="2026-11-23", run_id="r", table="t"),))


@pytest.mark.usefixtures("quick")
class TestTelling:
    """Webhook and metrics."""

    def test_the_webhook_gets_the_last_line(self, job: Job, hook: Hook, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HOOK", hook.address)
        job.write(nightly='webhook = "env:HOOK"')
        code, found, result = job.run()
        assert (code, found["webhook"]) == (0, "sent")
        del found["webhook"]
        assert hook.received == [found]
        assert found["text"] == "photos: done, exit code 0\n2026-11-23: done, 4 images, 4 new maps, 0 rejected"
        assert "secret" not in result.output
        with Lease(job.table, "theirs"):
            job.run(day=date(2026, 11, 24))
        assert hook.received[-1]["exit_code"] == 5
        job.run("--dry-run")
        assert len(hook.received) == 2

    def test_a_night_that_cannot_be_reported_has_failed(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        """Its maps are published; the metrics agree with the exit code."""
        monkeypatch.setattr("pipeline.jobs.notify.wait_exponential", wait_none)
        with Hook(404) as hook:
            job.write(nightly=f'webhook = "{hook.address}"\nmetrics = "photos.prom"')
            code, found, result = job.run()
        assert (code, found["status"], found["scored"]) == (1, "unreported", 4)
        assert (found["webhook"], found["metrics"]) == ("127.0.0.1 answers 404", "written")
        assert "webhook" in result.stderr
        assert samples(job.folder / "photos.prom")["densecast_nightly_exit_code", ""] == 1
        assert len(MapTable(job.table)) == 4

    @pytest.mark.parametrize(
        ("answers", "tries", "said"),
        [
            ((500, 429, 200), 3, "sent"),
            ((500, 500, 500, 200), 3, "127.0.0.1 answers 500"),
            ((404, 200), 1, "127.0.0.1 answers 404"),
            ((302, 200), 1, "127.0.0.1 answers 302"),
        ],
    )
    def test_what_may_pass_is_tried_again(self, answers: tuple[int, ...], tries: int, said: str):
        with Hook(*answers) as hook:
            assert post(hook.address, REPORT, wait_none()) == said
            assert len(hook.received) == tries

    def test_nobody_there(self, hook: Hook):
        with Hook() as gone:
            pass
        assert post(gone.address, REPORT, wait_none()) == "127.0.0.1 cannot be reached: ConnectionError"
        assert post("http://[", REPORT, wait_none()) == "the webhook cannot be reached: InvalidURL"

    def test_a_server_that_sends_a_byte_now_and_then_is_cut_off(self, monkeypatch: pytest.MonkeyPatch):
        """No wait for a byte is long; the headers never end."""
        monkeypatch.setattr("pipeline.jobs.notify._TIMEOUT_S", 0.5)
        given_up = threading.Event()

        class Drip(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                with contextlib.suppress(OSError):
                    while not given_up.wait(0.02):
                        self.wfile.write(b"y")

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            said = post(f"http://127.0.0.1:{server.server_port}/secret", REPORT, wait_none())
            ended = not given_up.is_set()
            given_up.set()
            server.shutdown()
            thread.join()
        assert ended
        assert said == "127.0.0.1 cannot be reached: ReadTimeout"

    def test_metrics_can_be_read_and_remember_the_last_success(self, job: Job):
        path = job.folder / "photos.prom"
        job.write(nightly='metrics = "photos.prom"')
        _, found, _ = job.run()
        assert found["metrics"] == "written"
        first = samples(path)
        assert first["densecast_nightly_exit_code", ""] == 0
        assert first["densecast_nightly_images", "scored"] == 4
        assert first["densecast_nightly_duration_seconds", ""] == pytest.approx(found["seconds"])
        success = first["densecast_nightly_last_success_timestamp_seconds", ""]
        assert success == pytest.approx(time.time(), abs=600)
        with Lease(job.table, "theirs"):
            job.run(day=date(2026, 11, 24))
        second = samples(path)
        assert second["densecast_nightly_exit_code", ""] == 5
        assert second["densecast_nightly_last_success_timestamp_seconds", ""] == success
        assert sorted(p.name for p in job.folder.glob("*.prom*")) == ["photos.prom"]

    def test_metrics_that_cannot_be_written_are_no_success(self, job: Job):
        (job.folder / "photos.prom").mkdir()
        job.write(nightly='metrics = "photos.prom"')
        code, found, result = job.run()
        assert (code, found["status"], found["scored"]) == (1, "unreported", 4)
        assert "cannot be written" in found["metrics"]
        assert "the metrics were not written" in result.stderr

    def test_metrics_say_whose_they_are(self, job: Job):
        job.write(nightly='name = "all photos"\nmetrics = "photos.prom"')
        job.run()
        families = text_string_to_metric_families((job.folder / "photos.prom").read_text())
        assert {sample.labels["job"] for family in families for sample in family.samples} == {"all photos"}

    @pytest.mark.parametrize("old", [b"", b"{ nonsense", b"\xff"])
    def test_a_damaged_file_is_replaced(self, tmp_path: Path, old: bytes):
        path = tmp_path / "photos.prom"
        path.write_bytes(old)
        failure = REPORT.model_copy(update={"exit_code": 1})
        assert write_metrics(str(path), failure) == "written"
        assert ("densecast_nightly_last_success_timestamp_seconds", "") not in samples(path)
        assert write_metrics(str(path), REPORT, clock=lambda: 5.0) == "written"
        assert samples(path)["densecast_nightly_last_success_timestamp_seconds", ""] == 5
        assert write_metrics(str(path), failure, clock=lambda: 6.0) == "written"
        assert samples(path)["densecast_nightly_last_success_timestamp_seconds", ""] == 5

    def test_the_line_is_one_line_and_has_the_last_night_beside_the_report(self):
        error = Failure(type="X", message="two\nlines")
        failed = Night(date="2026-11-24", run_id="r2", table="t", error=error)
        report = Report(job="j", exit_code=1, status="failed", nights=(*REPORT.nights, failed))
        found = json.loads(json.dumps(report.as_json()))
        assert (found["run_id"], found["date"], found["error"]["message"]) == ("r2", "2026-11-24", "two\nlines")
        assert "nights" not in found
        assert found["text"].splitlines()[-1] == "2026-11-24: failed, X: two"
        found = json.loads(json.dumps(report.model_copy(update={"backfill": True}).as_json()))
        assert [night["run_id"] for night in found["nights"]] == ["r", "r2"]
        assert "run_id" not in found
        found = json.loads(json.dumps(Report(job="j", exit_code=1, status="failed", error=error).as_json()))
        assert found["error"]["type"] == "X"


def test_a_text_is_short_and_cannot_call_a_channel():
    error = Failure(type="SourceError", message="<!channel> a\x1b[2Jb & c")
    nights = tuple(Night(date=f"2026-11-{day:02}", run_id="r", table="t", error=error) for day in range(1, 31))
    lines = Report(job="a<b>", exit_code=1, status="failed", nights=nights, backfill=True).text.splitlines()
    assert lines[:2] == ["a&lt;b&gt;: failed, exit code 1", "30 dates, the last of them:"]
    assert lines[-1] == "2026-11-30: failed, SourceError: &lt;!channel&gt; a\\x1b[2Jb &amp; c"
    assert len(lines) == 12


def samples(path: Path) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(path.read_text())
    return {(s.name, s.labels.get("status", "")): s.value for family in families for s in family.samples}


def test_the_exit_codes_stay():
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "REJECTED": 3,
        "DAMAGED": 4,
        "BUSY": 5,
        "DRIFTED": 6,
        "INTERRUPTED": 130,
    }
    assert click.UsageError.exit_code == ExitCode.USAGE
