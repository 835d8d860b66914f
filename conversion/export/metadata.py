"""`densecast.json`: the description of a model, beside its SavedModel and its ONNX graph."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from conversion.errors import ModelError
from conversion.export.options import DenseOptions
from conversion.export.preprocessing import MEAN_IMAGE_NOTE, Preprocessing
from conversion.net.geometry import AxisGeometry, ReceptiveField
from conversion.net.network import Network, to_definition

FILE_NAME = "densecast.json"
NETWORK_FILE = "network.prototxt"  # the fully convolutional definition, which shows what the graph computes
MEAN_FILE = "mean.npy"  # the mean image as it was given, [C, H, W]
REFERENCE_FILE = "reference.npz"  # an image, and the map that the NumPy reference computes of it
CLASSIFIER_FILE = "classifier.prototxt"  # the classifier's own definition, as far as map and features need it
SCHEMA_VERSION = 3
"""The format of a model directory that this version writes; it reads this one and those before.

1: without `files`. 2: with the digests of all files. 3: with an ONNX graph, a SavedModel or both, an index of the
weights, the classifier's definition, and the mean image.
"""
_OLDEST = 1
_MAX_BYTES = 64 << 20  # ImageNet's 1,000 labels make 30 kB


Form = Literal["savedmodel", "onnx"]
"""A form in which a model directory holds what it computes."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _in_floats(geometry: ReceptiveField) -> ReceptiveField:
    """Returns a geometry whose exact fractions are floats, as JSON needs them."""
    y, x = (AxisGeometry(*map(float, dataclasses.astuple(axis))) for axis in (geometry.y, geometry.x))
    return ReceptiveField(y, x)


GeometryMetadata = Annotated[ReceptiveField, AfterValidator(_in_floats)]
"""The geometry as a field of a pydantic model, in floats."""


class VerificationMetadata(_Frozen):
    """The difference between a form of a model and the NumPy reference at the conversion.

    Attributes:
        sizes: The sizes of the inputs, as [batch, height, width].
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.
        worst: The largest difference, in the same unit.
        worst_blob: The blob with that difference.
        blobs: The number of blobs compared at each size.
    """

    sizes: tuple[tuple[int, int, int], ...]
    tolerance: float
    worst: float
    worst_blob: str
    blobs: int


