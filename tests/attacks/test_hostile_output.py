"""Names and labels that write over the terminal of whoever lists them: every command prints them escaped."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import conversion
from conversion import VerificationMetadata
from conversion.errors import DensecastError
from pipeline.cli.main import main
from pipeline.errors import InterruptedRunError
from pipeline.jobs.run import JobResult
from pipeline.settings import Rounding
from pipeline.table import diff
from pipeline.table.commit import Changes, commit
from pipeline.table.schema import IDENTITY
from pipeline.table.summaries import RunSummary
from pipeline.tools.benchmark import BenchReport, DenseClaim
from pipeline.tools.crops import CropsReport
from pipeline.tools.verify import VerifyReport
from pipeline.tools.verify_runner import Night, RunReport, TrialReport
from tests.support import fakes, maintained
from tests.support.command_table import all_commands
from tests.support.golden_cases import GOLDEN

_MARKS = "\x1b[2J\x1b]0;owned\x07\r\nFORGED\nFORGED\tline\u202egpj\u2028\x85\x9b31m\x7f\b[red]a[/z]b[/]:cat:"
NAME = f"n{_MARKS}{'x' * 4096}"
LONE = f"{NAME}\udcff"
FILE = NAME[:200].replace("/", "|")
"""What a file system takes."""
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")

Capture = pytest.CaptureFixture[str]
Printed = Callable[..., str]


@pytest.fixture
def printed(capsys: Capture) -> Printed:
    """Runs a command and returns what it printed, after all was examined."""

    def run(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        for text, start in ((out, " *FORGED"), (err, "FORGED")):  # later lines of an error are indented
            assert not _RAW.findall(text)
            assert not re.findall(f"^{start}", text, re.MULTILINE)
            assert "Traceback" not in text
        return out + err

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two runs with hostile images, ids, labels, features and details, and a foreign file; one part is damaged."""
    root = tmp_path / "[red]maps[[]"
    for number, run in enumerate(("r1", "r2")):
        gone = maintained.rejected(f"gone{number} {NAME}", run)
        rows = [maintained.scored(f"{number} {NAME}", run), dataclasses.replace(gone, detail=NAME)]
        changes = Changes(number - 1, maintained.write(root, rows, run))
        model = {"digest": maintained.MODEL, "labels": [f"{label} {NAME}" for label in "abcd"]}
        commit(str(root), changes, run_id=run, model_json=model, summary={"images": {"listed": 2}})
    (root / FILE).write_bytes(b"")
    return root


def test_every_command_is_in_this_module() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    missing = [name for name, _ in all_commands() if ", ".join(f'"{word}"' for word in name.split()) not in text]
    assert not missing


def test_listings_of_a_table(table: Path, printed: Printed) -> None:
    assert printed("rejected", table).splitlines()[0] == "image\treason\tdetail"
    assert NAME in json.loads(printed("rejected", table, "--json"))[0]["uri"]
    assert "x1b[2J" in printed("show", table, f"0 {NAME}")
    for arguments in (("drift", table), ("drift", table, "--json"), ("runs", table), ("runs", table, "--json")):
        printed(*arguments)
    assert "[red]a[/z]b" in printed("drift", table)
    printed("drift", table, "--run", LONE, code=1)
    printed("show", table, LONE, code=1)


def test_exports_and_comparisons(table: Path, tmp_path: Path, printed: Printed) -> None:
    printed("export", table, tmp_path / "maps.npz", "--blob", LONE, code=1)
    printed("export", FILE, tmp_path / "net.onnx", code=2)
    printed("export", FILE, tmp_path / "maps.npz", code=1)
    printed("export", table, tmp_path / "maps.npz")
    printed("compare", table, tmp_path / "maps.npz", "--json")
    printed("compare", table, tmp_path / "maps.npz")
    printed("compare", table, FILE, code=1)


def test_run_ids_and_models_of_summaries(table: Path, printed: Printed) -> None:
    [path] = table.glob("_densecast/runs/r2.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": LONE, "model_digest": LONE}))
    assert "[red]a[/z]b" in printed("runs", table)
    assert json.loads(printed("runs", table, "--json"))[1]["run_id"] == LONE


def test_maintenance_of_a_table(table: Path, printed: Printed) -> None:
    part = maintained.files(table)[0]
    damaged = maintained.with_column(pq.read_table(part), "map_digest", 0, "0" * 64)
    maintained.replace(table, part, damaged)
    assert "x1b[2J" in printed("check", table, code=4)
    json.loads(printed("check", table, "--json", code=4))
    printed("compact", table)
    printed("vacuum", table, "--dry-run")
    printed("vacuum", table, "--json")
    assert "x1b[2J" in printed("vacuum", table)


def test_restore(table: Path, printed: Printed) -> None:
    printed("restore", table, "--version", 0, "--dry-run")
    assert "[red]" in printed("restore", table, "--version", 0)
    json.loads(printed("restore", table, "--version", 1, "--json"))
    printed("runs", table)


