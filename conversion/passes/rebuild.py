"""Rebuilds a network from its changed definition, for the passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter
from conversion.limits import UNLIMITED
from conversion.net.build import build
from conversion.net.network import Network, Parameters, to_definition


def rebuild(
    network: Network,
    definition: NetParameter,
    inserted: Mapping[str, LayerParameter] | None = None,
    parameters: Parameters | None = None,
) -> Network:
    """Returns the network of a changed definition; itself if nothing changed.

    Args:
        network: The network before the pass.
        definition: Its changed definition.
        inserted: New layers, each by the name of the layer that it follows.
        parameters: The learned blobs; by default those of the network.
    """
    if inserted:
        layers = [m for message in definition.layer for m in _with_successor(message, inserted)]
        del definition.layer[:]
        definition.layer.extend(layers)
    if parameters is None and definition == to_definition(network):
        return network
    kept = network.parameters if parameters is None else parameters
    return dataclasses.replace(build(definition, kept, limits=UNLIMITED), notes=network.notes, windows=network.windows)


def power(name: str, blob: str, scale: float) -> LayerParameter:
    """Returns a layer that multiplies a blob in place."""
    message = LayerParameter(name=f"{name}-scale", type="Power", bottom=[blob], top=[blob])
    message.power_param.scale = scale
    return message


def set_kernel(value: PoolingParameter, shape: Shape) -> None:
    """Sets the kernel of a pooling to the size of a whole map [N, C, H, W]."""
    if shape[2] == shape[3]:
        value.kernel_size = shape[2]
    else:
        value.kernel_h, value.kernel_w = shape[2:]


def _with_successor(message: LayerParameter, inserted: Mapping[str, LayerParameter]) -> Iterable[LayerParameter]:
    yield message
    if message.name in inserted:
        yield inserted[message.name]
