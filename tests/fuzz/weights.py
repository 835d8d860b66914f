"""A caffemodel -> the network it defines, by shape inference -> that network's own weights, in both ways of reading."""

from __future__ import annotations

import numpy as np

from conversion.caffe.reading import parse_weights, stored_weights
from conversion.errors import DensecastError
from conversion.net.build import build
from conversion.net.network import Network, learned
from conversion.net.weights import with_weights
from tests.fuzz.harness import LIMITS, launch
from tests.support.definitions import message_weights


def one_input(data: bytes) -> None:
    message = parse_weights(data, where="net.caffemodel", limits=LIMITS)
    bare = build(message, limits=LIMITS)
    views = _loaded(bare, data)
    try:
        network = with_weights(bare, message_weights(message), limits=LIMITS)
    except DensecastError as error:
        if type(views) is not type(error):
            raise AssertionError(f"{type(error)} by the message, {type(views)} by views") from error
        return
    if not isinstance(views, Network):
        raise AssertionError("views are refused, the message is not") from views
    for layer, shapes in learned(network):
        blobs = network.parameters[layer.name]
        if [blob.shape for blob in blobs] != shapes or not all(np.isfinite(blob).all() for blob in blobs):
            raise AssertionError(f"{layer.where}: {shapes}")
        if [blob.tobytes() for blob in blobs] != [blob.tobytes() for blob in views.parameters[layer.name]]:
            raise AssertionError(f"{layer.where}: other values by views")


def _loaded(bare: Network, data: bytes) -> Network | DensecastError:
    """What `load_network` makes of the file."""
    try:
        return with_weights(bare, stored_weights(data, where="net.caffemodel", limits=LIMITS), limits=LIMITS)
    except DensecastError as error:
        return error


if __name__ == "__main__":
    launch("weights")
