"""A V0 or V1 net in binary form -> the current form: nothing old is left, and a second upgrade changes nothing."""

from __future__ import annotations

from conversion.caffe.reading import parse_weights
from conversion.caffe.upgrade import upgrade
from conversion.errors import DensecastError
from conversion.net.build import build
from tests.fuzz.harness import LIMITS, launch
from tests.support.definitions import stored_blobs


def one_input(data: bytes) -> None:
    message = parse_weights(data, where="net", limits=LIMITS)
    stored = [(name, len(blobs)) for name, blobs in stored_blobs(message)]
    current = upgrade(message)
    if current.layers or current.input:
        raise AssertionError("an old field is left")
    if upgrade(current) != current:
        raise AssertionError("a second upgrade changes something")
    if [(layer.name, len(layer.blobs)) for layer in current.layer if layer.blobs] != stored:
        raise AssertionError("blobs are not those that the file stores")
    try:
        shapes = build(message, limits=LIMITS).shapes
    except DensecastError:
        return  # the upgraded form may do without what is wrong in the old one: a padding layer's name, say
    if build(current, limits=LIMITS).shapes != shapes:
        raise AssertionError(f"{shapes} became another network")


if __name__ == "__main__":
    launch("upgrade")
