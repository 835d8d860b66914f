"""`convert`: Caffe files -> a verified model directory."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from conversion import savedmodel
from conversion.casting import SUFFIX, cast
from conversion.errors import ConversionError
from conversion.geometry import Number, receptive_field
from conversion.layers.convolution import Convolution
from conversion.metadata import FILE_NAME, NETWORK_FILE, GeometryMetadata, ModelMetadata, digest
from conversion.network import Network, build, learned, load_network, to_definition
from conversion.preprocessing import ChannelOrder, Preprocessing, channel_mean
from conversion.reading import PathLike
from conversion.surgery import save
from conversion.verification import TOLERANCE, verify


def convert(
    prototxt: PathLike,
    weights: PathLike,
    output: PathLike,
    *,
    mean: ArrayLike | str | Path | None = None,
    scale: float = 1.0,
    channel_order: ChannelOrder | None = None,
    crop: int | tuple[int, int] | None = None,
    labels: Sequence[str] = (),
    features: Sequence[str] | None = None,
    name: str = "",
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
) -> ModelMetadata:
    """Converts a Caffe classifier into a dense SavedModel, verifies it, and only then puts it in place.

    Args:
        prototxt: The classifier's definition.
        weights: Its trained weights.
        output: The model directory to make.
        mean: See `channel_mean`.
        scale: Multiplied after the mean is subtracted.
        channel_order: What the network's channels are; by default "bgr" for three and "gray" for one.
        crop: The size the classifier was trained at, (height, width) or one number; the definition's own by default.
        labels: The class names in order; must be as many as there are classes.
        features: The blobs that the `features` signature offers, by the classifier's own names; by default what the
            InnerProducts read and write (CaffeNet: pool5, fc6, fc7, fc8).
        name: The model's name; the definition's by default.
        overwrite: Replace an existing model directory.
        tolerance: See `verify`.

    Returns:
        What was written to `densecast.json`.

    Raises:
        DensecastError: One of the errors in `conversion.errors`; nothing is left at `output` then, and a model that
            was there before is still there.
    """
    target = Path(output)
    _check_target(target, overwrite)
    classifier = load_network(prototxt, weights)
    if crop is not None:
        classifier = _at_crop(classifier, (crop, crop) if isinstance(crop, int) else crop)
    network = cast(classifier)
    blob, channels = _image_input(network, str(prototxt))
    probabilities = _output(network, str(prototxt))
    classes = network.shapes[probabilities][1]
    if labels and len(labels) != classes:
        raise ConversionError(
            f"{len(labels)} labels for {classes} classes", where=str(prototxt), remedy="give one line a class, in order"
        )
    values, note = channel_mean(mean, channels)
    preprocessing = Preprocessing(
        channel_order=channel_order or ("gray" if channels == 1 else "bgr"), mean=values, scale=scale
    )
    if (preprocessing.channel_order == "gray") != (channels == 1):
        raise ConversionError(f"channel order {preprocessing.channel_order} for a network of {channels} input channels")
    offered = _features(network, features)
    geometry = receptive_field(network, probabilities)
    window = network.inputs[blob][2:]
    metadata = ModelMetadata(
        name=name or network.name or Path(prototxt).stem,
        digest=digest(network, preprocessing),
        converter_version=importlib.metadata.version("densecast"),
        preprocessing=preprocessing,
        geometry=GeometryMetadata.of(geometry),
        classes=classes,
        labels=tuple(labels),
        output_blob=probabilities,
        features={key: network.shapes[value][1] for key, value in offered.items()},
        multiply_adds_per_window=network.multiply_adds({blob: (1, channels, window[0], window[1])}),
        parameters=network.parameter_count(),
        notes=(*network.notes, *([note] if note else ())),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place under another name: a reader of `output` never sees half a model.
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        savedmodel.save(savedmodel.dense_model(network, preprocessing, probabilities, offered), partial)
        result = verify(
            savedmodel.load(partial),
            network,
            preprocessing,
            probabilities,
            _sizes(window, geometry.stride),
            tolerance=tolerance,
        )
        metadata = metadata.model_copy(update={"verification": result})
        (partial / FILE_NAME).write_text(metadata.model_dump_json(indent=2) + "\n", encoding="utf-8")
        save(network, partial / NETWORK_FILE)
        _publish(partial, target, overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return metadata


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise ConversionError(
            "the output exists", where=str(target), remedy="name another, or allow it to be overwritten"
        )
    if not (target / FILE_NAME).exists():
        raise ConversionError(
            "the output exists and is not a densecast model", where=str(target), why="only models are overwritten"
        )


def _publish(partial: Path, target: Path, overwrite: bool) -> None:
    partial.chmod(0o755)  # mkdtemp made it private; a model is read by workers of other users
    if overwrite and target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.rename(old / target.name)
        try:
            partial.rename(target)
        except OSError:
            (old / target.name).rename(target)
            raise
        finally:
            shutil.rmtree(old)
    else:
        partial.rename(target)


def _at_crop(network: Network, crop: tuple[int, int]) -> Network:
    """The classifier at another input size; refused where its weights do not fit that size."""
    definition = to_definition(network)
    for message in definition.layer:
        for shape in message.input_param.shape:
            if len(shape.dim) == 4:
                shape.dim[2:] = crop
    resized = build(definition, network.parameters)
    for layer, shapes in learned(resized):
        found = [blob.shape for blob in network.parameters.get(layer.name, ())]
        if found != shapes:
            raise ConversionError(
                f"crop {crop[0]}x{crop[1]} asks for weights of shape {shapes}, the model has {found}",
                where=layer.where,
                remedy="give the size that the classifier was trained at",
            )
    return resized


def _image_input(network: Network, where: str) -> tuple[str, int]:
    inputs = network.inputs
    if len(inputs) != 1 or any(len(shape) != 4 or shape[1] not in (1, 3) for shape in inputs.values()):
        raise ConversionError(
            f"inputs {inputs}", where=where, why="a dense model takes one input, an image of 1 or 3 channels"
        )
    ((blob, shape),) = inputs.items()
    return blob, shape[1]


def _output(network: Network, where: str) -> str:
    """The blob of class probabilities: the one output that a Softmax gives."""
    softmax = {top for layer in network.layers if layer.caffe_type == "Softmax" for top in layer.tops}
    candidates = [blob for blob in network.outputs if blob in softmax and len(network.shapes[blob]) == 4]
    if len(candidates) != 1:
        raise ConversionError(
            f"{len(candidates)} outputs are class probabilities{': ' if candidates else ''}{', '.join(candidates)}",
            where=where,
            why=f"the outputs are {', '.join(network.outputs)}, and a map needs exactly one that a Softmax gives",
            remedy="use the deploy definition, which ends in one Softmax",
        )
    return candidates[0]


def _features(network: Network, wanted: Sequence[str] | None) -> dict[str, str]:
    """Feature name -> blob. A blob that the cast renamed is offered under the classifier's own name."""
    names = {blob.removesuffix(SUFFIX): blob for blob, shape in network.shapes.items() if len(shape) == 4}
    if wanted is None:
        heads = [layer for layer in network.layers if isinstance(layer, Convolution) and layer.name.endswith(SUFFIX)]
        blobs = dict.fromkeys(blob for layer in heads for blob in (*layer.bottoms, *layer.tops))
        return {blob.removesuffix(SUFFIX): blob for blob in blobs}
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConversionError(f"no blob {', '.join(unknown)}", remedy=f"the network has {', '.join(names)}")
    return {name: names[name] for name in wanted}


def _sizes(window: tuple[int, ...], stride: tuple[Number, Number]) -> list[tuple[int, int, int]]:
    """The training size, and two that exercise Caffe's rounding: neither side a whole number of strides away."""
    y, x = (max(int(s), 1) for s in stride)
    return [
        (2, window[0], window[1]),
        (1, window[0] + y // 2 + 1, window[1] + 2 * x - 1),
        (1, window[0] + 2 * y + 1, window[1] + x // 3),
    ]
