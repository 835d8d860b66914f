"""The comparison of pipelines does what it says, on small graphs and few images; nothing here asserts a speed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline.cli.commands.table import score as score_command
from pipeline.tools.demo import convert_digits
from tests.benchmarks import one_run, pipelines
from tests.benchmarks.engines import idle_model
from tests.benchmarks.files import mixed_photographs
from tests.benchmarks.peers import beam_inference, loop, ray_data
from tests.benchmarks.pipelines import Agreement, Map, Pipeline, agreement, densecast, measure, read_files, read_table
from tests.benchmarks.pipelines import peers as known_peers
from tests.benchmarks.processes import CommandFailedError, run_watched
from tests.support.without_tensorflow import run_without_tensorflow

CLASSES, WINDOW, STRIDE = 8, 16, 8
SIDES = (24, 40)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return mixed_photographs(tmp_path_factory.mktemp("images"), 3, SIDES)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """Images as the graphs of densecast take them, to probabilities of 8 classes."""
    weights = np.random.default_rng(0).normal(0, 0.05, (CLASSES, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["data"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["data"], ["mean"], kernel_shape=[WINDOW] * 2, strides=[STRIDE] * 2),
        helper.make_node("Conv", ["mean", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["prob"], axis=1),
        helper.make_node("Transpose", ["prob"], ["probabilities"], perm=[0, 2, 3, 1]),
    ]
    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", "y", "x", CLASSES]),
    ]
    stored = numpy_helper.from_array(weights, "weights")
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], [stored]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    file = tmp_path_factory.mktemp("graph") / "net.onnx"
    onnx.save(model, file)
    return file


@pytest.fixture(scope="module")
def loop_maps(graph, images, tmp_path_factory) -> dict[str, Map]:
    output = tmp_path_factory.mktemp("loop")
    loop.main(str(graph), str(images), str(output))
    return read_files(output)


def test_the_loop_keeps_the_best_classes_of_every_cell(loop_maps, images):
    assert sorted(loop_maps) == [path.stem for path in sorted(images.rglob("*.jpg"))]
    for found in loop_maps.values():
        assert found.classes.shape == found.scores.shape
        assert found.classes.shape[2] == 5
        assert (np.diff(found.scores) <= 0).all()


def test_run_inference_gives_the_maps_of_the_loop(graph, images, loop_maps, tmp_path):
    beam_inference.main(str(graph), str(images), str(tmp_path))
    found = agreement(loop_maps, read_files(tmp_path))
    assert found.holds
    assert found.images == len(loop_maps)


def test_rays_actor_gives_the_maps_of_the_loop(graph, images, loop_maps, tmp_path):
    paths = sorted(map(str, images.rglob("*.jpg")))
    pixels = np.empty(len(paths), object)
    for number, path in enumerate(paths):
        pixels[number] = loop.decode(path)
    ray_data.Scorer(str(graph), str(tmp_path))({"path": np.array(paths), "image": pixels})
    assert agreement(loop_maps, read_files(tmp_path)).holds


def test_the_maps_of_a_table_are_read(images, tmp_path):
    model = idle_model(tmp_path / "idle")
    one_run.run({"images": str(images), "output": str(tmp_path / "table"), "model": str(model), "idle": "idle"})
    maps = read_table(tmp_path / "table")
    assert sorted(maps) == [path.stem for path in sorted(images.rglob("*.jpg"))]
    assert sorted(pipelines.map_times(tmp_path / "table")) == sorted(found.time for found in maps.values())
    assert all(found.classes.shape[2] == 2 for found in maps.values())


_SCORE_DIGITS = """
import sys
from pathlib import Path
from pipeline.tools.demo import convert_digits
from tests.benchmarks import one_run
images, output, model = sys.argv[1:]
convert_digits(Path(model))
print(one_run.run({"images": images, "output": output, "model": model}).summary["scored"])
"""


def test_a_measured_run_loads_what_its_engine_needs_and_no_more(tmp_path):
    images = mixed_photographs(tmp_path, 1, (40, 40))
    places = [str(images), str(tmp_path / "table"), str(tmp_path / "digits")]
    done = run_without_tensorflow(_SCORE_DIGITS, *places, also=("openvino",))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"


def test_the_command_is_one_that_densecast_takes(images, tmp_path):
    flags = ("--direct_num_workers=2",)
    command = densecast(tmp_path, images, *flags).command(tmp_path / "table")
    context = score_command.make_context("score", list(command[4:]))
    assert context.params["output"] == str(tmp_path / "table")


def test_ray_is_left_out_where_it_is_not_installed(tmp_path):
    assert [peer.name for peer in known_peers(tmp_path, tmp_path, ray=tmp_path / "python")] == [
        "plain loop",
        "Beam RunInference",
    ]


_WRITE = """
import pathlib, sys, time
import numpy as np
for name in ("a", "b", "c"):
    np.savez(pathlib.Path(sys.argv[1], name), classes=np.full((1, 1, 5), int(sys.argv[2])), scores=np.ones((1, 1, 5)),
             time=time.time())
