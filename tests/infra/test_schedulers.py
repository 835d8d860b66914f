"""systemd, cron and Airflow: each file is read by its reader, and a night's end means the same to all of them."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import shutil
import subprocess
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest

from pipeline.exit_codes import ExitCode
from pipeline.jobs.toml_file import load_jobfile
from tests.infra.tools import INFRA, run, tool, tools_python

UNITS = ("densecast-nightly.service", "densecast-nightly.timer")
FINAL = {ExitCode.USAGE, ExitCode.REJECTED, ExitCode.DAMAGED, ExitCode.DRIFTED}


def test_the_job_file_is_one():
    job = load_jobfile(INFRA / "systemd/job.toml").job(date(2026, 11, 23))
    assert job.output.startswith("/srv/densecast/")


# --- systemd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with systemd's own units, ours, and an executable where densecast is to be."""
    command = tmp_path / "opt/densecast/bin/densecast"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    tool("systemd-analyze")
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    for name in UNITS:
        shutil.copy(INFRA / "systemd" / name, tmp_path / "etc/systemd/system")
    return tmp_path


def verify(root: Path) -> tuple[int, str]:
    result = run(tool("systemd-analyze"), "verify", f"--root={root}", "--man=no", *UNITS)
    return result.returncode, result.stdout


def test_systemd_reads_the_units_without_a_word(root: Path):
    assert verify(root) == (0, "")


@pytest.mark.parametrize(
    ("unit", "line", "said"),
    [
        (UNITS[0], "Typ=oneshot", "'Typ'"),
        (UNITS[0], "ExecStart=/opt/densecast/bin/dense", "is not executable"),
        (UNITS[1], "OnCalendar=nightly", "Failed to parse calendar specification"),
    ],
)
def test_systemd_would_not_read_anything(root: Path, unit: str, line: str, said: str):
    file = root / "etc/systemd/system" / unit
    file.write_text(re.sub(rf"^{line[:3]}.*$", line, file.read_text(), count=1, flags=re.MULTILINE))
    assert said in verify(root)[1]


def test_the_service_is_shut_in():
    """systemd's own judgement: 0 is sealed, 10 is wide open; below 2 is "OK" with nothing of weight left."""
    service = INFRA / "systemd" / UNITS[0]
    result = run(tool("systemd-analyze"), "security", "--offline=yes", "--threshold=20", service)
    assert result.returncode == 0, result.stdout


def settings(unit: str) -> dict[str, str]:
    lines = (INFRA / "systemd" / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_systemd_knows_the_exit_codes():
    found = settings(UNITS[0])
    assert "SuccessExitStatus" not in found, "0 alone: a night that was turned away has done nothing"
    assert {int(code) for code in found["RestartPreventExitStatus"].split()} == FINAL
    assert found["Restart"] == "on-failure"


@pytest.mark.parametrize(
    ("zone", "noon"),
    [
        ("Europe/Berlin", "2026-03-27"),
        ("Europe/Berlin", "2026-10-23"),
        ("America/New_York", "2026-03-06"),
        ("America/Santiago", "2026-09-04"),
        ("Africa/Cairo", "2026-04-22"),
    ],
)
def test_the_timer_leaves_out_no_day_on_which_clocks_change(zone: str, noon: str):
    """systemd itself computes the next times; 02:30 in local time is left out when summer time begins in Berlin."""

    def nights(specification: str) -> list[date]:
        base = f"--base-time={noon} 12:00:00 UTC"
        command = (tool("systemd-analyze"), "calendar", base, "--iterations=4", specification)
        output = run(*command, env={**os.environ, "TZ": zone}).stdout
        days = re.findall(r"\(in UTC\): \w+ ([\d-]+) ", output)
        return [date.fromisoformat(day) for day in days]

    found = nights(settings(UNITS[1])["OnCalendar"])
    assert found == [date.fromisoformat(noon) + timedelta(days=number) for number in (1, 2, 3, 4)]
    if (zone, noon) == ("Europe/Berlin", "2026-03-27"):
        assert date(2026, 3, 29) not in nights("*-*-* 02:30:00"), "what this test is for"


def test_the_service_takes_the_date_in_the_zone_of_its_timer():
    assert settings(UNITS[1])["OnCalendar"].endswith(" UTC")
    assert "\nEnvironment=TZ=UTC\n" in (INFRA / "systemd" / UNITS[0]).read_text()


def test_the_service_can_write_where_its_job_writes():
    found, job = settings(UNITS[0]), load_jobfile(INFRA / "systemd/job.toml")
    assert found["ProtectSystem"] == "strict"
    assert Path(str(job.values["output"])).is_relative_to(found["ReadWritePaths"])
    assert found["ExecStart"].split()[1:] == ["nightly", "/etc/densecast/job.toml"]


# --- cron


def crontab() -> tuple[str, str, str]:
    """The one line of the crontab: when, who, what."""
    lines = (INFRA / "cron/densecast-nightly").read_text().splitlines()
    (line,) = (line for line in lines if re.match(r"[0-9*]", line))
    *when, who, what = line.split(maxsplit=6)
    return " ".join(when), who, what


def test_cron_starts_it_once_a_night():
    code = (
        "import sys, datetime as dt; from cronsim import CronSim; "
        "times = CronSim(sys.argv[1], dt.datetime(2026, 11, 23, 12)); print([str(next(times)) for _ in range(2)])"
    )
    result = run(tools_python(), "-c", code, crontab()[0])
    assert result.stdout.strip() == "['2026-11-24 04:30:00', '2026-11-25 04:30:00']"


def test_cron_starts_it_at_an_hour_that_exists_once_on_every_day():
    """cron reads local time. A time that clocks skip or repeat has two offsets from UTC."""
    minute, hour, *rest = crontab()[0].split()
    assert rest == ["*", "*", "*"]
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(730)]
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for day in days:
            start = datetime.combine(day, time(int(hour), int(minute)), zone)
            assert start.utcoffset() == start.replace(fold=1).utcoffset(), start


