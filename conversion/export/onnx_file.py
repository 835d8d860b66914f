"""`export_onnx`: a model directory -> one ONNX file that other programs run, verified before it is put in place."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from conversion.errors import ConversionError, VerificationError
from conversion.export.float16 import FP16_TOLERANCE, WITHOUT_FP16, check_float16
from conversion.export.metadata import ModelMetadata, VerificationMetadata, read_metadata
from conversion.export.onnx_model import AddWeights, ImageGraph, add_arrays, model_outputs
from conversion.export.onnx_net import add_weights
from conversion.export.onnx_properties import properties, verified
from conversion.export.onnx_session import OnnxRunner, Session, import_onnxruntime
from conversion.export.publish import check_file_target
from conversion.export.seal import check_files
from conversion.export.signatures import feature_blobs
from conversion.export.stored_network import load_classifier, load_stored, model_weights
from conversion.export.verification import (
    TOLERANCE,
    relative_error,
    verification_examples,
    verification_sizes,
    verify,
)
from conversion.export.weights_store import MOST_WEIGHT_BYTES
from conversion.files import PARTIAL_SUFFIX, temporary_folder
from conversion.layers.onnx_value import import_onnx
from conversion.net.network import Network
from conversion.passes.cast_names import CAST_SUFFIX
from conversion.passes.prune import prune

if TYPE_CHECKING:
    import onnx

DATA_SUFFIX = ".data"
_SMALL = 1024  # bytes of an array that stays in the file where the others do not


class OnnxReport(BaseModel):
    """What `export_onnx` wrote.

    Attributes:
        path: The file.
        files: The size in bytes of the file, and of that of its weights if it has one, by path.
        inputs: The inputs: name, and type with shape.
        outputs: The outputs, in the same form.
        verification: The difference from the NumPy reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    files: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    verification: VerificationMetadata


@dataclasses.dataclass(frozen=True)
class _Export:
    """What is written.

    Attributes:
        graph: The graph; its network has weights in Caffe's shapes, for the reference.
        add: Adds the weights to a graph.
        kind: "dense" or "classifier".
        sizes: (batch, height, width) of the images that it is verified on.
    """

    graph: ImageGraph
    add: AddWeights
    kind: str
    sizes: list[tuple[int, int, int]]


def export_onnx(
    model: str | Path,
    output: str | Path,
    *,
    classifier: bool = False,
    input_size: tuple[int, int] | None = None,
    fp16: bool = False,
    raw_input: bool = False,
    overwrite: bool = False,
) -> OnnxReport:
    """Writes a model as one ONNX file, verifies it, and only then puts it in place.

    Weights of more than 2 GiB are in a second file beside it, which has the suffix `.data`.

    Args:
        model: A model directory.
        output: The file to write.
        classifier: Whether to write the classifier as it was trained, for images of one size, instead of the dense
            model.
        input_size: (height, width) of the image, of which there is one; by default any number, and any size for a dense
            model. A classifier has one size.
        fp16: Whether weights and computation are float16 where `Layer.narrow` allows it. Inputs and outputs are not;
            the tolerance of the verification is `FP16_TOLERANCE`.
        raw_input: Whether the input is float32 [N, C, H, W] in the network's channel order, preprocessed already, under
            its blob's name, and outputs are [N, C, h, w]; otherwise it is `images`, uint8 RGB [N, H, W, 3], and outputs
            are [N, h, w, C].
        overwrite: Whether to replace a file that exists.

    Returns:
        What was written.

    Raises:
        DensecastError: One of the errors in `conversion.errors`. What was at `output` before is unchanged then.
    """
    target = Path(output)
    check_file_target(target, overwrite=overwrite)
    if Path(model).resolve() in target.resolve().parents:
        raise ConversionError(
            "the output is within the model", where=str(target), why="a model's files are sealed", remedy="name another"
        )
    metadata = read_metadata(model)
    import_onnx()
    import_onnxruntime()
    check_files(model, metadata)
    weights = model_weights(model)
    dense = load_stored(model, weights)
    if classifier:
        export = _classifier(model, dense, metadata, input_size)
    else:
        export = _dense(dense, metadata, input_size, lambda graph: add_arrays(graph, weights))
    graph = dataclasses.replace(export.graph, raw_input=raw_input, fp16=fp16)
    return _write(dataclasses.replace(export, graph=graph), metadata, target, overwrite=overwrite)


def _dense(network: Network, metadata: ModelMetadata, size: tuple[int, int] | None, add: AddWeights) -> _Export:
    features = feature_blobs(network, list(metadata.features))
    used = prune(network, [metadata.output_blob, *features.values()])
    graph = ImageGraph(used, metadata.preprocessing, model_outputs(metadata.output_blob, features))
    if size is not None:
        return _Export(dataclasses.replace(graph, size=(1, *size)), add, "dense", [(1, *size)])
    ((_, _, *window),) = network.inputs.values()
    stride = metadata.geometry.y.stride, metadata.geometry.x.stride
    return _Export(graph, add, "dense", verification_sizes(window, stride))


