"""What the fuzz targets found (tests/fuzz): one case a finding. Each escaped as something other than a typed error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conversion.caffe.caffe_pb2 import NetParameter
from conversion.caffe.upgrade import upgrade
from conversion.errors import NetworkError, ReadingError
from conversion.net.build import build
from tests.attacks.attack import Attack, each, lengthed

NOT_UTF8 = b"\xff\xfe"


def headed(header: bytes, version: int = 1) -> bytes:
    return (
        b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(2, "little") + header + np.zeros(3, "<f4").tobytes()
    )


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }   \n"
ATTACKS = [
    Attack("npy of a version to come", headed(HEADER, 7), ReadingError, ("not a NumPy array",), "mean"),
    Attack(
        "npy padded with a control character",
        headed(HEADER.replace(b"   ", b" \x1f ")),
        ReadingError,
        ("its header",),
        "mean",
    ),
    Attack(
        "npy whose shape is not a tuple", headed(HEADER.replace(b"(3,)", b"(3)")), ReadingError, ("its header",), "mean"
    ),
    Attack("npy with a leading zero", headed(HEADER.replace(b"(3,)", b"(03,)")), ReadingError, ("its header",), "mean"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


# protobuf gives text that is not UTF-8 as bytes, and raises UnicodeDecodeError where they are assigned elsewhere.
INPUT = lengthed(3, b"x") + lengthed(8, lengthed(1, b"\1\1"))
NETS = {
    "the name of a layer of 2014": lengthed(2, lengthed(4, NOT_UTF8) + b"\x28\x12"),
    "a shared parameter of a layer of 2014": INPUT + lengthed(2, lengthed(4, b"a") + lengthed(1001, NOT_UTF8)),
    "the name of a layer of 2013": lengthed(2, lengthed(1, lengthed(1, NOT_UTF8) + lengthed(2, b"relu"))),
    "the type of a layer of 2013": lengthed(2, lengthed(1, lengthed(1, b"a") + lengthed(2, NOT_UTF8))),
    "the source of a layer of 2013": lengthed(
        2, lengthed(1, lengthed(1, b"a") + lengthed(2, b"data") + lengthed(16, NOT_UTF8))
    ),
    "an input": lengthed(3, NOT_UTF8) + lengthed(8, lengthed(1, b"\1\1")) + lengthed(100, lengthed(1, b"a")),
    "the type of a layer": lengthed(100, lengthed(1, b"a") + lengthed(2, NOT_UTF8)),
}


@pytest.mark.parametrize("wire", NETS.values(), ids=NETS)
def test_text_that_is_not_utf8_in_a_definition(wire: bytes):
    message = NetParameter.FromString(wire)
    with pytest.raises(NetworkError, match="not UTF-8"):
        build(message)


@pytest.mark.parametrize(
    "name", [name for name in NETS if name not in ("the type of a layer", "the type of a layer of 2013")]
)
def test_text_that_is_not_utf8_in_an_upgrade(name: str):
    with pytest.raises(NetworkError, match="not UTF-8"):
        upgrade(NetParameter.FromString(NETS[name]))


def test_an_input_that_is_not_utf8_and_has_no_shape():
    """Its error names it."""
    message = NetParameter.FromString(lengthed(3, NOT_UTF8) + lengthed(100, lengthed(1, b"a")))
    with pytest.raises(NetworkError, match=r"xff.* without a shape"):
        upgrade(message)
