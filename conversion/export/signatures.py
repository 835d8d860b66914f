"""What a model reads and offers: its image input, its map of probabilities, its features."""

from __future__ import annotations

from collections.abc import Sequence

from conversion.errors import ConversionError
from conversion.layers.convolution import Convolution
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


def probabilities_blob(network: Network, where: str, wanted: str | None) -> str:
    """Returns the blob of class probabilities: the only output that a Softmax computes, or the wanted one.

    Raises:
        ConversionError: The wanted blob is not such a map, or none is named and there is not exactly one.
    """
    last_types = {top: layer.caffe_type for layer in network.layers for top in layer.tops}
    maps = [blob for blob, kind in last_types.items() if kind == "Softmax" and len(network.shapes[blob]) == 4]
    if wanted is not None:
        if wanted not in maps:
            raise ConversionError(
                f"output {wanted!r} is not a map of class probabilities",
                where=where,
                why="such a map is the top of a Softmax",
                remedy=f"the network has {', '.join(maps) or 'none'}",
            )
        return wanted
    candidates = [blob for blob in network.outputs if blob in maps]
    if len(candidates) != 1:
        raise ConversionError(
            f"{len(candidates)} outputs are class probabilities{': ' if candidates else ''}{', '.join(candidates)}",
            where=where,
            why=f"the outputs are {', '.join(network.outputs)}, and exactly one must be the top of a Softmax",
            remedy="name the head that gives the map: output_blob"
            if candidates
            else "use the deploy definition, which ends in one Softmax",
        )
    return candidates[0]


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
