"""Pass of the cast: a map whose cells were repeated is cut to the size of the map that it is joined with."""

from __future__ import annotations

from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.arithmetic import Eltwise
from conversion.layers.base import Layer
from conversion.layers.resize import ResizeNearestNeighbor
from conversion.layers.slice_concat import Concat
from conversion.layers.upsample import Upsample, UpsampleDarknet
from conversion.net.network import Network, to_definition
from conversion.passes.rebuild import rebuild

_CUT = "-cut"


def fit_upsampled(network: Network) -> Network:
    """Cuts what a repetition of cells has too many of, where it meets the map that was made smaller before.

    A map of 17 cells becomes one of 9, and 18 when its cells are repeated: YOLO and pyramids of features fit images
    only whose sides their coarsest stride divides. The additional cells lie past the end of the other map.

    Given: a Concat of channels or an Eltwise of a map whose cells an Upsample, UpsampleDarknet or ResizeNearestNeighbor
    repeats, and of another map of that size.
    Result: a Crop before it, `<blob>-cut`, to the other map's size; at the training size it cuts nothing.
    """
    definition = to_definition(network)
    taken = {layer.name for layer in network.layers} | set(network.shapes)
    repeated: set[str] = set()
    messages: list[LayerParameter] = []
    for layer, message in zip(network.layers, definition.layer, strict=True):
        others = [bottom for bottom in layer.bottoms if bottom not in repeated]
        for index, bottom in enumerate(layer.bottoms if others and _joins(layer) else ()):
            cut = f"{bottom}{_CUT}"
            if bottom in repeated and cut not in taken and network.shapes[bottom][2:] == network.shapes[others[0]][2:]:
                messages.append(LayerParameter(name=cut, type="Crop", bottom=[bottom, others[0]], top=[cut]))
                messages[-1].crop_param.axis = 2
                message.bottom[index] = cut
                taken.add(cut)
        messages.append(message)
        repeated.difference_update(top for top in layer.tops if top not in layer.bottoms)
        if _repeats(network, layer):
            repeated.update(layer.tops)
    if len(messages) == len(network.layers):
        return network
    fitted = to_definition(network)
    del fitted.layer[:]
    fitted.layer.extend(messages)
    return rebuild(network, fitted)


def _joins(layer: Layer) -> bool:
    return isinstance(layer, Eltwise) or (isinstance(layer, Concat) and layer.axis in (1, -3))


def _repeats(network: Network, layer: Layer) -> bool:
    """Returns whether a layer repeats cells by a factor."""
    if not isinstance(layer, (Upsample, UpsampleDarknet, ResizeNearestNeighbor)) or len(layer.bottoms) > 1:
        return False
    return layer.step([network.shapes[layer.bottoms[0]]]) is not None