class ModelMetadata(_Frozen):
    """What users of the model need to know besides the graph.

    Attributes:
        schema_version: Version of the format of the model directory.
        name: The network's name.
        digest: SHA-256 of definition, weights and preprocessing: models with one digest compute the same maps.
        converter_version: The version of densecast that wrote the file.
        preprocessing: The preprocessing, which the graph contains.
        mean_image: (height, width) of the mean image in `MEAN_FILE`, of which the graph has the channel mean; None
            where none is kept, see `lost_mean_image`.
        geometry: The pixels of the map's cells.
        alignment: The step of the first rows and columns of tiles, in pixels, at which a tile's cells equal those of
            the whole image's map; None if there is none.
        classes: Number of classes.
        labels: Their names in order; may be empty.
        output_blob: The Caffe blob behind `probabilities`.
        options: What shaped the network besides the Caffe files; None in models of versions that did not record it.
        features: The features that the `features` signature offers: channels by name.
        multiply_adds_per_window: For one image of the training size.
        parameters: Number of learned values.
        forms: What the directory holds: a SavedModel, an ONNX graph or both.
        verification: The result of the SavedModel's verification; None before it, and without a SavedModel.
        onnx_verification: That of the ONNX graph; None before it, and without one.
        notes: Notes for the user on what the conversion changed or ignored.
        random_weights: Whether the weights are random numbers, so that the classes mean nothing.
        own_layers: The layers of other packages that the network has: the package and its version, by layer type.
        files: SHA-256 of every other file of the directory, by path; None in models of versions that did not record it.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    digest: str
    converter_version: str
    preprocessing: Preprocessing
    mean_image: tuple[int, int] | None = None
    geometry: GeometryMetadata
    alignment: tuple[int, int] | None = None
    classes: int
    labels: tuple[str, ...] = ()
    output_blob: str
    options: DenseOptions | None = None
    features: dict[str, int]
    multiply_adds_per_window: int
    parameters: int
    forms: tuple[Form, ...] = ("savedmodel",)
    verification: VerificationMetadata | None = None
    onnx_verification: VerificationMetadata | None = None
    notes: tuple[str, ...] = ()
    random_weights: bool = False
    files: dict[str, str] | None = None
    own_layers: dict[str, str] = {}

    @property
    def verifications(self) -> dict[Form, VerificationMetadata]:
        """The results of all verifications, by form."""
        results: dict[Form, VerificationMetadata | None]
        results = {"savedmodel": self.verification, "onnx": self.onnx_verification}
        return {form: result for form, result in results.items() if result is not None}

    @property
    def takes_grey(self) -> bool:
        """Whether the network takes grey images."""
        return self.preprocessing.channel_order == "gray"

    @property
    def lost_mean_image(self) -> bool:
        """Whether the model was made with a mean image that an older version did not keep."""
        return self.mean_image is None and any(note.startswith(MEAN_IMAGE_NOTE) for note in self.notes)

    @property
    def minimum_size(self) -> tuple[int, int]:
        """(height, width) of the smallest image with a map: one nominal window."""
        return int(self.geometry.y.window), int(self.geometry.x.window)

    @property
    def size_of_four_cells(self) -> tuple[int, int]:
        """(height, width) of an image with a map of at least 2 x 2 cells."""
        height, width = self.minimum_size
        return int(height + self.geometry.y.stride), int(width + self.geometry.x.stride)


class _Version(BaseModel):
    """The part of `densecast.json` that every version has."""

    schema_version: int = _OLDEST


def read_metadata(model: str | Path) -> ModelMetadata:
    """Reads `densecast.json` of a model directory.

    Raises:
        ModelError: It is missing or not valid, or a newer version of densecast wrote it.
    """
    path = Path(model) / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"not a densecast model: {FILE_NAME} cannot be read ({error.strerror})",
            where=str(model),
            remedy="make one with: densecast convert PROTOTXT WEIGHTS --output MODEL",
        ) from error
    if len(text) > _MAX_BYTES:
        raise _invalid(path, f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        version = _Version.model_validate_json(text).schema_version
        if not _OLDEST <= version <= SCHEMA_VERSION:
            raise ModelError(
                f"the model has format {version}, and this version of densecast reads {_OLDEST} to {SCHEMA_VERSION}",
                where=str(path),
                remedy="use the version of densecast that made it, or a newer one",
            )
        return ModelMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise _invalid(path, ": ".join(filter(None, (field, first["msg"])))) from error


def require_savedmodel(model: str | Path, metadata: ModelMetadata) -> None:
    """Raises ModelError if a model directory has no SavedModel."""
    if "savedmodel" not in metadata.forms:
        raise ModelError(
            "the model has no SavedModel",
            where=str(model),
            why=f"it was converted to {' and '.join(metadata.forms)} only, and TensorFlow runs SavedModels",
            remedy="convert it again where TensorFlow is installed: densecast convert PROTOTXT WEIGHTS --output MODEL "
            "--format both",
        )


def _invalid(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{FILE_NAME} is not valid",
        where=str(path),
        why=why,
        remedy="convert the model again with this version of densecast",
    )


def own_layers(network: Network) -> dict[str, str]:
    """Returns the package and its version, by layer type, of the network's layers that are of other packages."""
    found = {layer.caffe_type: layer.package for layer in network.layers if layer.package}
    return dict(sorted(found.items()))


def digest(network: Network, preprocessing: Preprocessing, output: str) -> str:
    """Returns the SHA-256 of the definition, the weights in order, the preprocessing and the blob of the maps."""
    sha = hashlib.sha256(to_definition(network).SerializeToString(deterministic=True))
    for layer in network.layers:
        for blob in network.parameters.get(layer.name, ()):
            sha.update(str(blob.shape).encode())
            sha.update(np.ascontiguousarray(blob).data)
    sha.update(preprocessing.model_dump_json().encode())
    sha.update(output.encode())
    for caffe_type, package in own_layers(network).items():
        sha.update(f"{caffe_type} {package}".encode())
    return sha.hexdigest()
