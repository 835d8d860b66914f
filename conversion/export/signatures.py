"""What a model reads and offers: its image input, its map of probabilities, its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from conversion.caffe.strip_training import STAGE_NOTE
from conversion.errors import ConversionError
from conversion.layers.convolution import Convolution
from conversion.layers.normalization import Softmax
from conversion.names import nearest
from conversion.net.geometry import spans
from conversion.net.network import Network
from conversion.passes.cast_names import CAST_SUFFIX, blob_names


def image_input(network: Network, where: str) -> tuple[str, int]:
    """Returns the input blob and its number of channels; raises ConversionError unless it is one image."""
    inputs = network.inputs
    if len(inputs) != 1 or any(len(shape) != 4 or shape[1] not in (1, 3) for shape in inputs.values()):
        raise ConversionError(
            f"inputs {inputs}", where=where, why="a dense model takes one input, an image of 1 or 3 channels"
        )
    ((blob, shape),) = inputs.items()
    return blob, shape[1]


class Output(NamedTuple):
    """The blob of the map, as every command chooses it.

    Attributes:
        blob: Its name after the cast.
        reason: Why it is this one.
        refusal: Why a model cannot have this map; None if it can.
    """

    blob: str
    reason: str
    refusal: ConversionError | None = None

    def require(self) -> str:
        """Returns the blob; raises ConversionError if it is not a map of class probabilities, or one of several."""
        if self.refusal is not None:
            raise self.refusal
        return self.blob


def choose_output(network: Network, where: str, wanted: str | None = None) -> Output:
    """Returns the blob of the map: the wanted one, or the only output that a Softmax over classes computes.

    A net without exactly one such output still has a last map that can be described: it comes with the refusal that
    its conversion ends in.

    Args:
        network: Fully convolutional.
        where: The definition's path, for errors.
        wanted: A blob by the classifier's own name, or by its name after the cast.

    Raises:
        ConversionError: There is no such blob.
    """
    softmaxes = {top: layer for layer in network.layers if isinstance(layer, Softmax) for top in layer.tops}
    written = {top: layer for layer in network.layers for top in layer.tops}
    maps = [
        blob
        for blob, layer in softmaxes.items()
        if written[blob] is layer and len(network.shapes[blob]) == 4 and layer.axis % 4 == 1
    ]
    if wanted is not None:
        return _wanted(network, where, wanted, maps)
    candidates = [blob for blob in network.outputs if blob in maps]
    if len(candidates) == 1:
        return Output(candidates[0], "the only output that a Softmax over the classes computes")
    if candidates:
        refusal = ConversionError(
            f"{len(candidates)} outputs are class probabilities: {', '.join(candidates)}",
            where=where,
            why="a model has one map",
            remedy=f"name the head that gives it: --output-blob {candidates[-1]}, or output_blob in Python",
        )
        return Output(candidates[-1], "the last of several heads", refusal)
    known = spans(network)
    last = next((blob for blob in reversed([*network.shapes, *network.outputs]) if known.get(blob)), "")
    if maps:
        reader = next(layer for layer in network.layers if maps[-1] in layer.bottoms)
        refusal = ConversionError(
            f"no output is class probabilities, but blob {maps[-1]!r} is: {reader.where} reads it",
            where=where,
            why=f"the outputs are {', '.join(network.outputs)}, and none is the top of a Softmax",
            remedy=f"name the blob: --output-blob {maps[-1]}, or output_blob in Python; the layers after it are left "
            "out of the map",
        )
        return Output(maps[-1], "the last blob of class probabilities, though not an output", refusal)
    return Output(last, "the last blob with positions", _no_probabilities(network, where, softmaxes))


def _wanted(network: Network, where: str, wanted: str, maps: Sequence[str]) -> Output:
    if wanted in maps:
        return Output(wanted, "asked for by its name")
    names = blob_names(network)
    if wanted not in names:
        near = nearest(wanted, names, 3)
        raise ConversionError(
            f"no blob {wanted!r} with positions",
            where=where,
            remedy=f"nearest: {', '.join(near)}" if near else f"the network has {', '.join(names)}",
        )
    refusal = ConversionError(
        f"output {wanted!r} is not a map of class probabilities",
        where=where,
        why="such a map is the top of a Softmax over the classes, axis 1",
        remedy=f"--output-blob takes {' or '.join(maps)}" if maps else "",
    )
    return Output(names[wanted], "asked for by its name", refusal)


def _no_probabilities(network: Network, where: str, softmaxes: Mapping[str, Softmax]) -> ConversionError:
    """Returns the error for a network that no Softmax over classes ends: no name of a blob helps."""
    along = [
        f"{layer.where} works along axis {layer.axis % len(shape)} of {shape}"
        + (", where Caffe computes 1 for every class" if shape[layer.axis % len(shape)] == 1 else "")
        for blob, layer in softmaxes.items()
        if (shape := network.shapes[blob])
    ]
    return ConversionError(
        "no blob is class probabilities",
        where=where,
        why="; ".join(
            [
                "--output-blob names the top of a Softmax over the classes, axis 1, and the net has none",
                *along,
                f"the outputs are {', '.join(network.outputs)}",
                *(note for note in network.notes if note.startswith(STAGE_NOTE)),
            ]
        ),
        remedy="give the definition that the classifier is deployed with, which ends in a Softmax",
    )


def default_features(network: Network, output: str) -> list[str]:
    """Returns the blobs offered by default: those that the classifier's InnerProducts read and write.

    A classifier without InnerProducts (SqueezeNet) offers what its Softmax reads: the scores.
    """
    heads = [layer for layer in network.layers if isinstance(layer, Convolution) and layer.name.endswith(CAST_SUFFIX)]
    blobs = dict.fromkeys(blob for layer in heads for blob in (*layer.bottoms, *layer.tops))
    if not blobs:
        last = next(layer for layer in reversed(network.layers) if output in layer.tops)
        blobs = dict.fromkeys(last.bottoms)
    names = {blob: name for name, blob in reversed(blob_names(network).items())}
    return [names[blob] for blob in blobs]


def feature_blobs(network: Network, wanted: Sequence[str]) -> dict[str, str]:
    """Returns the blob of each wanted feature by name; blobs that the cast renamed keep the classifier's own names.

    Raises:
        ConversionError: The network has no such blob.
    """
    names = blob_names(network)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConversionError(f"no blob {', '.join(unknown)}", remedy=f"the network has {', '.join(names)}")
    return {name: names[name] for name in wanted}
