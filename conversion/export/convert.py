"""`convert`: Caffe files -> a verified model directory, in six steps: read, cast, describe, build, verify, publish."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from conversion.caffe.reading import PathLike, check_weights_file, read_definition
from conversion.caffe.strip_training import Size
from conversion.errors import ConversionError, NetworkError, OptionError
from conversion.export.alignment import alignment_of
from conversion.export.dense import DenseNetwork, load_dense
from conversion.export.forms import DenseModel, FormChoice, choose_forms, store_weights, write_forms
from conversion.export.mean_file import write_mean_image
from conversion.export.metadata import CLASSIFIER_FILE, NETWORK_FILE, ModelMetadata, digest, own_layers
from conversion.export.options import DenseOptions
from conversion.export.preprocessing import ChannelOrder, Mean, Preprocessing, channel_mean, mean_image
from conversion.export.publish import check_target, partial_directory, publish
from conversion.export.reference_example import compute_reference, write_reference
from conversion.export.seal import file_digests, write_metadata
from conversion.export.signatures import default_features, feature_blobs, image_input
from conversion.export.verification import TOLERANCE, Example, verification_examples, verification_sizes
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.geometry import ReceptiveField, receptive_field
from conversion.net.network import Network
from conversion.net.shape_limits import peak_bytes
from conversion.passes.cast_names import CAST_SUFFIX
from conversion.passes.prune import prune
from conversion.surgery import write_definition


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The settings of a conversion; see `convert`. `where` is the definition's path, for errors."""

    where: str
    mean: Mean
    scale: float
    channel_order: ChannelOrder | None
    shape: DenseOptions
    labels: Sequence[str]
    features: Sequence[str] | None
    name: str
    random_weights: bool
    tolerance: float
    limits: Limits


def convert(
    prototxt: PathLike,
    weights: PathLike,
    output: PathLike,
    *,
    mean: Mean = None,
    scale: float = 1.0,
    channel_order: ChannelOrder | None = None,
    crop: Size | None = None,
    stages: Sequence[str] = (),
    level: int | None = None,
    output_blob: str | None = None,
    output_stride: int | None = None,
    pooling_rounding: Literal["floor"] | None = None,
    dialect: str | None = None,
    labels: Sequence[str] = (),
    features: Sequence[str] | None = None,
    name: str = "",
    random_weights: bool = False,
    form: FormChoice | None = None,
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
    limits: Limits = DEFAULT_LIMITS,
) -> ModelMetadata:
    """Converts a Caffe classifier into a dense model, verifies it, and only then puts it in place.

    Args:
        prototxt: The classifier's definition.
        weights: Its trained weights.
        output: The model directory to make.
        mean: See `channel_mean`. A mean image is also kept as it is, for `--windows`.
        scale: Factor applied after the mean is subtracted.
        channel_order: The order of the network's channels; by default "bgr" for three and "gray" for one.
        crop: See `DenseOptions`, as the next six.
        stages: See there.
        level: See there.
        output_blob: See there. By default there must be exactly one head.
        output_stride: See there.
        pooling_rounding: See there.
        dialect: See there.
        labels: The class names in order, one per class.
        features: The blobs that the `features` signature offers, by the classifier's own names; by default those that
            the InnerProducts read and write (CaffeNet: pool5, fc6, fc7, fc8).
        name: The model's name; by default the definition's.
        random_weights: Whether the weights are random; the model then says so.
        form: What the directory holds: a "savedmodel", an "onnx" graph or "both"; see `choose_forms` for the default.
        overwrite: Whether to replace an existing model directory.
        tolerance: See `verify`.
        limits: Upper limits on what the files contain.

    Returns:
        The contents of `densecast.json`.

    Raises:
        DensecastError: One of the errors in `conversion.errors`. Nothing is left at `output` then, and a model that
            was there before is unchanged.
    """
    options = _Options(
        where=str(prototxt),
        mean=mean,
        scale=scale,
        channel_order=channel_order,
        shape=DenseOptions(
            crop=crop,
            stages=tuple(stages),
            level=level,
            output_blob=output_blob,
            output_stride=output_stride,
            pooling_rounding=pooling_rounding,
            dialect=dialect,
        ),
        labels=labels,
        features=features,
        name=name,
        random_weights=random_weights,
        tolerance=tolerance,
        limits=limits,
    )
    target, forms = Path(output), choose_forms(form)
    check_conversion(prototxt, weights, output, overwrite=overwrite, limits=limits)
    dense = load_dense(prototxt, weights, options.shape, features=features or (), limits=limits)
    model = _describe(dense, options)
    del dense
    examples = _examples(model, options)
    with partial_directory(target) as partial:
        store_weights(model, partial, forms)
        model = model.bare()  # the weights are large: from here on they are read from the file
        metadata = write_forms(model, partial, forms, examples, tolerance=tolerance, by_default=form is None)
        if "onnx" in metadata.forms:  # in which several engines can run it
            write_reference(partial, compute_reference(examples[0].network, metadata))
        write_definition(model.network, partial / NETWORK_FILE)
        write_definition(model.classifier, partial / CLASSIFIER_FILE)
        kept_mean = mean_image(mean, len(metadata.preprocessing.mean), limits=limits)
        if kept_mean is not None:
            write_mean_image(partial, kept_mean)
        metadata = metadata.model_copy(update={"files": file_digests(partial)})
        write_metadata(partial, metadata)
        publish(partial, target, overwrite=overwrite)
    return metadata


