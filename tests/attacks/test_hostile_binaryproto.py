"""Mean files in protobuf form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from conversion.caffe.caffe_pb2 import BlobProto
from conversion.caffe.reading import blob_message
from conversion.errors import LimitError, OptionError, ReadingError
from conversion.limits import Limits
from tests.attacks.attack import Attack, each, lengthed
from tests.support.golden_cases import GOLDEN


def mean(value: float) -> bytes:
    return blob_message(np.full((1, 3, 2, 2), value, np.float32)).SerializeToString()


FILE: Any = {"kind": "mean", "suffix": ".binaryproto"}
ATTACKS = [
    Attack("a caffemodel", (GOLDEN / "nets" / "lenet_small" / "net.caffemodel").read_bytes(), ReadingError, (), **FILE),
    Attack("text", "shape { dim: 3 } data: [1, 2, 3]", ReadingError, (), **FILE),
    Attack("truncated", mean(1.0)[:-1], ReadingError, ("truncated",), **FILE),
    Attack("NaN", mean(np.nan), OptionError, ("finite",), **FILE),
    Attack("infinity", mean(-np.inf), OptionError, ("finite",), **FILE),
    Attack(
        "a double beyond float32",
        BlobProto(shape={"dim": [3]}, double_data=[1e300] * 3).SerializeToString(),
        OptionError,
        ("finite",),
        **FILE,
    ),
    Attack("packed floats of an odd length", lengthed(5, bytes(7)), ReadingError, (), **FILE),
    Attack("a shape of nothing", lengthed(7, b""), ReadingError, ("has 0",), **FILE),
    Attack(
        "two channels",
        blob_message(np.ones((1, 2, 2, 2))).SerializeToString(),
        OptionError,
        ("C = 2",),
        **FILE,
    ),
    Attack(
        "two images",
        blob_message(np.ones((2, 3, 2, 2))).SerializeToString(),
        OptionError,
        ("(2, 3, 2, 2)",),
        **FILE,
    ),
    Attack("a limit of elements", mean(1.0), LimitError, ("limit of 10",), **FILE, limits=Limits(elements=10)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
