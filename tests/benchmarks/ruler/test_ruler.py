"""The whole ruler on a small net, with what the environment of the development has."""

import io
import json
import sys

import pytest
from rich.console import Console

from models import entry
from tests.benchmarks.ruler.children import Child, LeftOutError, entrants
from tests.benchmarks.ruler.nets import DAILY, EVERYTHING, Cell
from tests.benchmarks.ruler.report import Wanted, report

ABSENT = "/no/such/python"
_DIES = """
import sys
print('{"version": "brittle", "held_mb": 1, "peak_mb": 1}', flush=True)
sys.stdin.readline()
print("it broke", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nets")


def installed() -> list:
    """One of our engines, which start like each other, and all peers: their environment as if it was not there."""
    here = {sys.executable}
    known = [each for each in entrants() if each.kind != "ours" or each.label == "densecast onnxruntime"]
    return [e if e.command[0] in here else e._replace(command=[ABSENT], convert=[ABSENT]) for e in known]


def test_the_dense_net_is_measured_by_all_who_are_there(folder):
    said = io.StringIO()
    wanted = Wanted([Cell("digits", 1, 40)], 1, folder / "figures.json", folder / "figures.svg", installed())
    [outcome] = report(folder, Console(file=said, width=200), wanted)
    there = {each.label: each.kind for each in outcome.contestants}
    assert there.items() >= {
        ("densecast onnxruntime", "ours"),
        ("ONNX Runtime", "peer"),
        ("OpenCV", "peer"),
        ("matrix product", "peak"),
    }
    for each in outcome.contestants:
        assert len(each.turns) == 1
        assert 0 < each.held_mb <= each.peak_mb
        assert each.kind == "peak" or (each.difference is not None and each.difference < 1e-5)
    assert {"OpenVINO", "MNN", "ncnn"} <= set(outcome.left_out)
    assert {*there, *outcome.left_out} == {entrant.label for entrant in wanted.entrants}
    assert "MNN is left out: not installed: tests/benchmarks/install makes .venv-peers" in said.getvalue()
    assert json.loads((folder / "figures.json").read_text())["cells"][0]["net"] == "digits"
    assert (folder / "figures.svg").exists()


def test_at_its_own_size_peers_take_the_classifier_also_in_batches(folder):
    peers = [each for each in installed() if each.kind == "peer"]
    [outcome] = report(folder, Console(file=io.StringIO()), Wanted([Cell("digits", 3, 0)], 1, entrants=peers))
    assert {each.label for each in outcome.contestants} == {"ONNX Runtime", "OpenCV"}
    assert outcome.side == entry("digits").crop
    assert (folder / "digits-classifier.onnx").exists()


def test_a_process_that_dies_says_why():
    child = Child([sys.executable, "-c", _DIES], {})
    try:
        with pytest.raises(LeftOutError, match="ends with status 3: it broke"):
            child.ask(run=0.1)
    finally:
        child.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [({"missing": "no wheel"}, "not installed: no wheel"), ({"error": "a bad net"}, "refuses: a bad net")],
)
def test_who_cannot_take_part_says_why(answer, reason):
    with pytest.raises(LeftOutError, match=reason):
        Child([sys.executable, "-c", f"print({json.dumps(answer)!r})"], {})


def test_everyday_cells_are_caffenet_at_all_sizes_and_the_others_at_one():
    assert [str(cell) for cell in DAILY[:2]] == [
        "BVLC Reference CaffeNet, 227 x 227, batch 1",
        "BVLC Reference CaffeNet, 227 x 227, batch 10",
    ]
    assert (len(DAILY), len(EVERYTHING)) == (10, 30)
    assert {(cell.batch, cell.pixels) for cell in DAILY if cell.net != "caffenet"} == {(1, 451)}