def check_conversion(
    prototxt: PathLike, weights: PathLike, output: PathLike, *, overwrite: bool = False, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Checks quickly what a conversion would fail of: files that cannot be read or are of another kind, and the output.

    Args:
        prototxt: See `convert`, as the others.
        weights: See there.
        output: See there.
        overwrite: See there.
        limits: See there.

    Raises:
        ConversionError: The output exists, or cannot be made.
        ReadingError: A file cannot be read, or is of another kind.
        UnsupportedError: The definition has fields that densecast does not know.
        LimitError: The definition is too large.
    """
    check_target(Path(output), overwrite=overwrite)
    read_definition(prototxt, limits=limits)
    check_weights_file(weights)


def _describe(dense: DenseNetwork, options: _Options) -> DenseModel:
    """Returns the model with its metadata.

    Raises:
        ConversionError: Output, labels, mean or geometry do not fit.
        CastError: The network does not accept the sizes that it could.
    """
    where, network, output = options.where, dense.network, dense.output.require()
    classes = network.shapes[output][1]
    if options.labels and len(options.labels) != classes:
        raise OptionError(
            f"{len(options.labels)} labels for {classes} classes",
            where=where,
            remedy="give one line per class, in order",
        )
    image, channels = image_input(network, where)
    geometry = _geometry(network, output, where)
    preprocessing, notes = _preprocessing(channels, options)
    kept_mean = mean_image(options.mean, channels, limits=options.limits)
    wanted = default_features(network, output) if options.features is None else options.features
    features = feature_blobs(network, wanted)
    metadata = ModelMetadata(
        name=options.name or network.name or Path(where).stem,
        digest=digest(network, preprocessing, output),
        converter_version=importlib.metadata.version("densecast"),
        preprocessing=preprocessing,
        mean_image=None if kept_mean is None else kept_mean.shape[1:],
        geometry=geometry,
        alignment=_alignment(network, output),
        classes=classes,
        labels=tuple(options.labels),
        output_blob=output,
        options=options.shape,
        features={name: network.shapes[blob][1] for name, blob in features.items()},
        multiply_adds_per_window=network.multiply_adds({image: (1, *network.inputs[image][1:])}),
        parameters=network.parameter_count(),
        notes=(*network.notes, *dense.require_sizes(), *notes),
        random_weights=options.random_weights,
        own_layers=own_layers(network),
    )
    classifier = _classifier(dense.classifier, output, list(features))
    return DenseModel(network, output, features, classifier, metadata)


def _geometry(network: Network, output: str, where: str) -> ReceptiveField:
    geometry = receptive_field(network, output)
    # Upsampling makes windows of less than a pixel, of cells that are as near as that.
    if any(window < min(stride, 1) for window, stride in zip(geometry.nominal_window, geometry.stride, strict=True)):
        raise ConversionError(
            f"a nominal window of {' x '.join(map(str, geometry.nominal_window))} pixels",
            where=where,
            why="the net pads more than its windows read, so that its cells correspond to no part of the image",
        )
    return geometry


def _preprocessing(channels: int, options: _Options) -> tuple[Preprocessing, list[str]]:
    """Returns the preprocessing of an image, and notes: the mean image was reduced, or no mean was given."""
    scale = options.scale
    if scale == 0 or not math.isfinite(scale):
        raise OptionError(f"scale {scale}", why="all images would look the same to the network")
    order: ChannelOrder = options.channel_order or ("gray" if channels == 1 else "bgr")
    if (order == "gray") != (channels == 1):
        raise OptionError(f"channel order {order} for a network of {channels} input channels")
    values, note = channel_mean(options.mean, channels, limits=options.limits)
    notes = [note] if note else []
    if options.mean is None:
        notes.append(
            "no mean was given: nothing is subtracted, and if the net was trained with a mean, its maps are wrong"
        )
    return Preprocessing(channel_order=order, mean=values, scale=scale), notes


def _alignment(network: Network, output: str) -> tuple[int, int] | None:
    """Returns the metadata's `alignment`; None for a network that runs on whole images only."""
    try:
        return alignment_of(network, output)
    except NetworkError:
        return None


def _classifier(classifier: Network, output: str, features: Sequence[str]) -> Network:
    """Returns the part of the classifier that computes the map's blob and the features that it has."""
    names = [name if name in classifier.shapes else name.removesuffix(CAST_SUFFIX) for name in (output, *features)]
    return prune(classifier, [name for name in dict.fromkeys(names) if name in classifier.shapes])


def _examples(model: DenseModel, options: _Options) -> list[Example]:
    """Returns what the model is verified on; raises LimitError if the reference needs more memory than is allowed."""
    network, metadata = model.network, model.metadata
    ((image, shape),) = network.inputs.items()
    sizes = verification_sizes(shape[2:], (metadata.geometry.y.stride, metadata.geometry.x.stride))
    for batch, *size in sizes:
        peak_bytes(network, {image: (batch, shape[1], *size)}, options.limits, f"{options.where}, verification")
    return verification_examples(network, metadata.preprocessing, sizes)
