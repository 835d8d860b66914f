"""Whether a network may compute in float16, by the reference's values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conversion.errors import VerificationError
from conversion.export.verification import Example
from conversion.layers.base import Layer
from conversion.net.network import Network, run

FP16_TOLERANCE = 2e-2
"""Of a blob's largest magnitude. float16 has 11 bits, 5e-4, and the errors of a net's layers add up."""
WITHOUT_FP16 = "export the model without --fp16, or fp16 in Python: float16 does not suffice for this net"
_LARGEST, _SMALLEST = 65504.0, 2.0**-14  # below it float16 loses digits


def check_float16(network: Network, examples: Sequence[Example]) -> None:
    """Checks that the blobs that layers compute in float16 stay in its range.

    ONNX Runtime on a CPU computes in float32 between rounded weights, so that running the graph does not show it.

    Args:
        network: The network.
        examples: What the reference computes.

    Raises:
        VerificationError: A blob is too large or too small as a whole; the message names it.
    """
    narrow: dict[str, str] = {}

    def apply(layer: Layer, bottoms: Sequence[bool]) -> list[bool]:
        result = layer.narrows(list(bottoms))
        if result:
            narrow.update((blob, layer.where) for blob in (*layer.bottoms, *layer.tops) if blob not in narrow)
        return [result] * len(layer.tops)

    run(network.layers, lambda layer: [False] * len(layer.tops), apply)
    for example in examples:
        for blob, value in example.blobs():
            largest = float(np.abs(value).max(initial=0.0)) if blob in narrow else 0.0
            if not (largest == 0 or _SMALLEST <= largest <= _LARGEST):
                raise VerificationError(
                    f"the values of blob {blob!r} reach {largest:.1e}",
                    where=narrow[blob],
                    why="float16 has its digits from 6.1e-05 to 65504",
                    remedy=WITHOUT_FP16,
                )
