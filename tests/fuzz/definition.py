"""Definition text -> message -> network, and back: what is written reads as the same network."""

from __future__ import annotations

from google.protobuf import text_format

from conversion.caffe.reading import parse_definition
from conversion.net.build import build
from conversion.net.network import to_definition
from tests.fuzz.harness import LIMITS, launch


def one_input(data: bytes) -> None:
    network = build(parse_definition(data, where="net.prototxt", limits=LIMITS), limits=LIMITS)
    network.multiply_adds(network.inputs)
    text = text_format.MessageToString(to_definition(network))
    again = build(parse_definition(text.encode(), where="again", limits=LIMITS), limits=LIMITS)
    if again.shapes != network.shapes or again.outputs != network.outputs:
        raise AssertionError(f"{network.shapes} became {again.shapes}")


if __name__ == "__main__":
    launch("definition")
