"""`convert`: Caffe files -> a verified model directory."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conversion.caffe.reading import PathLike
from conversion.caffe.strip_training import Size
from conversion.errors import ConversionError, NetworkError, WeightsError
from conversion.export import savedmodel
from conversion.export.alignment import alignment_of
from conversion.export.metadata import FILE_NAME, NETWORK_FILE, ModelMetadata, digest
from conversion.export.preprocessing import ChannelOrder, Mean, Preprocessing, channel_mean
from conversion.export.verification import TOLERANCE, verification_examples, verification_sizes, verify_savedmodel
from conversion.layers.convolution import Convolution
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.geometry import receptive_field
from conversion.net.load import load_network
from conversion.net.network import Network
from conversion.passes.cast import cast
from conversion.passes.cast_names import CAST_SUFFIX, blob_names
from conversion.passes.dilate import dilate
from conversion.passes.prune import prune
from conversion.surgery import write_definition


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
    labels: Sequence[str] = (),
    features: Sequence[str] | None = None,
    name: str = "",
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
    limits: Limits = DEFAULT_LIMITS,
) -> ModelMetadata:
    """Converts a Caffe classifier into a dense SavedModel, verifies it, and only then puts it in place.

    Args:
        prototxt: The classifier's definition.
        weights: Its trained weights.
        output: The model directory to make.
        mean: See `channel_mean`.
        scale: Multiplied after the mean is subtracted.
        channel_order: What the network's channels are; by default "bgr" for three and "gray" for one.
        crop: The size the classifier was trained at: one number for both sides, (height, width) or (channels, height,
            width); the definition's own by default.
        stages: The stages that `include` and `exclude` rules ask for, besides those that the definition states.
        level: The level that they ask for; by default the definition's.
        output_blob: Which of several heads gives the probabilities, by the name of its Softmax blob; what only others
            need is left out. By default there must be one.
        output_stride: Pixels between cells, a divisor of the map's own stride; see `dilate`, which costs multiply-adds.
        labels: The class names in order; must be as many as there are classes.
        features: The blobs that the `features` signature offers, by the classifier's own names; by default what the
            InnerProducts read and write (CaffeNet: pool5, fc6, fc7, fc8).
        name: The model's name; the definition's by default.
        overwrite: Replace an existing model directory.
        tolerance: See `verify`.
        limits: What the files may ask for.

    Returns:
        What was written to `densecast.json`.

    Raises:
        DensecastError: One of the errors in `conversion.errors`; nothing is left at `output` then, and a model that
            was there before is still there.
    """
    target = Path(output)
    _check_target(target, overwrite)
    where = str(prototxt)
    network = cast(_load(prototxt, weights, crop, stages, level, limits))
    probabilities = _output(network, where, output_blob)
    if output_blob is not None:
        network = prune(network, [probabilities, *_features(network, features or ()).values()])
    if output_stride is not None:
        network = dilate(network, output_stride, probabilities)
    classes = network.shapes[probabilities][1]
    if labels and len(labels) != classes:
        raise ConversionError(
            f"{len(labels)} labels for {classes} classes", where=where, remedy="give one line a class, in order"
        )
    blob, channels = _image_input(network, where)
    geometry = receptive_field(network, probabilities)
    if min(geometry.nominal_window) < 1:
        raise ConversionError(
            f"a nominal window of {' x '.join(map(str, geometry.nominal_window))} pixels",
            where=where,
            why="the net pads more than its windows read, so that its cells stand for no part of the image",
            remedy="take the padding out of the definition: a dense model needs none beyond half a kernel",
        )
    preprocessing, note = _preprocessing(channels, mean, scale, channel_order, limits)
    offered = _features(network, _heads(network, probabilities) if features is None else features)
    metadata = ModelMetadata(
        name=name or network.name or Path(prototxt).stem,
        digest=digest(network, preprocessing, probabilities),
        converter_version=importlib.metadata.version("densecast"),
        preprocessing=preprocessing,
        geometry=geometry,
        alignment=_alignment(network, probabilities),
        classes=classes,
        labels=tuple(labels),
        output_blob=probabilities,
        features={key: network.shapes[value][1] for key, value in offered.items()},
        multiply_adds_per_window=network.multiply_adds({blob: (1, *network.inputs[blob][1:])}),
        parameters=network.parameter_count(),
        notes=(*network.notes, *([note] if note else ())),
    )
    sizes = verification_sizes(network.inputs[blob][2:], geometry.stride)
    # The reference first, TensorFlow second, and then only its copy of the weights: they are large.
    against = verification_examples(network, preprocessing, sizes)
    module = savedmodel.dense_model(network, preprocessing, probabilities, offered)
    network = dataclasses.replace(network, parameters={})
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place under another name: a reader of `output` never sees half a model.
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        savedmodel.save(module, partial)
        del module
        gc.collect()  # functions and variables refer to each other: without it the weights stay twice
        result = verify_savedmodel(
            savedmodel.load_savedmodel(partial), network, probabilities, against, tolerance=tolerance
        )
        metadata = metadata.model_copy(update={"verification": result})
        (partial / FILE_NAME).write_text(metadata.model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_definition(network, partial / NETWORK_FILE)
        _publish(partial, target, overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return metadata


def _preprocessing(
    channels: int, mean: Mean, scale: float, channel_order: ChannelOrder | None, limits: Limits
) -> tuple[Preprocessing, str]:
    """What is done to an image, and a note where the mean was reduced."""
    if scale == 0 or not math.isfinite(scale):
        raise ConversionError(f"scale {scale}", why="every image would look alike to the network")
    order: ChannelOrder = channel_order or ("gray" if channels == 1 else "bgr")
    if (order == "gray") != (channels == 1):
        raise ConversionError(f"channel order {order} for a network of {channels} input channels")
    values, note = channel_mean(mean, channels, limits=limits)
    return Preprocessing(channel_order=order, mean=values, scale=scale), note


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
            old.rmdir()
            raise
        shutil.rmtree(old)
    else:
        partial.rename(target)


def _load(
    prototxt: PathLike, weights: PathLike, crop: Size | None, stages: Sequence[str], level: int | None, limits: Limits
) -> Network:
    """The classifier; refused where its weights do not fit the input size that was asked for."""
    try:
        return load_network(prototxt, weights, crop=crop, stages=stages, level=level, limits=limits)
    except WeightsError as error:
        if crop is None:
            raise
        size = "x".join(map(str, (crop, crop) if isinstance(crop, int) else crop))
        raise ConversionError(
            f"crop {size} does not fit the weights: {error.what}",
            where=error.where,
            remedy="give the size that the classifier was trained at",
        ) from error


def _alignment(network: Network, output: str) -> tuple[int, int] | None:
    """The metadata's `alignment`."""
    try:
        return alignment_of(network, output)
    except NetworkError:  # it can be run as it is; only not piece by piece
        return None


