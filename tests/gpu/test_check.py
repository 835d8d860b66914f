"""The script for GPUs, tried on the CPU: its figures mean nothing here, and its report does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conversion import inference_graph, read_metadata
from tests.gpu import check, pieces
from tests.gpu.export import export
from tests.support.without_tensorflow import run_without_tensorflow

SCRIPT = Path(check.__file__)
OURS = ("conversion", "models", "pipeline", "table", "tests")
OTHERS = ("apache_beam", "deltalake", "PIL", "pyarrow", "pydantic", "rich", "click", "lazy_loader", "openvino", "cv2")


@pytest.fixture(scope="module")
def graphs(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "graphs"
    export(onnx_model, folder)
    return folder


@pytest.fixture(scope="module")
def report(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script says in a process with NumPy, protobuf, onnx and ONNX Runtime alone."""
    output = tmp_path_factory.mktemp("report") / "report.json"
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    options = "--device cpu --sides 227 259 --batches 1 2 --seconds 0 --matrix 64 --output"
    done = run_without_tensorflow(code, str(graphs), *options.split(), str(output), also=(*OURS, *OTHERS))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(output.read_text())
    return found


def test_it_reports_every_kind_of_arithmetic_or_why_not(report: dict[str, Any]):
    found = report["found"]
    assert list(found) == ["float32", "tf32", "bfloat16", "float16"]
    assert "NotImplemented" in found["bfloat16"]["not possible"]
    for kind, most in {"float32": 1e-5, "tf32": 1e-5, "float16": 0.05}.items():
        assert [(speed["side"], speed["batch"]) for speed in found[kind]["speeds"]] == [
            (227, 1),
            (227, 2),
            (259, 1),
            (259, 2),
        ]
        for speed in found[kind]["speeds"]:
            assert speed["images a second"] > 0
            assert speed["share of the matrix peak"] > 0
        differences = found[kind]["largest difference from the CPU in float32"]
        assert list(differences) == ["227", "259"]
        assert all(off[name] <= most for off in differences.values() for name in (check.PROBABILITIES, check.SCORES))
        assert (kind == "float16") == any(off[check.SCORES] > 1e-5 for off in differences.values())
        assert found[kind]["matrix peak TFLOP/s"] > 0


def test_without_cuda_it_says_so_and_measures_nothing(graphs: Path, capsys: pytest.CaptureFixture[str]):
    if check.CUDA in check.onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built with CUDA")
    assert check.main([str(graphs)]) == 1
    assert "is built without CUDA" in capsys.readouterr().err


def test_multiply_adds_are_counted_where_there_are_weights():
    """8 filters of 3 x 3 x 3 on 12 x 12 pixels have 10 x 10 places; then a product with a matrix [8, 5]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "filters"], ["y"]),
        helper.make_node("Transpose", ["y"], ["cells"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["cells", "matrix"], ["top"]),
    ]
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("filters", (8, 3, 3, 3)), ("matrix", (8, 5)))
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    top = helper.make_tensor_value_info("top", onnx.TensorProto.FLOAT, ["batch", "rows", "columns", 5])
    graph = helper.make_model(
        helper.make_graph(nodes, "two", [images], [top], weights), opset_imports=[helper.make_opsetid("", 14)]
    )
    assert check.multiply_adds(graph, 12) == 100 * 8 * 27 + 100 * 8 * 5
    del graph.graph.initializer[:]
    with pytest.raises(ValueError, match="the shapes of Conv"):
        check.multiply_adds(graph, 12)


def test_weights_are_drawn_the_same_again(graphs: Path):
    graph = onnx.load(str(graphs / "float32.onnx"), load_external_data=False)
    once, again = check.with_weights(graph), check.with_weights(graph)
    assert once == again
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in once.graph.initializer)
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer)


def test_the_graph_with_convolutions_in_bfloat16_is_valid(graphs: Path):
    graph = check.with_weights(onnx.load(str(graphs / "float32.onnx"), load_external_data=False))
    changed = check.bfloat16_convolutions(graph)
    onnx.checker.check_model(changed, full_check=True)
    casts = [node for node in changed.graph.node if node.op_type == "Cast" and "/bfloat16/" in node.output[0]]
    assert len(casts) == sum(len(node.input) for node in changed.graph.node if node.op_type == "Conv")


def test_what_runs_elsewhere_is_an_error(graphs: Path, monkeypatch: pytest.MonkeyPatch):
    """As it is for the engine; here the CPU is the wrong place."""
    ruler = check.Ruler(check.CPU, 0)
    graph = check.with_weights(onnx.load(str(graphs / "float32.onnx"), load_external_data=False))
    ruler.session(graph)
    ruler.provider = "OtherExecutionProvider"
    with pytest.raises(check.NotOnDeviceError, match=r"on the CPU: .*Conv"):
        ruler.session(graph)


def test_size_nodes_are_those_of_the_engine(onnx_model: Path):
    graph = inference_graph(onnx_model, read_metadata(onnx_model), best=3)
    assert check._size_nodes(onnx.ModelProto.FromString(graph.proto)) == graph.size_nodes()


# --- pieces


def test_a_file_travels_in_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "onnxruntime_gpu.whl"
    file.write_bytes(np.random.default_rng(0).bytes((2 << 20) + 7))
    folder = tmp_path / "pieces"
    assert pieces.main(["split", str(file), str(folder), "--size", "1"]) == 0
    assert [len((folder / f"{file.name}.{n:03}").read_bytes()) for n in range(3)] == [1 << 20, 1 << 20, 7]
    assert pieces.main(["join", str(folder)]) == 0
    assert (folder / file.name).read_bytes() == file.read_bytes()
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / file.name)


def test_a_piece_that_is_missing_or_damaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(10)))
    first, second, third, _ = pieces.split(file, tmp_path / "pieces", 3)
    second.write_bytes(b"123")
    third.unlink()
    assert pieces.main(["join", str(tmp_path / "pieces")]) == 1
    assert f"missing or damaged, bring them again: {second.name}, {third.name}" in capsys.readouterr().err
    assert first.exists()
    assert not (tmp_path / "pieces" / "file").exists()


def test_a_list_of_another_file_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    pieces.split(file, tmp_path / "pieces", 3)
    listed = json.loads((tmp_path / "pieces" / pieces.LIST).read_text())
    (tmp_path / "pieces" / pieces.LIST).write_text(json.dumps({**listed, "sha256": "0"}))
    with pytest.raises(pieces.PiecesError, match="another digest"):
        pieces.join(tmp_path / "pieces")
