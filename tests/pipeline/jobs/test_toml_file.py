"""Job files: what they may say, and what they mean."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.jobs.toml_file import dated, load_jobfile
from pipeline.maps.recipe import Form

DAY = date(2026, 11, 3)
GOOD = 'model = "model"\nimages = ["photos/"]\noutput = "maps"\n'


def load(folder: Path, text: str):
    path = folder / "photos.toml"
    path.write_text(text)
    return load_jobfile(path)


def test_all_that_a_job_may_say(tmp_path: Path):
    file = load(
        tmp_path,
        """
        model = "models/current"
        images = ["{date:%Y/%m}/*.jpg", "@lists/{date}.csv", "s3://bucket/{date}/", "/abs/a.tar", "https://host/a.jpg"]
        output = "maps"
        top-k = 3
        scores = "log-uint8"
        max_rejected = "1%"
        scales = [1, 0.5]
        resize = [300, 400]
        prune = true
        allow-empty = true
        beam-options = ["--job_name=x"]
        device = "gpu:1"
        precision = "bfloat16"
        max-parity-error = 0.05
        max-parity-flips = "2%"
        xla = true
        xla-shapes = 3

        [nightly]
        name = "all photos"
        webhook = "env:HOOK"
        metrics = "metrics/photos.prom"
        lease-minutes = 5
        lease-wait-minutes = 60
        [nightly.drift]
        max-area = "5%"
        max_rejections = 0.01
        min-maps = 7
        """,
    )
    job = file.job(DAY, run_id="r")
    assert job.model == str(tmp_path / "models/current")
    assert job.images == (
        f"{tmp_path}/2026/11/*.jpg",
        f"@{tmp_path}/lists/2026-11-03.csv",
        "s3://bucket/2026-11-03/",
        "/abs/a.tar",
        "https://host/a.jpg",
    )
    assert job.output == str(tmp_path / "maps")
    assert (job.recipe.top_k, job.recipe.scores, job.policy.max_rejected) == (3, Form.LOG_UINT8, 0.01)
    assert (job.recipe.scales, job.recipe.resize, job.policy.prune) == ((1.0, 0.5), (300, 400), True)
    assert (job.recipe.precision, job.map_recipe().precision) == ("bfloat16", "bfloat16")
    assert job.policy.allow_empty
    assert job.run_id == "r"
    execution = job.execution
    assert (execution.beam_options, execution.device) == (("--job_name=x",), "gpu:1")
    assert (execution.max_parity_error, execution.max_parity_flips) == (0.05, 0.02)
    assert (execution.xla, execution.xla_shapes) == (True, 3)
    assert file.name == "all photos"
    assert (file.nightly.webhook, file.nightly.lease_minutes) == ("env:HOOK", 5)
    assert file.nightly.lease_wait_minutes == 60
    assert file.is_dated
    assert file.nightly.metrics == str(tmp_path / "metrics/photos.prom")
    drift = file.nightly.drift
    assert (drift.max_area, drift.max_rejections, drift.max_confidence, drift.min_maps) == (0.05, 0.01, None, 7)
    assert drift.enabled


def test_a_short_one(tmp_path: Path):
    file = load(tmp_path, 'model = "/m"\nimages = "photos/"\noutput = "s3://bucket/maps/{date}"\n')
    job = file.job(DAY)
    assert job.images == (f"{tmp_path}/photos/",), "a folder keeps its slash"
    assert job.output == "s3://bucket/maps/2026-11-03"
    assert file.name == "photos"
    assert not file.is_dated, "the date in the output says nothing about the images"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "topk = 3", ["topk", "did you mean top-k?"]),
        (GOOD + "colour = 3", ["colour", "images"]),
        (GOOD + "top-k = 3\ntop_k = 3", ["twice"]),
        (GOOD + 'run-id = "x"', ["run-id"]),
        (GOOD + "top-k = 0", ["top_k"]),
        (GOOD + 'scores = "float64"', ["scores"]),
        (GOOD + "[nightly]\nwebhok = 1", ["nightly.webhok", "did you mean webhook?"]),
        (GOOD + "[nightly.drift]\nmax-aera = 1", ["nightly.drift.max-aera", "max-area"]),
        (GOOD + "[nightly.drift]\nmax-area = 2", ["max_area"]),
        (GOOD + '[nightly.drift]\nmax-area = "much"', ["max_area", "not a share"]),
        (GOOD + 'max-rejected = "many"', ["photos.toml", "max_rejected", "not a share"]),
        (GOOD + "nightly = 3", ["nightly", "table"]),
        (GOOD + "[nightly]\nlease-minutes = -1", ["lease_minutes"]),
        (GOOD + "[nightly]\nlease-minutes = inf", ["lease_minutes"]),
        (GOOD + "[nightly]\nlease-minutes = 1e300", ["lease_minutes"]),
        (GOOD + "[nightly]\nlease-minutes = 10081", ["lease_minutes"]),
        (GOOD + '[nightly]\nmetrics = "metrics.txt"', [".prom"]),
        (GOOD + '[nightly]\nwebhook = "host/path"', ["https://"]),
        (GOOD.replace("photos/", "{dat}/"), ["{dat}", "{date}"]),
        (GOOD.replace("photos/", "{date:%Y-%Q}/"), ["%Q", "{date:%Y-%m-%d}"]),
        (GOOD.replace("photos/", "{date:%Y-%M-%d}/"), ["%M", "%m is the month"]),
        (GOOD.replace("photos/", "{date:%Y%}/"), ["%", "part of a date"]),
        (GOOD.replace("photos/", "{date:YYYY}/"), ["{date:YYYY}", "same for every date"]),
        (GOOD.replace("photos/", "{date:%%}/"), ["same for every date"]),
        (GOOD + "[nightly]\nlease-wait-minutes = inf", ["lease_wait_minutes"]),
        (GOOD + "[nightly]\nlease-wait-minutes = 1e300", ["lease_wait_minutes"]),
        (GOOD.replace("maps", "maps/{}"), ["{}"]),
        ('images = ["a"]\noutput = "o"', ["model"]),
        ('model = "m"\noutput = "o"', ["images"]),
        ('model = "m"\nimages = ["a"]', ["output"]),
        (GOOD.replace('["photos/"]', "[3]"), ["images"]),
        (GOOD.replace('"model"', "3"), ["model"]),
        ("model = ", ["TOML", "Invalid value"]),
        ('model = "m"\nmodel = "n"', ["TOML"]),
    ],
)
def test_what_is_wrong_is_said_when_the_file_is_read(tmp_path: Path, text: str, words: list[str]):
    with pytest.raises(JobError) as caught:
        load(tmp_path, text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(JobError, match="cannot be read"):
        load_jobfile(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'model = "caf\xe9"')
    with pytest.raises(JobError, match="not TOML"):
        load_jobfile(tmp_path / "latin.toml")


class TestIdentity:
    """What makes a date's run another one."""

    @pytest.mark.parametrize(
        ("lines", "identity"),
        [
            ("", "f8b130a3"),
            ('device = "cpu"\nxla-shapes = 3', "f8b130a3"),
            ("scales = [1,0.5]", "c964d07b"),
            ('features = ["fc7:float16","a"]', "6cedd8ab"),
            ("retry-rejected = true\nresize = [300, 400]", "9711a01d"),
            ("xla = true\nmax-image-bytes = 1000", "bd6cd063"),
        ],
    )
    def test_it_is_that_of_version_0_1(self, tmp_path: Path, lines: str, identity: str):
        """So dates that are done stay done after an update."""
        text = f'model = "/m"\nimages = ["/photos/", "@/l{{date}}.csv"]\noutput = "/maps"\n{lines}'
        assert load(tmp_path, text).identity == identity

    def test_what_changes_the_maps_changes_it(self, tmp_path: Path):
        changes = [
            "top-k = 3",
            'precision = "float16"',
            "rescore = true",
            "scales = [2]",
            "max-pixels = 9",
            'accuracy-bound = "0.1"',
        ]
        texts = [GOOD, *(f"{GOOD}{line}\n" for line in changes), GOOD.replace("photos", "{date}")]
        found = [load(tmp_path, text).identity for text in [*texts, GOOD.replace('"maps"', '"others"')]]
        assert len(set(found)) == len(found)
        assert all(len(identity) == 8 for identity in found)

    def test_what_changes_how_it_is_run_does_not(self, tmp_path: Path):
        changes = [
            'runner = "FlinkRunner"\nflink-master = "f:1"',
            'max-rejected = "9%"',
            "top-k = 5",
            '[nightly]\nname = "x"',
            "decode-timeout = 9",
            'device = "gpu"',
            "xla = true",
            "max-parity-error = 0.1",
        ]
        assert {load(tmp_path, f"{GOOD}{line}\n").identity for line in ["", *changes]} == {
            load(tmp_path, GOOD).identity
        }


@given(st.dates(), st.text("abc/*{}%Y:,-", max_size=12))
def test_only_places_for_dates_are_filled(day: date, text: str):
    if "{" not in text or "}" not in text:
        assert dated(text, day) == text
    assert dated("a{date}b", day) == f"a{day.isoformat()}b"
    assert dated("{date:%Y}{date:%d}", day) == f"{day:%Y}{day:%d}"
    assert dated("{date:%-d}/{date:%j%%}", day) == f"{day.day}/{day:%j}%"


def test_a_file_that_is_nested_deeply(tmp_path: Path):
    (tmp_path / "job.toml").write_text("model = " + "[" * 100_000)
    with pytest.raises(JobError, match=r"nested too deeply|not TOML"):
        load_jobfile(tmp_path / "job.toml")
