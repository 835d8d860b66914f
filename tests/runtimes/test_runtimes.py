"""The ONNX form in ONNX Runtime, OpenCV 5 and OpenVINO: nothing is wrong but what docs/onnx-runtimes.md lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from conversion import evaluate, load_network
from models import CatalogEntry, entries
from tests.runtimes.cases import SMALL_NETS, catalog_net, golden, tempered
from tests.runtimes.compare import PYTHON, ROOT, RUNTIMES, Case, case_of, outcomes
from tests.runtimes.table import BEGIN, END, read, render
from tests.support.definitions import network
from tests.support.golden_cases import GOLDEN

PAGE = ROOT / "docs" / "onnx-runtimes.md"
NEEDED = os.environ.get("DENSECAST_RUNTIMES") == "required"
installed = pytest.mark.skipif(
    not PYTHON.exists() and not NEEDED, reason=f"{PYTHON.parents[1].name} is not there: tests/runtimes/install makes it"
)


def assert_as_listed(cases: list[Case], folder: Path, runtimes: Sequence[str] = RUNTIMES) -> None:
    listed = read()["wrong"]
    for runtime, wrong in outcomes(cases, folder, runtimes).items():
        assert {case: text for case, text in wrong.items() if case not in listed[runtime]} == {}, runtime


@installed
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["layers", "nets", "dialects"])
def test_golden_cases(kind: str, runtime: str, tmp_path: Path) -> None:
    assert_as_listed(golden(kind), tmp_path, [runtime])


@installed
@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, marks=() if e.name in SMALL_NETS else pytest.mark.large, id=e.name) for e in entries()],
)
def test_nets_of_the_catalog(entry: CatalogEntry, tmp_path: Path) -> None:
    assert_as_listed([catalog_net(entry)], tmp_path)


_GATED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "excite" type: "Convolution" bottom: "pool" top: "excite"
  convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "gate" type: "Sigmoid" bottom: "excite" top: "gate" }
layer { name: "axpy" type: "Axpy" bottom: "gate" bottom: "conv" bottom: "conv" top: "axpy" }
"""


def test_tempered_weights_keep_what_gates_take_small() -> None:
    """In a net with squeeze-and-excitation, whose random weights alone let the values grow from block to block."""
    net = network(_GATED, seed=0)
    image = np.random.default_rng(0).uniform(-120, 130, (2, 3, 8, 8))
    blobs = evaluate(tempered(net, {"data": image}), {"data": image})
    assert evaluate(net, {"data": image})["excite"].std() > 10
    assert blobs["excite"].std() == pytest.approx(1, rel=1e-5)
    assert blobs["conv"].std() == pytest.approx(1, rel=1e-5)


@installed
def test_a_runtime_that_refuses_or_crashes_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three models is damaged: the first and the third are computed."""
    folder = GOLDEN / "nets" / "lenet_small"
    net = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    ((blob, shape),) = net.inputs.items()
    from tests.runtimes import compare

    save = compare.onnx.save

    def damaged(model: object, path: str) -> None:
        save(model, path)
        if path.endswith("-1.onnx"):
            Path(path).write_bytes(b"no model")

    monkeypatch.setattr(compare.onnx, "save", damaged)
    image = compare.np.zeros(shape, compare.np.float32)
    cases = [case_of(name, net, {blob: image}) for name in ("one", "two", "three")]
    for runtime, wrong in outcomes(cases, tmp_path).items():
        assert {case for case in wrong if case.endswith("(free)")} == {"two (free)"}, runtime
        assert wrong["two (free)"].startswith("refused: ")


def test_the_page_has_what_was_measured() -> None:
    text = PAGE.read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == render(read()).strip()
    assert set(read()["versions"]) == set(RUNTIMES)
