"""Cases of layers that pad, and that move blocks of cells to the batch: cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"
Ends = Sequence[tuple[int, int]]  # cells before and after each axis


def pad(ends: Ends, value: float = 0.0) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        out = np.full([n + before + after for n, (before, after) in zip(x.shape, ends, strict=True)], value)
        for place in np.ndindex(*out.shape):
            source = tuple(index - before for index, (before, _) in zip(place, ends, strict=True))
            if all(0 <= index < n for index, n in zip(source, x.shape, strict=True)):
                out[place] = x[source]
        return [out]

    return truth


def space_to_batch(block: Sequence[int], ends: Ends) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        rest = [(0, 0)] * (x.ndim - 1 - len(block))
        (padded,) = pad([(0, 0), *ends, *rest])([x], ())
        sides = [n // b for n, b in zip(padded.shape[1:], block, strict=False)]
        out = np.empty((len(x) * int(np.prod(block)), *sides, *x.shape[1 + len(block) :]))
        for place in np.ndindex(*padded.shape):
            item = 0
            for index, b in zip(place[1:], block, strict=False):
                item = item * b + index % b
            cell = [index // b for index, b in zip(place[1:], block, strict=False)]
            out[(item * len(x) + place[0], *cell, *place[1 + len(block) :])] = padded[place]
        return [out]

    return truth


def batch_to_space(block: Sequence[int], crops: Ends) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        items = len(x) // int(np.prod(block))
        sides = [n * b for n, b in zip(x.shape[1:], block, strict=False)]
        whole = np.empty((items, *sides, *x.shape[1 + len(block) :]))
        for place in np.ndindex(*whole.shape):
            part = 0
            for index, b in zip(place[1:], block, strict=False):
                part = part * b + index % b
            cell = [index // b for index, b in zip(place[1:], block, strict=False)]
            whole[place] = x[(part * items + place[0], *cell, *place[1 + len(block) :])]
        kept = [slice(before, n - after) for n, (before, after) in zip(sides, crops, strict=True)]
        return [whole[(slice(None), *kept)]]

    return truth


def _numbers(field: str, values: Sequence[int]) -> str:
    return " ".join(f"{field}: {value}" for value in values)


def _padding(name: str, shape: Sequence[int], fields: str, ends: Ends, value: float = 0.0) -> Case:
    fork = "sophgo/caffe" if "pad_t" in fields or "pad_l" in fields else "gpapan/caffe (DeepLab)"
    text = data(*shape) + layer("Padding", "top", "data", padding_param=fields)
    return Case(
        f"padding_{name}", text, pad([(0, 0), (0, 0), *ends], value), f"{fork}, src/caffe/layers/padding_layer.cpp"
    )


def _pad(index: int, shape: Sequence[int], ends: Ends, value: float = 0.0) -> Case:
    fields = _numbers("paddings", [n for pair in ends for n in pair]) + (f" constant_values: {value}" if value else "")
    text = data(*shape) + layer("Pad", "top", "data", pad_param=fields)
    return Case(f"pad_{index}", text, pad(ends, value), f"{_SYNOPSYS}/pad_layer.cpp")


def _blocks(index: int, shape: Sequence[int], block: Sequence[int], ends: Ends, *, back: bool = False) -> Case:
    kind, ending = ("BatchToSpaceND", "crops") if back else ("SpaceToBatchND", "paddings")
    stem = "batch_to_space_nd" if back else "space_to_batch_nd"
    fields = f"{_numbers('block_shape', block)} {_numbers(ending, [n for pair in ends for n in pair])}"
    text = data(*shape) + layer(kind, "top", "data", **{f"{stem}_param": fields})
    truth = batch_to_space(block, ends) if back else space_to_batch(block, ends)
    return Case(f"{stem}_{index}", text, truth, f"{_SYNOPSYS}/{stem}_layer.cpp, TensorFlow's rule")


CASES = (
    _padding("0", (1, 2, 3, 4), "pad_beg: 1 pad_end: 2", [(1, 2), (1, 2)]),
    _padding("1", (2, 3, 5, 4), "pad_beg: -1 pad_end: -2", [(-1, -2), (-1, -2)]),
    _padding("2", (1, 1, 2, 2), "pad_t: 1 pad_r: 3 pad_l: 2 pad_value: 0.5", [(1, 0), (2, 3)], 0.5),
    _pad(0, (1, 2, 3, 4), [(0, 0), (0, 0), (1, 2), (0, 3)]),
    _pad(1, (2, 2, 2, 2), [(0, 1), (2, 0), (0, 0), (1, 1)], -1.5),
    _pad(2, (3, 4), [(1, 0), (0, 2)]),
    _blocks(0, (1, 4, 6, 3), (2, 2), [(0, 0), (0, 0)]),
    _blocks(1, (2, 3, 5, 2), (2, 3), [(1, 0), (0, 1)]),
    _blocks(2, (2, 4, 3), (2,), [(1, 1)]),
    _blocks(0, (4, 2, 3, 3), (2, 2), [(0, 0), (0, 0)], back=True),
    _blocks(1, (12, 2, 2, 2), (2, 3), [(1, 0), (0, 2)], back=True),
    _blocks(2, (4, 3, 3), (2,), [(1, 1)], back=True),
)
