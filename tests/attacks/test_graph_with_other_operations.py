"""A SavedModel is a program: one that reads files or calls Python is refused from its bytes, before any of it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from conversion import load_network, load_savedmodel, to_tensorflow
from conversion.errors import ModelError
from conversion.export.graph_ops import ARITHMETIC, check_graph
from tests.conversion.test_golden import CASES, REFUSED
from tests.support.golden_cases import GoldenCase

PROOF = "proof.txt"

HOSTILE: dict[str, Callable[[tf.Tensor], object]] = {
    "ReadFile": lambda x: tf.io.read_file("/etc/hostname"),
    "WriteFile": lambda x: tf.io.write_file(PROOF, "was here"),
    "MatchingFiles": lambda x: tf.io.matching_files("/etc/*"),
    "EagerPyFunc": lambda x: tf.py_function(lambda: Path(PROOF).write_text("was here"), [], tf.int32),
    "PyFunc": lambda x: tf.numpy_function(lambda: np.int64(1), [], tf.int64),
    "RestoreV2": lambda x: tf.raw_ops.RestoreV2(
        prefix=PROOF, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "SaveV2": lambda x: tf.raw_ops.SaveV2(prefix=PROOF, tensor_names=["a"], shape_and_slices=[""], tensors=[x]),
    "PrintV2": lambda x: tf.print(x),
    "TFRecordDataset": lambda x: tf.data.TFRecordDataset("/etc/hostname").reduce(0, lambda n, _: n + 1),
}


def save(path: Path, hostile: Callable[[tf.Tensor], object]) -> Path:
    module: Any = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([1], tf.float32)], autograph=False)
    def maps(x: tf.Tensor) -> tf.Tensor:
        done = hostile(x)
        with tf.control_dependencies([] if done is None else tf.nest.flatten(done)):
            return x + 1

    module.maps = maps
    tf.saved_model.save(module, str(path), signatures=maps)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("operation", HOSTILE)
def test_refused_before_loading(operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "model", HOSTILE[operation])
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match=operation) as caught:
        load_savedmodel(path)
    assert "a SavedModel is a program" in caught.value.why
    assert not (tmp_path / PROOF).exists()


def change(path: Path, edit: Callable[[Any], object]) -> Path:
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    edit(message)
    (path / "saved_model.pb").write_bytes(message.SerializeToString())
    return path


def saver_of(message: Any) -> str:
    names = (function.signature.name for function in message.meta_graphs[0].graph_def.library.function)
    return next(name for name in names if name.startswith("__inference__traced_restore"))


def call_the_saver(message: Any) -> None:
    graph = message.meta_graphs[0].graph_def
    function = next(f for f in graph.library.function if "maps" in f.signature.name)
    function.node_def.add(name="call", op="StatefulPartitionedCall").attr["f"].func.name = saver_of(message)


def offer_the_saver(message: Any) -> None:
    message.meta_graphs[0].object_graph_def.concrete_functions[saver_of(message)].SetInParent()


def register(message: Any) -> None:
    message.meta_graphs[0].object_graph_def.nodes[0].registered_saver = "x"


def asset(message: Any) -> None:
    message.meta_graphs[0].object_graph_def.nodes.add().asset.asset_file_def_index = 0


def second_graph(message: Any) -> None:
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])


def old_form(message: Any) -> None:
    message.meta_graphs[0].ClearField("object_graph_def")


@pytest.mark.parametrize("edit", [call_the_saver, offer_the_saver, register, asset, second_graph, old_form])
def test_forms_that_densecast_does_not_write(edit: Callable[[Any], object], tmp_path: Path):
    path = save(tmp_path / "model", lambda x: None)
    check_graph(path)
    with pytest.raises(ModelError, match=r"saved_model\.pb"):
        check_graph(change(path, edit))


@pytest.mark.parametrize("name", ["saved_model.cpb", "saved_model.pbtxt"])
def test_a_second_form_of_the_graph(name: str, tmp_path: Path):
    path = save(tmp_path / "model", lambda x: None)
    (path / name).write_bytes(b"")
    with pytest.raises(ModelError, match="second form"):
        check_graph(path)


def one_case_of_each_type() -> list[GoldenCase]:
    found: dict[str, GoldenCase] = {}
    for case in CASES:
        if case.name not in REFUSED:
            for layer in load_network(case.prototxt).layers:
                found.setdefault(layer.definition.type, case)
    return list({case.name: case for case in found.values()}.values())


def test_what_the_layers_emit_is_accepted():
    """At fixed and at free sizes: else a model that densecast converts could not be opened."""
    emitted: set[str] = set()
    for case in one_case_of_each_type():
        net = load_network(case.prototxt, case.weights)
        for free in (False, True):
            specs = {
                blob: tf.TensorSpec([None if free and len(shape) == 4 and i != 1 else n for i, n in enumerate(shape)])
                for blob, shape in net.inputs.items()
            }
            graph = tf.function(to_tensorflow(net), autograph=False).get_concrete_function(specs).graph.as_graph_def()
            nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
            emitted |= {node.op for node in nodes}
    assert emitted - ARITHMETIC == set()
    assert len(emitted) > 50
