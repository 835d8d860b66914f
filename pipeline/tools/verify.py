"""`densecast verify`: compares a model with its Caffe files, and its maps with the classifier on each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Group, RenderableType

from conversion import (
    DenseOptions,
    Network,
    VerificationMetadata,
    digest,
    load_dense,
    load_model_network,
    read_metadata,
    verification_examples,
    verification_sizes,
    verify_forms,
)
from conversion.errors import VerificationError
from pipeline.errors import SourceError
from pipeline.images.decode import DecodedImage, DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.samples import Pixels
from pipeline.maps.recipe import Form, Recipe
from pipeline.rejection import Rejected
from pipeline.scoring.engine_choice import open_model
from pipeline.sources import Reader, list_images
from pipeline.tools import crops as crop_comparison
from pipeline.tools.crops import CropsReport, compare_with_crops, example_images

_REMEDY = (
    "give the definition, the weights and the options that the model was converted with: --crop, --stage, --level, "
    "--output-blob, --output-stride, --pooling-rounding, --dialect"
)


class VerifyReport(BaseModel):
    """The comparisons; None for one that was not asked for, or of a form that the model does not have.

    Attributes:
        caffe: The SavedModel with the Caffe files.
        onnx: The ONNX graph with the Caffe files.
        crops: The map with the classifier on each window.
    """

    caffe: VerificationMetadata | None = None
    onnx: VerificationMetadata | None = None
    crops: CropsReport | None = None


def verify_model(
    model: str,
    *,
    crops: bool = False,
    images: Sequence[str] = (),
    caffe: tuple[str, str] | None = None,
    options: DenseOptions | None = None,
) -> VerifyReport:
    """Compares a model with its Caffe files, and its maps with the classifier on each window.

    Args:
        model: A model directory.
        crops: Whether to compare maps with the classifier on each window.
        images: Folders, files, patterns or manifests for `crops`; seeded images by default.
        caffe: Definition and weights that every layer is compared with.
        options: Replace those that the model was converted with, one by one; for models that do not record them.

    Raises:
        VerificationError: The files make another network, or a layer diverges from the reference; it is named.
        CastError: The network of the files does not accept every image.
        SourceError: An image cannot be read or decoded.
        DensecastError: A file cannot be read.
    """
    forms = _compare_with_caffe(model, *caffe, options or DenseOptions()) if caffe else {}
    report = VerifyReport(caffe=forms.get("savedmodel"), onnx=forms.get("onnx"))
    if not crops:
        return report
    engine = open_model(model, Recipe(form=Form.FLOAT32))
    given = _decoded(images, grey=engine.metadata.takes_grey)
    return report.model_copy(update={"crops": compare_with_crops(engine, given or example_images(engine))})


def _decoded(images: Sequence[str], *, grey: bool) -> list[Pixels]:
    decoded: list[Pixels] = []
    with Reader() as reader, IsolatedDecoder() as decoder:
        for reference in list_images(images):
            try:
                image: DecodedImage = decoder.call(reader.read(reference).data, DecodeLimits(), grey=grey)
            except Rejected as rejected:
                raise SourceError(
                    f"the image cannot be compared: {rejected}",
                    where=reference.uri,
                    remedy="leave it out, or repair it",
                ) from rejected
            decoded.append(image.pixels)
    return decoded


def _compare_with_caffe(
    model: str, definition: str, weights: str, given: DenseOptions
) -> Mapping[str, VerificationMetadata]:
    metadata = read_metadata(Path(model))
    options = (metadata.options or DenseOptions()).replaced_by(given)
    dense = load_dense(definition, weights, options, features=list(metadata.features))
    dense.require_sizes()
    network = dense.network
    own = load_model_network(model)
    stride = metadata.geometry.y.stride, metadata.geometry.x.stride
    ((_, _, *window),) = network.inputs.values()
    sizes = verification_sizes(window, stride)
    differing = _differing_blob(own, network, sizes)
    if differing:
        raise VerificationError(
            f"the definition makes another network: {differing}",
            where=model,
            why=f"the definition is read with {options}",
            remedy=_REMEDY,
        )
    examples = verification_examples(network, metadata.preprocessing, sizes)
    try:
        return verify_forms(model, network, examples)
    except VerificationError as error:
        if digest(network, metadata.preprocessing, metadata.output_blob) == metadata.digest:
            raise
        raise VerificationError(
            error.what,
            where=error.where,
            why="these Caffe files and options are not those that the model was made from: their digest is another",
            remedy=_REMEDY,
        ) from error


def _differing_blob(own: Network, network: Network, sizes: Sequence[tuple[int, int, int]]) -> str:
    """Returns the first blob that the model's network and that of the Caffe files have in different shapes, or ""."""
    if own.inputs != network.inputs:
        return f"its inputs are {network.inputs}, the model's {own.inputs}"
    ((name, shape),) = network.inputs.items()
    for batch, height, width in sizes:
        found, expected = (net.shapes_at({name: (batch, shape[1], height, width)}) for net in (own, network))
        for blob in {**expected, **found}:
            if found.get(blob) != expected.get(blob):
                there, here = (shapes.get(blob, "missing") for shapes in (expected, found))
                return f"blob {blob!r} is {there} there and {here} in the model, on images of {height}x{width}"
    return ""


def render(report: VerifyReport) -> RenderableType:
    """Returns the report for a terminal."""
    parts: list[RenderableType] = []
    for form, v in (("SavedModel", report.caffe), ("ONNX graph", report.onnx)):
        if v:
            compared = f"{form}: {v.blobs} blobs at {len(v.sizes)} sizes agree"
            parts.append(f"{compared}; worst {v.worst:.1e} of absmax ({v.worst_blob})")
    if report.crops:
        parts.append(crop_comparison.render(report.crops))
    return Group(*parts)
