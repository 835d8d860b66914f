"""`densecast verify`: compares a model with its Caffe files, and its maps with the classifier on each window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Group, RenderableType

from conversion import (
    VerificationMetadata,
    cast,
    load_network,
    load_savedmodel,
    read_metadata,
    receptive_field,
    verification_examples,
    verification_sizes,
    verify_savedmodel,
)
from pipeline.engines import TensorFlowEngine
from pipeline.images.decode import DecodeLimits, decode
from pipeline.maps.recipe import Form
from pipeline.sources import Reader, list_images
from pipeline.tools import crops as crop_comparison
from pipeline.tools.crops import CropsReport, compare_with_crops, example_images


class VerifyReport(BaseModel):
    """The comparisons; None for one that was not asked for."""

    caffe: VerificationMetadata | None = None
    crops: CropsReport | None = None


def verify_model(
    model: str, *, crops: bool = False, images: Sequence[str] = (), caffe: tuple[str, str] | None = None
) -> VerifyReport:
    """Compares a model with its Caffe files, and its maps with the classifier on each window.

    Args:
        model: A model directory.
        crops: Whether to compare maps with the classifier on each window.
        images: Folders, files, patterns or manifests for `crops`; seeded images by default.
        caffe: Definition and weights that every layer is compared with.

    Raises:
        VerificationError: A layer diverges from the reference; it is named.
        Rejected: An image cannot be read or decoded.
        DensecastError: A file cannot be read.
    """
    verification = _compare_with_caffe(model, *caffe) if caffe else None
    if not crops:
        return VerifyReport(caffe=verification)
    engine = TensorFlowEngine(model, form=Form.FLOAT32)
    limits = DecodeLimits()
    with Reader() as reader:
        files = (reader.read(reference).data for reference in list_images(images))
        given = [decode(data, limits, grey=engine.metadata.takes_grey).pixels for data in files]
    return VerifyReport(caffe=verification, crops=compare_with_crops(engine, given or example_images(engine)))


def _compare_with_caffe(model: str, definition: str, weights: str) -> VerificationMetadata:
    metadata = read_metadata(Path(model))
    network = cast(load_network(definition, weights))
    window = next(iter(network.inputs.values()))[2:]
    sizes = verification_sizes(window, receptive_field(network, metadata.output_blob).stride)
    examples = verification_examples(network, metadata.preprocessing, sizes)
    return verify_savedmodel(load_savedmodel(model), network, metadata.output_blob, examples)


def render(report: VerifyReport) -> RenderableType:
    """Returns the report for a terminal."""
    parts: list[RenderableType] = []
    if report.caffe:
        v = report.caffe
        parts.append(f"{v.blobs} blobs at {len(v.sizes)} sizes agree; worst {v.worst:.1e} of absmax ({v.worst_blob})")
    if report.crops:
        parts.append(crop_comparison.render(report.crops))
    return Group(*parts)
