"""`densecast.json`: what a model directory says about itself, beside the SavedModel."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from conversion.errors import ModelError
from conversion.export.preprocessing import Preprocessing
from conversion.net.geometry import AxisGeometry, ReceptiveField
from conversion.net.network import Network, to_definition

FILE_NAME = "densecast.json"
NETWORK_FILE = "network.prototxt"  # the fully convolutional definition, for whoever wants to know what is in the graph
SCHEMA_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _in_floats(geometry: ReceptiveField) -> ReceptiveField:
    """Returns a geometry whose exact fractions are floats, as JSON needs them."""
    y, x = (AxisGeometry(*map(float, dataclasses.astuple(axis))) for axis in (geometry.y, geometry.x))
    return ReceptiveField(y, x)


GeometryMetadata = Annotated[ReceptiveField, AfterValidator(_in_floats)]
"""The geometry as a field of a pydantic model, in floats."""


class VerificationMetadata(_Frozen):
    """How far the SavedModel was from the NumPy reference when it was converted.

    Attributes:
        sizes: The inputs tried, as [batch, height, width].
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.
        worst: The largest difference found, in the same unit.
        worst_blob: Where.
        blobs: How many blobs were compared at each size.
    """

    sizes: tuple[tuple[int, int, int], ...]
    tolerance: float
    worst: float
    worst_blob: str
    blobs: int


class ModelMetadata(_Frozen):
    """All that a user of the model needs to know and the graph cannot say.

    Attributes:
        schema_version: Of this file.
        name: The network's name.
        digest: sha256 over definition, weights and preprocessing: two models with one digest give the same maps.
        converter_version: The version of densecast that wrote it.
        preprocessing: Done inside the graph.
        geometry: Which pixels a cell stands for.
        alignment: What the first row and column of a piece of an image have to be multiples of, so that its cells are
            those of the whole image's map, in pixels; None where no piece's are.
        classes: Number of classes.
        labels: Their names in order; empty if none were given.
        output_blob: The Caffe blob behind `probabilities`.
        features: What the `features` signature offers: name -> channels.
        multiply_adds_per_window: For one image of the training size.
        parameters: Number of learned values.
        verification: None before it was verified.
        notes: What the conversion found worth telling.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    digest: str
    converter_version: str
    preprocessing: Preprocessing
    geometry: GeometryMetadata
    alignment: tuple[int, int] | None = None
    classes: int
    labels: tuple[str, ...] = ()
    output_blob: str
    features: dict[str, int]
    multiply_adds_per_window: int
    parameters: int
    verification: VerificationMetadata | None = None
    notes: tuple[str, ...] = ()

    @property
    def minimum_size(self) -> tuple[int, int]:
        """(height, width) of the smallest image that gets a map: one nominal window."""
        return int(self.geometry.y.window), int(self.geometry.x.window)


def read_metadata(model: str | Path) -> ModelMetadata:
    """Reads `densecast.json` of a model directory; raises ModelError if there is none or it is not ours."""
    path = Path(model) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"not a densecast model: {FILE_NAME} cannot be read ({error.strerror})",
            where=str(model),
            remedy="make one with: densecast convert PROTOTXT WEIGHTS --output MODEL",
        ) from error
    try:
        return ModelMetadata.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(
            f"{FILE_NAME} is not valid: {error.error_count()} errors, the first: {error.errors()[0]['msg']}",
            where=str(path),
            remedy="convert the model again with this version of densecast",
        ) from error


def digest(network: Network, preprocessing: Preprocessing, output: str) -> str:
    """sha256 over the definition, the weights in order, the preprocessing and the blob that the maps are of."""
    sha = hashlib.sha256(to_definition(network).SerializeToString(deterministic=True))
    for layer in network.layers:
        for blob in network.parameters.get(layer.name, ()):
            sha.update(str(blob.shape).encode())
            sha.update(np.ascontiguousarray(blob).data)
    sha.update(preprocessing.model_dump_json().encode())
    sha.update(output.encode())
    return sha.hexdigest()