def _classifier(model: str | Path, dense: Network, metadata: ModelMetadata, size: tuple[int, int] | None) -> _Export:
    """Returns the export of the classifier; raises ConversionError for another size than that which it has."""
    network = load_classifier(model, dense)
    ((_, _, height, width),) = network.inputs.values()
    if size not in (None, (height, width)):
        raise ConversionError(
            f"input size {size[0]}x{size[1]} for a classifier of {height}x{width}",
            where=str(model),
            why="a classifier has the size that it was trained at",
            remedy="leave out --classifier, or --input-size",
        )
    names = [metadata.output_blob, *metadata.features]
    own = {name: name if name in network.shapes else name.removesuffix(CAST_SUFFIX) for name in names}
    outputs = model_outputs(
        own[metadata.output_blob], {n: own[n] for n in metadata.features if own[n] in network.shapes}
    )
    graph = ImageGraph(prune(network, list(outputs.values())), metadata.preprocessing, outputs)
    number = 2 if size is None else 1
    graph = dataclasses.replace(graph, size=("batch" if size is None else 1, height, width))
    _check_same(network, dense, metadata, own[metadata.output_blob])
    return _Export(graph, lambda g: add_weights(graph.network, g), "classifier", [(number, height, width)])


def _check_same(classifier: Network, dense: Network, metadata: ModelMetadata, output: str) -> None:
    """Raises VerificationError unless the classifier computes what the dense network does at the size of training."""
    if dense.shapes[metadata.output_blob][2:] != (1, 1):
        return  # a finer map
    ((_, _, height, width),) = classifier.inputs.values()
    (found,), (expected,) = (
        verification_examples(network, metadata.preprocessing, [(1, height, width)]) for network in (classifier, dense)
    )
    wanted = dict(expected.blobs())[metadata.output_blob]
    error = relative_error(dict(found.blobs())[output].reshape(wanted.shape), wanted)
    if error > TOLERANCE:
        raise VerificationError(
            f"the classifier differs from the dense model by {error:.2e} of the largest probability",
            where=f"network {classifier.name!r}",
            remedy="please report this with the definition",
        )


def _write(export: _Export, metadata: ModelMetadata, target: Path, *, overwrite: bool) -> OnnxReport:
    """Writes, verifies and publishes."""
    graph = export.graph
    examples = verification_examples(graph.network, metadata.preprocessing, export.sizes)
    if graph.fp16:
        check_float16(graph.network, examples)
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{target.name}.", PARTIAL_SUFFIX, target.parent) as folder:
        own = folder / target.name
        proto = graph.build(export.add, properties(metadata, graph, export.kind))
        if _save(proto, own):
            check_file_target(_data_file(target), overwrite=overwrite)

        def some_blobs(blobs: Sequence[str]) -> Session:
            file = folder / "blobs" / target.name
            file.parent.mkdir(exist_ok=True)
            _save(graph.build(export.add, blobs=blobs), file)
            return Session(file)

        runner = OnnxRunner(graph, some_blobs, lambda: Session(own))
        tolerance = FP16_TOLERANCE if graph.fp16 else TOLERANCE
        try:
            result = verify(runner, examples, tolerance=tolerance)
        except VerificationError as error:
            if not graph.fp16:
                raise
            raise VerificationError(error.what, where=error.where, why=error.why, remedy=WITHOUT_FP16) from error
        for key, value in verified(result).items():
            proto.metadata_props.add(key=key, value=value)
        own.write_bytes(proto.SerializeToString(deterministic=True))  # weights of a second file stay there
        files = {target: own, _data_file(target): _data_file(own)}
        files = {place: file for place, file in files.items() if file.exists()}
        report = OnnxReport(
            path=str(target),
            files={str(place): file.stat().st_size for place, file in files.items()},
            inputs={value.name: _type_text(value) for value in proto.graph.input},
            outputs={value.name: _type_text(value) for value in proto.graph.output},
            verification=result,
        )
        for place, file in reversed(files.items()):  # the weights first: no reader finds a graph without them
            file.replace(place)
    return report


def _save(proto: onnx.ModelProto, path: Path) -> bool:
    """Writes a model; returns whether its weights are in a second file, being larger than protobuf allows."""
    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > MOST_WEIGHT_BYTES
    if large:
        helper = importlib.import_module("onnx.external_data_helper")
        helper.convert_model_to_external_data(
            proto, all_tensors_to_one_file=True, location=_data_file(path).name, size_threshold=_SMALL
        )
        helper.write_external_data_tensors(proto, str(path.parent))
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return large


def _data_file(path: Path) -> Path:
    return path.with_name(path.name + DATA_SUFFIX)


def _type_text(value: onnx.ValueInfoProto) -> str:
    """Returns type and shape, as in `float32 [batch, 3, height, width]`."""
    tensor = value.type.tensor_type
    dtype = import_onnx().helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    dims = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return f"{dtype} [{', '.join(dims)}]"
