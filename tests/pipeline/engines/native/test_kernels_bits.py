"""The kernels give the same bits with every instruction set and number of threads, in every batch and place."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from tests.pipeline.engines.native.kernel_support import Arena, filtering, operation

SIZES = ((40, 33), (31, 64), (27, 27), (50, 29), (33, 41), (27, 60), (64, 31), (28, 28), (45, 45))
DIGEST = "c5590d0872cf35857adf3883eceb07ef285d80416c49bc2b5af28e454c6617fd"
"""SHA-256 of the tops of all images. Whoever changes it changes the bits of every map."""


@pytest.fixture(scope="module")
def pixels():
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)]


class Net:
    """A net that has every kernel whose order of summing could differ, for a batch of images."""

    def __init__(self, native, pool, sizes):
        self.native, self.pool, self.sizes = native, pool, sizes
        self.rng = np.random.default_rng(0)
        self.arena = Arena(gap=1)
        self.operations = []
        colours = {"order": (2, 1, 0), "mean": (104.0, 117.0, 123.0), "luma": None}
        self.top = self.arena.blob(3, sizes)
        self.operations.append(operation("Prepare", top=self.top, scale=1 / 64, block=1, pad=(0, 0), **colours))
        self.convolution(1, 24, 5, stride=2)
        self.step(
            "LrnPool",
            [self.pooled(n) for n in self.tops()],
            size=5,
            alpha=1.0,
            beta=0.75,
            k=1.0,
            kernel=(3, 3),
            stride=(2, 2),
            pad=(0, 0),
        )
        self.convolution(2, 20, 3, pad=1, tile=4)
        self.convolution(1, 300, 1)
        self.step("Activation", kind="swish", parameters=(1.0,), slopes=None)
        self.convolution(1, 70, 3, pad=1, tile=2, slope=0.1)
        self.step(
            "Pool",
            [self.pooled(n) for n in self.tops()],
            kind="average",
            kernel=(3, 3),
            stride=(2, 2),
            pad=(0, 0),
            after=(0, 0),
            dilation=(1, 1),
            inside=False,
        )
        self.depthwise()
        self.step("Activation", kind="power", parameters=(2.5, 0.25, 3.0), slopes=None)
        self.step("Lrn", size=3, alpha=0.5, beta=0.6, k=2.0)
        self.convolution(1, 35, 2, tile=2, slope=None)
        self.step("Softmax")

    def tops(self):
        return list(zip(self.top.heights, self.top.widths, strict=True))

    @staticmethod
    def pooled(size):
        return tuple(-(-(n - 3) // 2) + 1 for n in size)

    def numbers(self, *shape):
        """Multiples of a power of two: every machine makes the same."""
        return (self.rng.integers(-128, 128, shape) / 512).astype(np.float32)

    def step(self, name, sizes=None, channels=None, **fields):
        top = self.arena.blob(channels or self.top.channels, sizes or self.tops())
        self.operations.append(operation(name, bottom=self.top, top=top, **fields))
        self.top = top

    def convolution(self, groups, outside, kernel, *, stride=1, pad=0, tile=0, slope=0.0):
        weights = self.numbers(groups, kernel, kernel, self.top.channels // groups, outside)
        matrices: tuple[np.ndarray, ...] = ()
        axes: SimpleNamespace | None = None
        if tile:
            axis = filtering(tile, kernel)
            matrices, axes = (axis.filters, axis.filters), SimpleNamespace(vertical=axis, horizontal=axis)
        self.step(
            "Convolution",
            [tuple((n + 2 * pad - kernel) // stride + 1 for n in size) for size in self.tops()],
            groups * outside,
            filters=self.native.Filters(self.pool, weights, *matrices),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad, pad),
            dilation=(1, 1),
            bias=self.numbers(groups * outside),
            slope=slope,
            images=tuple(range(len(self.sizes))),
            tile=axes,
            groups=groups,
        )

    def depthwise(self):
        channels = self.top.channels
        self.step(
            "DepthwiseConvolution",
            weights=self.numbers(3, 3, channels),
            kernel=(3, 3),
            stride=(1, 1),
            pad=(1, 1),
            dilation=(1, 1),
            bias=self.numbers(channels),
            slope=0.0,
        )

    def __call__(self, pixels):
        results = [np.full((*size, self.top.channels), np.nan, np.float32) for size in self.tops()]
        whole = operation("Whole", bottom=self.top)
        self.native.Program(self.pool, self.operations, [whole], self.arena.size).run(pixels, results)
        return results


@pytest.fixture(scope="module")
def expected(native, pixels):
    """The top of each image alone, by the plainest of the kernels."""
    pool = native.ThreadPool(1, "scalar")
    return [Net(native, pool, [size])([image])[0] for size, image in zip(SIZES, pixels, strict=True)]


def test_the_numbers_are_sound(expected):
    for top in expected:
        assert np.isfinite(top).all()
        assert top.std() > 1e-3


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_instruction_set_and_number_of_threads(native, pixels, expected, threads):
    for isa in native.isas():
        tops = Net(native, native.ThreadPool(threads, isa), SIZES)(pixels)
        assert [top.tobytes() for top in tops] == [top.tobytes() for top in expected], isa


@pytest.mark.parametrize("batch", range(1, 10))
def test_every_batch_and_place(native, pool, pixels, expected, batch):
    for first in range(0, 10 - batch, 2):
        order = list(range(first, first + batch))[:: -1 if first % 4 else 1]
        tops = Net(native, pool, [SIZES[i] for i in order])([pixels[i] for i in order])
        assert [top.tobytes() for top in tops] == [expected[i].tobytes() for i in order]


def test_equal_images_in_one_batch(native, pool, pixels, expected):
    tops = Net(native, pool, [SIZES[0]] * 9)([pixels[0]] * 9)
    assert {top.tobytes() for top in tops} == {expected[0].tobytes()}


def test_the_bits_are_those_of_every_machine(expected):
    digest = hashlib.sha256()
    for top in expected:
        digest.update(top.astype("<f4").tobytes())
    assert digest.hexdigest() == DIGEST
