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
from datetime import date
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
from pipeline.drift.measure import DriftReport
from pipeline.errors import SourceError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.nightly import find_attempt, parse_dates, run_base, run_nights
from pipeline.jobs.notify import Failure, Night, Report, post, write_metrics
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.toml_file import load_jobfile
from pipeline.table.commit import Changes, commit
from pipeline.table.lease import Lease
from pipeline.table.log import open_delta
from tests.support.fakes import METADATA, FakeEngine, write_model
from tests.support.stored_rows import MODEL_JSON, scored, write

DAY = date(2026, 11, 23)


class Job:
    """A job file, its collection and its table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "photos.toml"
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
        head = 'model = "models/current"\nimages = ["photos/**/*"]\noutput = "maps"\ntop-k = 2\n'
        self.path.write_text(f"{head}{job}\n[nightly]\n{nightly}\n")

    def base(self, day: date = DAY) -> str:
        return run_base(load_jobfile(self.path), day)

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


def publish_without_beam(job: ScoringJob) -> None:
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
    commit(job.output, changes, run_id=job.run_id, model_json=MODEL_JSON, summary=summary)


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
        job.put("new.png", 9)
        again, found, result = job.run()
        assert (again, found["status"], found["version"], found["scored"]) == (0, "done-before", 0, 4)
        assert "done before" in result.stdout
        assert len(MapTable(job.table)) == 4

    @pytest.mark.usefixtures("quick")
    def test_the_next_date_scores_what_is_new(self, job: Job):
        job.run()
        job.put("new.png", 9)
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["scored"], found["version"]) == (0, 1, 1)
        assert found["images"]["keep"] == 4
        code, found, _ = job.run(day=date(2026, 11, 25))
        assert (code, found["status"], found["scored"], found["images"]["keep"]) == (0, "done", 0, 5)

    @pytest.mark.usefixtures("quick")
    def test_force_makes_another_run(self, job: Job):
        job.run()
        job.put("new.png", 9)
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
        assert job.run()[1]["status"] == "done-before"

    @pytest.mark.usefixtures("quick")
    def test_a_run_that_died_after_its_commit_is_concluded(self, job: Job):
        job.run()
        (job.folder / "maps" / "_densecast" / "runs" / f"{job.base()}.json").unlink()
        assert find_attempt(job.table, job.base()) == (job.base(), False)
        code, found, _ = job.run()
        assert (code, found["run_id"], found["version"]) == (0, job.base(), 0)
        assert job.run()[1]["status"] == "done-before"

    @pytest.mark.usefixtures("quick")
    def test_records_of_a_table_that_is_gone_do_not_count(self, job: Job):
        job.run()
        shutil.rmtree(job.folder / "maps" / "_delta_log")
        assert find_attempt(job.table, job.base()).done is False
        assert job.run()[0] == 0
        assert len(MapTable(job.table)) == 4

    def test_too_many_rejections_exit_with_3_again_and_again(self, job: Job):
        (job.folder / "photos" / "bad.jpg").write_bytes(b"no image")
        for status in (3, 3):
            code, found, result = job.run()
            assert (code, found["status"], found["rejected"]) == (status, "rejected", 1)
            assert "more than 5.0%" in result.stderr
        code, found, _ = job.run(day=date(2026, 11, 24))
        assert (code, found["rejected"], found["images"]["still_rejected"]) == (3, 0, 1)
        job.write('max-rejected = "50%"')
        assert job.run()[0] == 0, "today's limit counts"

    def test_a_model_that_is_exchanged_is_another_from_the_next_date_on(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ):
        job.run()
        other = METADATA.model_copy(update={"digest": "e" * 64})
        (job.folder / "models" / "v2").mkdir()
        (job.folder / "models" / "v2" / "densecast.json").write_text(other.model_dump_json())
        (job.folder / "models" / "current").unlink()
        (job.folder / "models" / "current").symlink_to("v2")
        monkeypatch.setattr(FakeEngine, "metadata", other)
        assert job.run()[1]["status"] == "done-before"
        _, found, _ = job.run(day=date(2026, 11, 24))
        assert (found["model_digest"], found["scored"]) == ("e" * 64, 4)
        assert found["model"].endswith("v2")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--date", "2026-13-01"], "2026-13-01"),
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

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ('model = "none"\nimages = ["photos"]\noutput = "maps"', "ModelError"),
            ('model = "models/v1"\nimages = ["none/*.png"]\noutput = "maps"', "SourceError"),
            ('model = "models/v1"\nimages = ["photos"]\noutputs = "maps"', "JobError"),
            ('model = "models/v1"\nimages = ["photos"]\noutput = "photos.toml"', "TableError"),
            ('model = "models/v1"\nimages = ["photos"]\noutput = "photos"', "TableError"),
        ],
    )
    def test_errors_end_in_a_line_of_json_too(self, job: Job, text: str, kind: str):
        job.path.write_text(text)
        code, found, result = job.run()
        assert (code, found["status"], found["error"]["type"]) == (1, "failed", kind)
        assert result.stderr.startswith("densecast: ")
        assert not (job.folder / "photos" / "_densecast").exists(), "no lease among what is not ours"

    def test_a_bug_shows_itself_and_ends_in_a_line_of_json_too(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pipeline.jobs.nightly.run_job", lambda _: [][0])
        result = CliRunner().invoke(nightly_command, [str(job.path)])
        assert isinstance(result.exception, IndexError)
        assert json.loads(result.stdout.splitlines()[-1])["error"]["type"] == "Bug"

    @pytest.mark.usefixtures("quick")
    def test_sigterm_ends_a_run_as_an_interrupt_and_gives_the_lease_back(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ):
        def work(_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

        before = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.jobs.nightly.run_job", work)
            code, found, _ = job.run()
        assert (code, found["status"]) == (130, "interrupted")
        assert signal.getsignal(signal.SIGTERM) == before
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
        assert (found["date"], found["error"]["type"]) == ("2026-11-03", "SourceError")
        job.put("2026-11-03/a.png", 3)
        code, found, result = job.run("--backfill", "2026-11-01..2026-11-04", day=None)
        assert code == 0
        assert [night["status"] for night in found["nights"]] == ["done-before", "done-before", "done", "done"]
        assert len({night["run_id"] for night in found["nights"]}) == 4
        assert "2026-11-04" in result.stdout
        assert len(MapTable(job.table)) == 4

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


@pytest.mark.usefixtures("quick")
class TestDryRun:
    """Nothing is written."""

    def test_it_says_what_would_be_done(self, job: Job):
        before = job.files()
        code, found, result = job.run("--dry-run")
        assert (code, found["status"], found["version"], found["run_id"]) == (0, "planned", None, job.base())
        assert "would run" in result.stdout
        assert "no table yet" in result.stdout
        assert METADATA.digest in result.stdout
        assert job.files() == before
        job.run()
        before = job.files()
        _, found, result = job.run("--dry-run", "--backfill", "2026-11-23..2026-11-24", day=None)
        assert [night["status"] for night in found["nights"]] == ["done-before", "planned"]
        assert found["version"] == 0
        assert job.files() == before

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

    def test_a_date_that_is_done_needs_no_lease(self, job: Job):
        job.run()
        with Lease(job.table, "theirs"):
            assert job.run()[1]["status"] == "done-before"

    def test_who_waited_for_the_lease_does_not_repeat_the_work(self, job: Job, monkeypatch: pytest.MonkeyPatch):
        """The other run publishes between the first look and the lease."""
        other = load_jobfile(job.path)

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
        assert (report.run.run_id, report.against.run_id) == (job.base(day), job.base())
        assert report.groups["new"].after.maps == 8
        job.write(nightly="[nightly.drift]\nmax-area = 1.0")
        assert job.run(day=day)[0] == 0, "today's limit counts"
        job.write(nightly="[nightly.drift]\nenabled = false")
        assert job.run(day=day)[1]["drift"] is None

    def test_what_cannot_be_measured_is_no_success_if_there_is_a_limit(self, job: Job):
        job.run()
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
        assert hook.received == [{**found, "webhook": None}]
        assert "secret" not in result.output
        with Lease(job.table, "theirs"):
            job.run(day=date(2026, 11, 24))
        assert hook.received[-1]["exit_code"] == 5
        job.run("--dry-run")
        assert len(hook.received) == 2

    def test_a_webhook_that_fails_changes_no_exit_code(self, job: Job):
        job.write(nightly='webhook = "env:NO_SUCH_VARIABLE"')
        code, found, result = job.run()
        assert (code, found["status"]) == (0, "done")
        assert found["webhook"] == "the variable NO_SUCH_VARIABLE is not set"
        assert "webhook" in result.stderr

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

    def test_metrics_that_cannot_be_written_change_no_exit_code(self, job: Job):
        job.write(nightly='metrics = "no/such/photos.prom"')
        code, found, result = job.run()
        assert code == 0
        assert "cannot be written" in found["metrics"]
        assert "the metrics were not written" in result.stderr

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
        (line,) = report.line().splitlines()
        found = json.loads(line)
        assert (found["run_id"], found["date"], found["error"]["message"]) == ("r2", "2026-11-24", "two\nlines")
        assert json.loads(Report(job="j", exit_code=1, status="failed", error=error).line())["error"]["type"] == "X"


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
