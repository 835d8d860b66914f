"""Pass of the cast: an upsampled map and the map that it is joined with are cut to one size."""

from __future__ import annotations

import itertools

from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.arithmetic import Eltwise
from conversion.layers.base import Layer
from conversion.layers.interp import Interp
from conversion.layers.resize import ResizeNearestNeighbor
from conversion.layers.slice_concat import Concat
from conversion.layers.upsample import Upsample, UpsampleDarknet
from conversion.net.network import Network, to_definition
from conversion.passes.rebuild import rebuild

_CUT = "-cut"


def fit_upsampled(network: Network) -> Network:
    """Cuts the cells that one map has too many of, where an upsampled map meets the one that was made smaller before.

    A map of 18 cells becomes one of 9; and 18 again when its cells are repeated, but 17 with Interp, whose corners
    stay. With 17 cells it is the other way round. So YOLO and pyramids of features fit images only whose sides their
    coarsest stride divides, and ICNet only those with one pixel more. The additional cells lie past the end of the
    other map.

    Given: a Concat of channels or an Eltwise of two maps of one size. Upsample, UpsampleDarknet or
    ResizeNearestNeighbor repeats the cells of one of them, or Interp enlarges it by a factor; what follows may keep
    its size.
    Result: a Crop before it, `<blob>-cut`, of the repeated map to the other one's size, or of the other one to that of
    the enlarged; at the training size it cuts nothing.
    """
    taken = {layer.name for layer in network.layers} | set(network.shapes)
    larger: set[str] = set()  # where cells were repeated
    smaller: set[str] = set()  # where corners stay
    messages: list[LayerParameter] = []
    cuts: dict[tuple[str, str], str] = {}
    for layer, message in zip(network.layers, to_definition(network).layer, strict=True):
        if _joins(layer):
            for blob, like in _cuts(layer, larger, smaller):
                if network.shapes[blob][2:] != network.shapes[like][2:]:
                    continue
                if (blob, like) not in cuts:
                    cut = cuts[blob, like] = _free_name(blob + _CUT, taken)
                    taken.add(cut)
                    messages.append(LayerParameter(name=cut, type="Crop", bottom=[blob, like], top=[cut]))
                    messages[-1].crop_param.axis = 2
                message.bottom[:] = [cuts[blob, like] if bottom == blob else bottom for bottom in message.bottom]
        messages.append(message)
        for kind, upsamples in ((larger, _repeats), (smaller, _enlarges)):
            keeps = bool(layer.bottoms) and layer.bottoms[0] in kind and _keeps_size(network, layer)
            (kind.update if keeps or upsamples(network, layer) else kind.difference_update)(layer.tops)
    if len(messages) == len(network.layers):
        return network
    fitted = to_definition(network)
    del fitted.layer[:]
    fitted.layer.extend(messages)
    return rebuild(network, fitted)


def _free_name(name: str, taken: set[str]) -> str:
    return next(n for n in itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2))) if n not in taken)


def _cuts(layer: Layer, larger: set[str], smaller: set[str]) -> list[tuple[str, str]]:
    """Returns which bottoms are cut, each with the one whose size it gets."""
    others = [bottom for bottom in layer.bottoms if bottom not in larger | smaller]
    enlarged = [bottom for bottom in layer.bottoms if bottom in smaller]
    if enlarged:
        return [(other, enlarged[0]) for other in dict.fromkeys(others)]
    repeated = dict.fromkeys(bottom for bottom in layer.bottoms if bottom in larger)
    return [(bottom, others[0]) for bottom in repeated] if others else []


def _joins(layer: Layer) -> bool:
    return isinstance(layer, Eltwise) or (isinstance(layer, Concat) and layer.axis in (1, -3))


def _keeps_size(network: Network, layer: Layer) -> bool:
    """Returns whether the first top has as many cells as the first bottom, whatever that is."""
    shapes = [network.shapes[blob] for blob in (layer.bottoms[0], layer.tops[0] if layer.tops else layer.bottoms[0])]
    step = layer.step([network.shapes[bottom] for bottom in layer.bottoms])
    same = len(shapes[0]) == 4 and shapes[0][2:] == shapes[1][2:]
    return same and len(layer.bottoms) == 1 and step is not None and all(axis.stride == 1 for axis in step)


def _repeats(network: Network, layer: Layer) -> bool:
    """Returns whether a layer repeats cells by a factor."""
    if not isinstance(layer, (Upsample, UpsampleDarknet, ResizeNearestNeighbor)) or len(layer.bottoms) > 1:
        return False
    return layer.step([network.shapes[layer.bottoms[0]]]) is not None


def _enlarges(network: Network, layer: Layer) -> bool:  # noqa: ARG001
    """Returns whether a layer is an Interp by a factor."""
    return isinstance(layer, Interp) and layer.zoom is not None and layer.shrink is None
