"""The forms of a model directory: a SavedModel, an ONNX graph, or both over one copy of the weights."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from conversion.errors import ConversionError, MissingExtraError, UnsupportedError, VerificationError, install_extra
from conversion.export import savedmodel
from conversion.export.metadata import Form, ModelMetadata, VerificationMetadata, read_metadata
from conversion.export.onnx_model import ImageGraph, model_outputs, write_graph
from conversion.export.onnx_ops import check_onnx
from conversion.export.onnx_properties import properties
from conversion.export.onnx_session import stored_runner
from conversion.export.savedmodel_verification import verify_savedmodel
from conversion.export.seal import check_files
from conversion.export.signatures import feature_blobs
from conversion.export.stored_network import load_model_network
from conversion.export.verification import TOLERANCE, Example, verify
from conversion.export.weights_store import index_bundle, write_weights
from conversion.layers.layout import import_tensorflow
from conversion.net.network import Network

FormChoice = Literal["savedmodel", "onnx", "both"]
_BOTH: tuple[Form, ...] = ("savedmodel", "onnx")
_NEEDS: Mapping[Form, tuple[str, ...]] = {"savedmodel": ("tensorflow",), "onnx": ("onnx", "onnxruntime")}


@dataclasses.dataclass(frozen=True, slots=True)
class DenseModel:
    """A dense model before it has a form.

    Attributes:
        network: Fully convolutional; with weights until they are stored.
        output: The blob of class probabilities.
        features: The blob of each feature, by name.
        classifier: The classifier before the cast, as far as output and features need it; without weights.
        metadata: All of it but the forms and their verification.
    """

    network: Network
    output: str
    features: Mapping[str, str]
    classifier: Network
    metadata: ModelMetadata

    def bare(self) -> DenseModel:
        """Returns the model without its weights."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, parameters={}))


def choose_forms(wanted: FormChoice | None = None) -> tuple[Form, ...]:
    """Returns the forms that a conversion writes.

    Args:
        wanted: One form, or both. By default both, or the one that can be written and verified with what is installed.

    Raises:
        MissingExtraError: What a form needs is not installed.
    """
    if wanted is not None:
        forms = _BOTH if wanted == "both" else (wanted,)
        for form in forms:
            _require(form)
        return forms
    possible = tuple(form for form in _BOTH if not _missing(form))
    if not possible:
        raise MissingExtraError(
            "neither TensorFlow nor onnx and ONNX Runtime are installed",
            why="a model is written as a SavedModel or as an ONNX graph, and verified by running it",
            remedy=f"{install_extra('cpu', gpu='gpu')}; without TensorFlow: the extra `onnx`",
        )
    return possible


def store_weights(model: DenseModel, directory: Path, forms: Sequence[Form]) -> None:
    """Writes the weights with their index: within the SavedModel, if that is one of the forms."""
    if "savedmodel" not in forms:
        write_weights(model.network, directory)
        return
    module = savedmodel.dense_model(model.network, model.metadata.preprocessing, model.output, model.features)
    savedmodel.save(module, directory)
    weights = module.network.weights
    index_bundle({name: (value.numpy() for value in weights[name]) for name in weights}, directory)
    del module, weights
    gc.collect()  # functions and variables refer to each other: without it the weights stay in memory twice


def write_forms(
    model: DenseModel,
    directory: Path,
    forms: Sequence[Form],
    examples: Sequence[Example],
    *,
    tolerance: float,
    by_default: bool = False,
) -> ModelMetadata:
    """Writes what the forms need besides the weights, which are stored already, and verifies each.

    Args:
        model: The model; its own weights are not needed.
        directory: The model directory.
        forms: The forms.
        examples: What they must reproduce.
        tolerance: See `verify`.
        by_default: Whether nobody asked for these forms. A model with a SavedModel then goes without an ONNX graph if a
            layer has no ONNX form, or a feature has the name of the graph's input or map; its notes say so.

    Returns:
        The metadata with the forms and their verification.

    Raises:
        VerificationError: A form diverges from the reference.
        UnsupportedError: A layer has no ONNX form.
        ConversionError: A feature has the name of the ONNX graph's input or map.
    """
    network, metadata = model.network, model.metadata.model_copy(update={"forms": tuple(forms)})
    if "savedmodel" in forms:
        result = _verify_savedmodel(directory, network, model.output, examples, tolerance=tolerance)
        metadata = metadata.model_copy(update={"verification": result})
        gc.collect()  # as above
    if "onnx" not in forms:
        return metadata
    try:
        graph = image_graph(network, metadata)
        write_graph(graph, directory, properties(metadata, graph, "dense"))
    except (UnsupportedError, ConversionError) as error:
        if not by_default or "savedmodel" not in forms:
            raise
        note = f"there is no ONNX graph: {': '.join(filter(None, (error.where, error.what)))}"
        return metadata.model_copy(update={"forms": ("savedmodel",), "notes": (*metadata.notes, note)})
    try:
        result = verify(stored_runner(graph, directory), examples, tolerance=tolerance)
    except VerificationError as error:
        if "savedmodel" not in forms:
            raise
        remedy = f"{error.remedy}; --format savedmodel, or form in Python, makes the model without its ONNX form"
        raise VerificationError(error.what, where=error.where, why=error.why, remedy=remedy) from error
    return metadata.model_copy(update={"onnx_verification": result})


def verify_forms(
    model: str | Path, network: Network, examples: Sequence[Example], *, tolerance: float = TOLERANCE
) -> dict[str, VerificationMetadata]:
    """Compares every form of a model directory with the NumPy reference.

    Args:
        model: The model directory.
        network: The network that the examples are of; its layers are those of the model.
        examples: From `verification_examples`.
        tolerance: See `verify`.

    Raises:
        VerificationError: A form diverges.
        ModelError: A file is not the one that the model was made with, or does more than arithmetic.
        MissingExtraError: What runs a form is not installed.
    """
    metadata = read_metadata(model)
    results: dict[str, VerificationMetadata] = {}
    if "savedmodel" in metadata.forms:
        results["savedmodel"] = _verify_savedmodel(model, network, metadata.output_blob, examples, tolerance=tolerance)
    if "onnx" in metadata.forms:
        check_files(model, metadata)
        check_onnx(model)
        graph = image_graph(load_model_network(model), metadata)
        results["onnx"] = verify(stored_runner(graph, Path(model)), examples, tolerance=tolerance)
    return results


def _verify_savedmodel(
    model: str | Path, network: Network, output: str, examples: Sequence[Example], *, tolerance: float
) -> VerificationMetadata:
    """Loads a SavedModel and verifies it; nothing refers to it afterwards."""
    return verify_savedmodel(savedmodel.load_savedmodel(model), network, output, examples, tolerance=tolerance)


def image_graph(network: Network, metadata: ModelMetadata) -> ImageGraph:
    """Returns what the ONNX graph of a model directory computes."""
    features = feature_blobs(network, list(metadata.features))
    return ImageGraph(network, metadata.preprocessing, model_outputs(metadata.output_blob, features))


def _require(form: Form) -> None:
    """Raises MissingExtraError if what a form needs is not installed; imports nothing."""
    if not (missing := _missing(form)):
        return
    if form == "savedmodel":
        import_tensorflow()  # raises
    raise MissingExtraError(
        f"{' and '.join(missing)} not installed",
        why="the ONNX form is written by onnx and verified by ONNX Runtime",
        remedy=install_extra("onnx", gpu="gpu"),
    )


def _missing(form: Form) -> list[str]:
    return [name for name in _NEEDS[form] if importlib.util.find_spec(name) is None]