"""


def _fake(name: str, best: int) -> Pipeline:
    return Pipeline(name, lambda output: [sys.executable, "-c", _WRITE, str(output), str(best)], read_files)


def test_wrong_maps_get_no_figure(tmp_path):
    speeds, agreements = measure([_fake(pipelines.OURS, 1), _fake("right", 1), _fake("wrong", 2)], tmp_path, 1, 1e9)
    assert {name: len(runs) for name, runs in speeds.items()} == {pipelines.OURS: 1, "right": 1, "wrong": 1}
    summary = pipelines.summarize(speeds, agreements)
    assert summary.keys() == {pipelines.OURS, "right"}
    assert summary[pipelines.OURS]["ratio"] == 1
    table = pipelines.as_table(summary, agreements, "title")
    assert any("WRONG MAPS" in str(cell) for column in table.columns for cell in column.cells)


def test_a_budget_ends_the_rounds_but_not_the_first(tmp_path):
    speeds, _ = measure([_fake(pipelines.OURS, 1)], tmp_path, 3, 0.0)
    assert len(speeds[pipelines.OURS]) == 1


def test_what_processes_below_a_command_take_counts(tmp_path):
    work = "import os\nheld = bytearray(2**26)\nwhile sum(os.times()[:2]) < 0.6: sum(range(9999))"
    command = [sys.executable, "-c", f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])"]
    usage = run_watched(command, tmp_path, {}, tmp_path / "log.txt")
    assert usage.cpu_s >= 0.6
    assert usage.peak_mb >= 64
    assert usage.wall_s > 0


def test_a_command_that_fails_is_not_measured(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(CommandFailedError, match=r"exit status 1 of .*\nno such thing"):
        run_watched(command, tmp_path, {}, tmp_path / "log.txt")


@given(st.floats(0.001, 1e3), st.integers(2, 200), st.floats(-1e6, 1e6))
def test_the_rate_of_an_even_stream(step, count, start):
    times = [start + number * step for number in range(count)]
    assert pipelines.steady_rate(times) == pytest.approx(1 / step, rel=1e-3)


def test_a_late_start_does_not_count_for_the_steady_state():
    assert pipelines.steady_rate([0.0, 100.0, *np.arange(100.5, 105.0, 0.5)]) == pytest.approx(2)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0]])
def test_too_few_times_have_no_rate(times):
    assert np.isnan(pipelines.steady_rate(times))


def test_maps_that_differ_are_seen():
    one = Map(0.0, np.zeros((2, 2, 5), np.int32), np.full((2, 2, 5), 0.5, np.float32))
    other = one._replace(classes=np.ones_like(one.classes), scores=one.scores + 0.25)
    smaller = one._replace(classes=one.classes[:1], scores=one.scores[:1])
    assert agreement({"a": one}, {"a": one}) == Agreement(1, 0, 4, 1.0, 0.0)
    assert agreement({"a": one, "b": one}, {"a": one, "b": other}) == Agreement(2, 0, 8, 0.5, 0.25)
    assert agreement({"a": one}, {"a": smaller}).missing == 1
    assert not agreement({"a": one, "b": one}, {"a": one}).holds
    assert not agreement({}, {}).holds


@pytest.mark.large  # whole processes, each of which imports Beam or TensorFlow
def test_whole_processes_agree(tmp_path):
    model = tmp_path / "digits"
    convert_digits(model)
    images = mixed_photographs(tmp_path, 6, (60, 90))
    graph = pipelines.dense_graph(tmp_path, model)
    found = [densecast(model, images), *known_peers(graph, images)]
    speeds, agreements = measure(found, tmp_path / "work", 1, 1e9)
    assert pipelines.summarize(speeds, agreements).keys() == {pipeline.name for pipeline in found}
