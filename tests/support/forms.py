"""The forms of a network that run, alike: arrays in Caffe's axis order in, every blob out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_state

from conversion.export.net_module import to_tensorflow
from conversion.export.onnx_net import output_name, to_onnx
from conversion.net.network import Network

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

# What running raises at a size that the net refuses.
REFUSALS = (
    tf.errors.InvalidArgumentError,
    onnxruntime_state.Fail,
    onnxruntime_state.InvalidArgument,
    onnxruntime_state.RuntimeException,
)


def eager_tensorflow(network: Network) -> Run:
    """The TensorFlow form, run eagerly."""
    module = to_tensorflow(network)
    return lambda inputs: {name: value.numpy() for name, value in module(inputs).items()}


def traced_tensorflow(network: Network) -> Run:
    """The TensorFlow form as a traced function whose rank-4 inputs state nothing but their channels."""
    module = to_tensorflow(network)
    signature = {
        name: tf.TensorSpec([None, shape[1], None, None] if len(shape) == 4 else [None, *shape[1:]], tf.float32)
        for name, shape in network.inputs.items()
    }
    traced = tf.function(lambda x: module(x), input_signature=[signature], autograph=False)
    # Rows may have become channels there.
    permuted = {top for layer in network.layers if layer.caffe_type == "Permute" for top in layer.tops}
    for name, top in traced.get_concrete_function().structured_outputs.items():
        shape = network.shapes[name]
        if len(shape) == 4 and name not in permuted:
            assert top.shape[1] == shape[1], f"{name}: channels {shape[1]} are not static: {top.shape}"

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        # The function holds its module weakly: `module` must live as long as it.
        found = (module, traced({name: tf.constant(value) for name, value in inputs.items()}))[1]
        return {name: value.numpy() for name, value in found.items()}

    return run


def onnx_form(network: Network, **options: Any) -> Run:
    """The ONNX form, checked, with ONNX Runtime; batch, height and width are free unless `shapes` says otherwise."""
    run = run_onnx(to_onnx(network, **options))
    blobs = {output_name(network, blob): blob for blob in network.shapes}
    return lambda inputs: {**inputs, **{blobs[name]: value for name, value in run(inputs).items()}}


def run_onnx(model: onnx.ModelProto) -> Run:
    """A model with ONNX Runtime, once ONNX's own checker has passed it."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what a run refuses is raised too
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        given = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
        return dict(zip(names, session.run(None, given), strict=True))

    return run


FORMS: dict[str, Callable[[Network], Run]] = {"tensorflow": eager_tensorflow, "onnx": onnx_form}
FREE_FORMS: dict[str, Callable[[Network], Run]] = {"tensorflow": traced_tensorflow, "onnx": onnx_form}