def _image_input(network: Network, where: str) -> tuple[str, int]:
    inputs = network.inputs
    if len(inputs) != 1 or any(len(shape) != 4 or shape[1] not in (1, 3) for shape in inputs.values()):
        raise ConversionError(
            f"inputs {inputs}", where=where, why="a dense model takes one input, an image of 1 or 3 channels"
        )
    ((blob, shape),) = inputs.items()
    return blob, shape[1]


def _output(network: Network, where: str, wanted: str | None) -> str:
    """The blob of class probabilities: the one output that a Softmax gives, or the one that is wanted."""
    writers = {top: layer.caffe_type for layer in network.layers for top in layer.tops}  # the last one counts
    maps = [blob for blob, kind in writers.items() if kind == "Softmax" and len(network.shapes[blob]) == 4]
    if wanted is not None:
        if wanted not in maps:
            raise ConversionError(
                f"output {wanted!r} is no map of class probabilities",
                where=where,
                why="a Softmax gives those",
                remedy=f"the network has {', '.join(maps) or 'none'}",
            )
        return wanted
    candidates = [blob for blob in network.outputs if blob in maps]
    if len(candidates) != 1:
        raise ConversionError(
            f"{len(candidates)} outputs are class probabilities{': ' if candidates else ''}{', '.join(candidates)}",
            where=where,
            why=f"the outputs are {', '.join(network.outputs)}, and a map needs exactly one that a Softmax gives",
            remedy="say which head gives the map: output_blob"
            if candidates
            else "use the deploy definition, which ends in one Softmax",
        )
    return candidates[0]


def _heads(network: Network, output: str) -> list[str]:
    """What is offered unless something else is asked for: what the InnerProducts that were read and wrote.

    Where there were none (SqueezeNet), it is what the Softmax reads: the scores.
    """
    heads = [layer for layer in network.layers if isinstance(layer, Convolution) and layer.name.endswith(CAST_SUFFIX)]
    blobs = dict.fromkeys(blob for layer in heads for blob in (*layer.bottoms, *layer.tops))
    if not blobs:
        last = next(layer for layer in reversed(network.layers) if output in layer.tops)
        blobs = dict.fromkeys(last.bottoms)
    names = {blob: name for name, blob in reversed(blob_names(network).items())}
    return [names[blob] for blob in blobs]


def _features(network: Network, wanted: Sequence[str]) -> dict[str, str]:
    """Feature name -> blob. A blob that the cast renamed is offered under the classifier's own name."""
    names = blob_names(network)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConversionError(f"no blob {', '.join(unknown)}", remedy=f"the network has {', '.join(names)}")
    return {name: names[name] for name in wanted}