def test_models_and_networks(tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    net = f'name: "[red]a[/z]b" input: "data" input_shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }}\n{_layer("[/z][red]:cat:")}'
    definition = tmp_path / FILE
    definition.write_text(net, encoding="utf-8")
    assert "[/z][red]:cat:" in printed("inspect", definition)
    json.loads(printed("inspect", definition, "--json"))
    printed("inspect", LONE.replace("/", "|"), code=1)
    model = fakes.write_model(tmp_path / "model")
    hostile = fakes.METADATA.model_copy(
        update={"name": NAME, "labels": (NAME,) * 4, "features": {NAME: 1}, "notes": (NAME,), "output_blob": "prob"}
    )
    (model / "densecast.json").write_text(hostile.model_dump_json())
    (model / conversion.NETWORK_FILE).write_text(net.replace('"b"', '"prob"'), encoding="utf-8")
    assert "x1b[2J" in printed("inspect", model)
    assert json.loads(printed("inspect", model, "--json"))["model"]["labels"][0] == NAME
    for arguments in (
        ("cast", FILE, "--output-prototxt", tmp_path / "p"),
        ("upgrade", FILE, "-o", tmp_path / "p"),
        ("models", "fetch", LONE),
        ("models", "random", LONE, "-o", tmp_path / "p"),
        ("score", FILE, NAME, "-o", FILE),
    ):
        printed(*arguments, code=1)
    printed("models", "list")
    # Not setattr, which would look at the real one and so import TensorFlow.
    monkeypatch.setattr("pipeline.cli.commands.model.need_tensorflow", lambda: None)
    monkeypatch.setitem(vars(conversion), "convert", lambda *_, **__: hostile)
    weights = GOLDEN / "nets" / "lenet_small" / "net.caffemodel"
    assert "x1b[2J" in printed("convert", definition, weights, "-o", model, "--overwrite")
    printed("models", "seal", FILE, code=1)


def test_reports(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    printed("verify", FILE, "--crops", code=1)
    printed("bench", FILE, code=1)
    claim = DenseClaim(map_size=[8, 8], map_ms=1, window_ms=1, crops_ms=1, crops_batch=1)
    bench = BenchReport(model=LONE, engine=LONE, peak_gflops=1, repeats=1, timings=[], claim=claim)
    monkeypatch.setattr("pipeline.tools.benchmark.bench", lambda *_, **__: bench)
    assert "[red]a[/z]b" in printed("bench", "model")
    assert json.loads(printed("bench", "model", "--json"))["model"] == LONE

    caffe = VerificationMetadata(blobs=1, sizes=((1, 8, 8),), tolerance=1.0, worst=0.0, worst_blob=LONE)
    crops = CropsReport(images=1, cells=1, largest=0, mean=0, mean_total_variation=0, changed=0)
    verified = VerifyReport(caffe=caffe, crops=crops)
    monkeypatch.setattr("pipeline.tools.verify.verify_model", lambda *_, **__: verified)
    assert "[red]a[/z]b" in printed("verify", "model", "--crops")

    run = RunReport(run_id=LONE, seconds=1, scored=1, rejected=1, images={LONE: 1}, reasons={LONE: 1}, counters=None)
    empty = pads.dataset(pa.table({name: [] for name in IDENTITY}))
    tables = diff.compare(empty, empty)
    night = Night(there=run, here=run, tables=tables, damage=(LONE,), promise=Rounding.EXACT)
    trial = TrialReport(
        runner=LONE, about={LONE: LONE}, flags=(LONE,), versions={}, folder=LONE, nights=(night,), equal=False
    )
    monkeypatch.setattr("pipeline.tools.verify_runner.try_runner", lambda *_, **__: trial)
    assert "[red]a[/z]b" in printed("verify-runner", "--runner", "x", code=1)

    def demo(folder: Path, pages: int, seed: int, say: Callable[[str], None]) -> None:
        say(f"{folder} {pages} {seed} {LONE}")

    monkeypatch.setattr("pipeline.tools.demo.run_demo", demo)
    assert "[red]a[/z]b" in printed("demo", "-o", LONE)


def test_a_scoring_run(tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = RunSummary(LONE, 1, 1, 1, {"listed": 2}, {LONE: 1}, {}, {LONE: 1})
    monkeypatch.setattr("pipeline.jobs.run.run_job", lambda _: JobResult(summary, 1.0, failed=True, left_out={LONE: 1}))
    arguments = ("score", "model", LONE, "-o", tmp_path / FILE)
    assert "[red]a[/z]b" in printed(*arguments, code=3)
    assert json.loads(printed(*arguments, "--json", code=3).splitlines()[0])["run_id"] == LONE
    for error, code in (
        (DensecastError(LONE, where=LONE, why=LONE, remedy=LONE), 1),
        (InterruptedRunError(LONE, where=LONE), 130),
        (FileNotFoundError(2, LONE, LONE), 1),
    ):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("pipeline.jobs.run.run_job", fail)
        printed(*arguments, code=code)


def test_nights(tmp_path: Path, printed: Printed) -> None:
    model = fakes.write_model(tmp_path / "model")
    job = tmp_path / f"{FILE}.toml"
    images = tmp_path / f"{FILE} photos"
    images.mkdir()
    (images / "a.png").write_bytes(b"")
    values = {"model": str(model), "images": [str(images)], "output": str(tmp_path / "maps [red]")}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    job.write_text(f"{text}[nightly]\nname = {json.dumps(NAME)}\n")
    lines = printed("nightly", job, "--dry-run").splitlines()
    assert [json.loads(line)["job"] for line in lines if line.startswith("{")] == [NAME]
    job.write_text(text.replace(json.dumps([str(images)]), json.dumps([NAME])))
    printed("nightly", job, "--dry-run", code=1)
    (model / "densecast.json").unlink()
    printed("nightly", job, code=1)
    printed("nightly", LONE, code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        (LONE,),
        (f"--{LONE}",),
        ("rejected", "a", LONE),
        ("score", "--device", LONE),
        ("score", "model", "photos", "-o", "maps", "--top-k", LONE),
        ("nightly", "--date", LONE, "job.toml"),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], printed: Printed) -> None:
    printed(*arguments, code=2)


def _layer(name: str) -> str:
    return f'layer {{ name: "{name}" type: "Softmax" bottom: "data" top: "b" }}'