def test_the_crontab_is_a_file_that_cron_takes():
    """run-parts' rules for names, a newline at the end, and no %, which cron makes a newline of."""
    text = (INFRA / "cron/densecast-nightly").read_text()
    assert text.endswith("\n")
    assert "%" not in crontab()[2]
    assert re.fullmatch(r"[a-z0-9-]+", (INFRA / "cron/densecast-nightly").name)


def night(tmp_path: Path, code: int) -> subprocess.CompletedProcess[str]:
    """Runs cron's line with a `densecast` that says a line and exits with `code`."""
    stand_in = tmp_path / "densecast"
    stand_in.write_text(f'#!/bin/sh\necho "densecast $*"\nexit {code}\n')
    stand_in.chmod(0o755)
    what = crontab()[2].replace("/var/log/densecast", str(tmp_path)).replace("/var/lib/densecast", str(tmp_path))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return run("/bin/sh", "-c", what, env=environment)


def test_cron_mails_nothing_of_a_night_that_went_well(tmp_path: Path):
    assert night(tmp_path, 0).stdout == ""
    assert (tmp_path / "nightly.log").read_text() == "densecast nightly /etc/densecast/job.toml\n"


def test_cron_mails_the_exit_code_of_one_that_did_not(tmp_path: Path):
    assert "exit code 6," in night(tmp_path, 6).stdout


def test_cron_leaves_a_night_alone_that_is_still_at_work(tmp_path: Path):
    with open(tmp_path / "nightly.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"exit code {ExitCode.BUSY}," in night(tmp_path, 0).stdout
    assert (tmp_path / "nightly.log").read_text() == ""


# --- Airflow; infra/airflow/test runs the DAG with a real one


def dag() -> ast.Module:
    return ast.parse((INFRA / "airflow/densecast_nightly.py").read_text())


def constant(name: str) -> Any:
    (found,) = (
        node.value
        for node in dag().body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    )
    return ast.literal_eval(found)


def test_airflow_knows_the_exit_codes():
    assert set(constant("FINAL")) == FINAL
    assert constant("BUSY") == ExitCode.BUSY


def test_airflow_starts_it_when_systemd_does():
    (timetable,) = (
        node
        for node in ast.walk(dag())
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CronTriggerTimetable"
    )
    minute, hour, *_ = ast.literal_eval(timetable.args[0]).split()
    assert settings(UNITS[1])["OnCalendar"] == f"*-*-* {int(hour):02}:{int(minute):02}:00 UTC"
    assert [ast.literal_eval(keyword.value) for keyword in timetable.keywords] == ["UTC"]


def test_airflow_reads_the_job_that_the_others_read():
    path = settings(UNITS[0])["ExecStart"].split()[-1]
    assert path in (node.value for node in ast.walk(dag()) if isinstance(node, ast.Constant))
    assert path in crontab()[2].split()
