"""The kernels of the native engine against float64, over random shapes: all operations but convolutions by filters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.engines.native.kernel_support import Arena, images, operation, prepare, relative_error, run

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)
CHANNELS = st.sampled_from([1, 3, 4, 8, 15, 16, 17, 33, 64, 130])
WIDER = st.sampled_from([0, 0, 5])
SLOPES = st.sampled_from([None, 0.0, 0.25])
FLT_MAX = float(np.finfo(np.float32).max)


def rectified(x, slope):
    return x if slope is None else np.where(x < 0, slope * x, x)


class Run:
    """An operation on random images, and its top."""

    def __init__(self, native, pool, sizes, channels, wider=0, scale=1.0):
        self.native, self.pool = native, pool
        self.pixels = [image * np.float32(scale) for image in images(np.random.default_rng(0), sizes, channels)]
        self.arena = Arena(gap=2)
        self.bottom = self.arena.blob(channels, sizes, wider=wider)
        self.wider = wider

    def top(self, channels=None, sizes=None):
        sizes = list(zip(self.bottom.heights, self.bottom.widths, strict=True)) if sizes is None else sizes
        return self.arena.blob(channels or self.bottom.channels, sizes, wider=self.wider)

    def __call__(self, *operations, wanted):
        return run(
            self.native,
            self.pool,
            self.pixels,
            operations=[prepare(self.bottom), *operations],
            wanted=wanted,
            arena=self.arena,
        )


@given(
    sizes=SIZES,
    channels=CHANNELS,
    wider=WIDER,
    kind=st.sampled_from(["max", "average"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    inside=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_pooling(native, pool, sizes, channels, wider, kind, kernel, stride, dilation, inside, data):
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    pad, after = (tuple(data.draw(st.integers(0, max(0, k - 1))) for k in kernel) for _ in range(2))
    tops = [
        tuple(
            max(1, -(-(n + p + a - r - 1) // s) + 1)
            for n, p, a, r, s in zip(size, pad, after, reach, stride, strict=True)
        )
        for size in sizes
    ]
    net = Run(native, pool, sizes, channels, wider)
    top = net.top(sizes=tops)
    step = operation(
        "Pool",
        bottom=net.bottom,
        top=top,
        kind=kind,
        kernel=kernel,
        stride=stride,
        pad=pad,
        after=after,
        dilation=dilation,
        inside=inside,
    )
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        height, width = image.shape[:2]
        for y, x in np.ndindex(found.shape[:2]):
            rows = [y * stride[0] - pad[0] + i * dilation[0] for i in range(kernel[0])]
            columns = [x * stride[1] - pad[1] + i * dilation[1] for i in range(kernel[1])]
            taps = [image[i, j].astype(float) for i in rows for j in columns if 0 <= i < height and 0 <= j < width]
            if kind == "max":
                expected = np.max([*taps, np.full(channels, -FLT_MAX)], axis=0)
                assert np.array_equal(found[y, x], expected.astype(np.float32))
                continue
            divisor = (
                len(taps)
                if inside
                else sum(i < height + after[0] for i in rows) * sum(j < width + after[1] for j in columns)
            )
            if divisor and taps:
                assert np.allclose(found[y, x], np.sum(taps, axis=0) / divisor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_of_the_whole_bottom(native, pool, kind):
    net = Run(native, pool, [(3, 4), (7, 1)], 20)
    top = net.top(sizes=[(1, 1)] * 2)
    step = operation(
        "Pool",
        bottom=net.bottom,
        top=top,
        kind=kind,
        kernel=(0, 0),
        stride=(1, 1),
        pad=(0, 0),
        after=(0, 0),
        dilation=(1, 1),
        inside=False,
    )
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        whole = image.astype(float)
        expected = whole.max(axis=(0, 1)) if kind == "max" else whole.mean(axis=(0, 1))
        assert np.allclose(found[0, 0], expected, rtol=1e-5, atol=1e-6)


def normalized(image, size, alpha, beta, k):
    squares = np.pad(image.astype(float) ** 2, ((0, 0), (0, 0), (size // 2, size // 2)))
    sums = sum(squares[..., i : i + image.shape[-1]] for i in range(size))
    return image / (k + alpha / size * sums) ** beta


LRN = {
    "size": st.sampled_from([1, 3, 5, 9]),
    "alpha": st.sampled_from([1e-4, 1.0]),
    "beta": st.sampled_from([0.75, 0.5, 1.0, 0.6]),
    "k": st.sampled_from([1.0, 2.0]),
}


@given(
    sizes=SIZES, channels=st.sampled_from([1, 3, 16, 96, 130, 257]), wider=WIDER, parameters=st.fixed_dictionaries(LRN)
)
@settings(max_examples=40, deadline=None)
def test_normalization_across_channels(native, pool, sizes, channels, wider, parameters):
    net = Run(native, pool, sizes, channels, wider, scale=10)
    top = net.top()
    step = operation("Lrn", bottom=net.bottom, top=top, **parameters)
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        assert np.allclose(found, normalized(image, **parameters), rtol=2e-6, atol=1e-9)


@given(
    sizes=st.lists(st.tuples(st.integers(4, 15), st.integers(4, 15)), min_size=1, max_size=3),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
)
@settings(max_examples=30, deadline=None)
def test_normalization_and_pooling_in_one(native, pool, sizes, kernel, stride, pad):
    parameters = {"size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0}
    window = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": (pad, pad)}
    net = Run(native, pool, sizes, 20)
    tops = [tuple(-(-(n + 2 * pad - kernel) // stride) + 1 - (pad > 0) for n in size) for size in sizes]
    middle, one, two = net.top(), net.top(sizes=tops), net.top(sizes=tops)
    fused = net(operation("LrnPool", bottom=net.bottom, top=one, **parameters, **window), wanted=one)
    lrn = operation("Lrn", bottom=net.bottom, top=middle, **parameters)
    pooling = operation(
        "Pool", bottom=middle, top=two, kind="max", after=(pad, pad), dilation=(1, 1), inside=False, **window
    )
    for a, b in zip(fused, net(lrn, pooling, wanted=two), strict=True):
        assert np.array_equal(a, b)


@given(sizes=SIZES, channels=CHANNELS, wider=WIDER, slope=SLOPES, scaled=st.booleans(), shifted=st.booleans())
@settings(max_examples=40, deadline=None)
def test_affine(native, pool, sizes, channels, wider, slope, scaled, shifted):
    scale, shift = np.random.default_rng(1).standard_normal((2, channels)).astype(np.float32)
    net = Run(native, pool, sizes, channels, wider)
    top = net.top()
    step = operation(
        "Affine",
        bottom=net.bottom,
        top=top,
        scale=scale if scaled else None,
        shift=shift if shifted else None,
        slope=slope,
    )
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        expected = image.astype(float) * (scale if scaled else 1) + (shift if shifted else 0)
        assert np.allclose(found, rectified(expected, slope), rtol=1e-6, atol=1e-6)


def _power(x, power, scale, shift):
    return np.power(shift + scale * x, power)


FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "relu": ((0.1,), lambda x: np.where(x < 0, np.float64(np.float32(0.1)) * x, x)),
    "elu": ((0.5,), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    "sigmoid": ((), lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ((), np.tanh),
    "abs": ((), np.abs),
    "power": ((2.0, 0.5, 1.0), lambda x: _power(x, 2.0, 0.5, 1.0)),
    "power 3": ((3.0, 1.0, 0.0), lambda x: _power(x, 3.0, 1.0, 0.0)),
    "power -1": ((-1.0, 1.0, 0.0), lambda x: _power(x, -1.0, 1.0, 0.0)),
    "power -3": ((-3.0, 1.0, 0.0), lambda x: _power(x, -3.0, 1.0, 0.0)),
    "power 0.5": ((0.5, 1.0, 0.0), lambda x: _power(x, 0.5, 1.0, 0.0)),
    "power 0.75": ((0.75, 1.0, 0.0), lambda x: _power(x, 0.75, 1.0, 0.0)),
    "power -1.5": ((-1.5, 1.0, 0.0), lambda x: _power(x, -1.5, 1.0, 0.0)),
    "power 11": ((11.0, 1.0, 0.0), lambda x: _power(x, 11.0, 1.0, 0.0)),
    "exp": ((0.5, 3.0), lambda x: 3 * np.exp(0.5 * x)),
    "log": ((1.0, 0.0, 2.0), lambda x: 2 * np.log(x)),
    "bnll": ((), lambda x: np.logaddexp(0.0, x)),
    "threshold": ((0.5,), lambda x: np.where(x > 0.5, 1.0, 0.0)),
    "clip": ((-1.0, 6.0), lambda x: np.clip(x, -1, 6)),
    "swish": ((1.5,), lambda x: x / (1 + np.exp(-1.5 * x))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_rounded_once(native, pool, name):
    parameters, expected = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    values = rng.standard_normal(4000) * 10.0 ** rng.uniform(-8, 2, 4000)
    special = [0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 88.0, -88.0, -104.0, 0.5, 6.0]
    x = np.concatenate([values, special]).astype(np.float32)
    found = _function(native, pool, x, name.split()[0], parameters)
    with np.errstate(all="ignore"):
        precise = expected(x.astype(np.float64))
        single = precise.astype(np.float32)
        assert np.array_equal(np.isnan(found), np.isnan(single))
        finite = np.isfinite(single)
        assert np.array_equal(found[~finite & ~np.isnan(single)], single[~finite & ~np.isnan(single)])
        unit = np.spacing(np.maximum(np.abs(single), np.finfo(np.float32).tiny))
        assert (np.abs(found.astype(float) - precise)[finite] <= 0.51 * unit[finite] + 1e-45).all()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("threshold", "clip", "power 0.5")])
def test_functions_of_what_is_not_finite(native, pool, name):
    # NumPy takes the square root instead of the power 0.5, with NaN for -inf.
    parameters, expected = FUNCTIONS[name]
    x = np.array([math.nan, math.inf, -math.inf], np.float32)
    with np.errstate(all="ignore"):
        assert np.array_equal(
            _function(native, pool, x, name.split()[0], parameters), expected(x.astype(float)), equal_nan=True
        )


def _function(native, pool, x, kind, parameters, slopes=None):
    net = Run(native, pool, [(1, len(x))], 1)
    net.pixels = [x.reshape(1, -1, 1)]
    top = net.top()
    step = operation("Activation", bottom=net.bottom, top=top, kind=kind, parameters=parameters, slopes=slopes)
    return net(step, wanted=top)[0].ravel()


@given(sizes=SIZES, channels=CHANNELS, wider=WIDER)
@settings(max_examples=20, deadline=None)
def test_slopes_by_channel(native, pool, sizes, channels, wider):
    slopes = np.random.default_rng(1).standard_normal(channels).astype(np.float32)
    net = Run(native, pool, sizes, channels, wider)
    step = operation("Activation", bottom=net.bottom, top=net.bottom, kind="prelu", parameters=(), slopes=slopes)
    for image, found in zip(net.pixels, net(step, wanted=net.bottom), strict=True):
        assert np.array_equal(found, np.where(image < 0, slopes * image, image))


@given(
    sizes=SIZES,
    channels=CHANNELS,
    wider=WIDER,
    kind=st.sampled_from(["sum", "prod", "max"]),
    count=st.integers(1, 4),
    slope=SLOPES,
)
@settings(max_examples=40, deadline=None)
def test_elementwise(native, pool, sizes, channels, wider, kind, count, slope):
    coefficients = tuple(np.random.default_rng(1).standard_normal(count).astype(np.float32).tolist())
    net = Run(native, pool, sizes, channels * count, wider)
    top = net.top(channels)
    bottoms = tuple(net.bottom.part(i * channels, channels) for i in range(count))
    step = operation("Eltwise", bottoms=bottoms, top=top, kind=kind, coefficients=coefficients, slope=slope)
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        parts = image.astype(float).reshape(*image.shape[:2], count, channels)
        if kind == "sum":
            expected = np.einsum("hwnc,n->hwc", parts, coefficients)
        else:
            expected = parts.prod(axis=2) if kind == "prod" else parts.max(axis=2)
        assert np.allclose(found, rectified(expected, slope), rtol=1e-5, atol=1e-6)


@given(sizes=SIZES, channels=CHANNELS, wider=WIDER, data=st.data())
@settings(max_examples=20, deadline=None)
def test_copies(native, pool, sizes, channels, wider, data):
    start = tuple(data.draw(st.integers(0, min(size[axis] for size in sizes) - 1)) for axis in (0, 1))
    net = Run(native, pool, sizes, channels, wider)
    top = net.top(sizes=[(h - start[0], w - start[1]) for h, w in sizes])
    step = operation("Copy", bottom=net.bottom, top=top, start=start)
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        assert np.array_equal(found, image[start[0] :, start[1] :])


def test_a_copy_into_a_part_leaves_the_other_channels(native, pool):
    net = Run(native, pool, [(3, 5)], 24)
    step = operation("Copy", bottom=net.bottom.part(0, 7), top=net.bottom.part(12, 7), start=(0, 0))
    (found,) = net(step, wanted=net.bottom)
    expected = net.pixels[0].copy()
    expected[..., 12:19] = expected[..., :7]
    assert np.array_equal(found, expected)


@given(sizes=SIZES, channels=CHANNELS, wider=WIDER, scale=st.sampled_from([1.0, 50.0, 1e30]))
@settings(max_examples=40, deadline=None)
def test_softmax(native, pool, sizes, channels, wider, scale):
    net = Run(native, pool, sizes, channels, wider, scale)
    top = net.top()
    for image, found in zip(net.pixels, net(operation("Softmax", bottom=net.bottom, top=top), wanted=top), strict=True):
        powers = np.exp(image.astype(float) - image.max(axis=-1, keepdims=True))
        assert np.allclose(found, powers / powers.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-38)


@given(
    sizes=SIZES,
    channels=st.sampled_from([1, 3, 8, 20]),
    factor=st.integers(1, 3),
    wider=WIDER,
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    slope=SLOPES,
)
@settings(max_examples=40, deadline=None)
def test_depthwise_convolutions(native, pool, sizes, channels, factor, wider, kernel, stride, dilation, slope):
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((*kernel, channels * factor)).astype(np.float32)
    bias = rng.standard_normal(channels * factor).astype(np.float32)
    pad = tuple(dilation * (k - 1) for k in kernel)
    tops = [tuple((n + p - 1) // stride + 1 for n, p in zip(size, pad, strict=True)) for size in sizes]
    net = Run(native, pool, sizes, channels, wider)
    top = net.top(channels * factor, tops)
    step = operation(
        "DepthwiseConvolution",
        bottom=net.bottom,
        top=top,
        weights=weights,
        kernel=kernel,
        stride=(stride, stride),
        pad=pad,
        dilation=(dilation, dilation),
        bias=bias,
        slope=slope,
    )
    for image, found in zip(net.pixels, net(step, wanted=top), strict=True):
        padded = np.pad(image.astype(float), [(p, p) for p in pad] + [(0, 0)]).repeat(factor, axis=-1)
        expected = np.zeros(found.shape)
        for y, x in np.ndindex(kernel):
            taps = padded[y * dilation :: stride, x * dilation :: stride][: found.shape[0], : found.shape[1]]
            expected += taps * weights[y, x]
        assert relative_error(found, rectified(expected + bias, slope)) < 1e-5


@given(sizes=SIZES, channels=CHANNELS, data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_best_come_first_and_of_equal_ones_the_lower(native, pool, sizes, channels, data):
    k = data.draw(st.integers(1, min(channels, 7)))
    net = Run(native, pool, sizes, channels)
    net.pixels = [np.round(image) for image in net.pixels]  # many are equal
    results = [np.empty((*size, k), np.int64) for size in sizes] + [np.empty((*size, k), np.float32) for size in sizes]
    program = native.Program(pool, [prepare(net.bottom)], [operation("TopK", bottom=net.bottom, k=k)], net.arena.size)
    program.run(net.pixels, results)
    for image, classes, scores in zip(net.pixels, results, results[len(sizes) :], strict=False):
        expected = np.argsort(-image, axis=-1, kind="stable")[..., :k]
        assert np.array_equal(classes, expected)
        assert np.array_equal(scores, np.take_along_axis(image, expected, axis=-1))


@given(sizes=SIZES, block=st.integers(1, 4), pad=st.tuples(st.integers(0, 3), st.integers(0, 3)), grey=st.booleans())
@settings(max_examples=40, deadline=None)
def test_bytes_are_prepared(native, pool, sizes, block, pad, grey):
    rng = np.random.default_rng(0)
    order, mean = ((0,), (100.5,)) if grey else ((2, 1, 0), (104.0, 117.0, 123.0))
    pixels = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    tops = [tuple(-(-(n + p) // block) for n, p in zip(size, pad, strict=True)) for size in sizes]
    arena = Arena()
    one, two = arena.blob(block**2 * len(order), tops), arena.blob(block**2 * len(order), tops)
    whole = arena.blob(len(order), sizes)
    luma = (4899, 9617, 1868, 1 << 14) if grey else None
    fields = {"order": order, "mean": mean, "scale": 0.017, "luma": luma}
    fused = [operation("Prepare", top=one, block=block, pad=pad, **fields)]
    apart = [
        operation("Prepare", top=whole, block=1, pad=(0, 0), **fields),
        operation("SpaceToDepth", bottom=whole, top=two, block=block, pad=pad),
    ]
    found, other = (
        run(native, pool, pixels, operations=steps, wanted=wanted, arena=arena)
        for steps, wanted in ((fused, one), (apart, two))
    )
    for image, a, b in zip(pixels, found, other, strict=True):
        assert np.array_equal(a, b)
        colours = image[..., order]
        if luma:
            colours = ((image.astype(int) @ luma[:3] + luma[3] // 2) // luma[3])[..., None]
        values = (colours.astype(np.float32) - np.array(mean, np.float32)) * np.float32(0.017)
        height, width = a.shape[:2]
        ends = [height * block - image.shape[0] - pad[0], width * block - image.shape[1] - pad[1]]
        padded = np.pad(values, [(pad[0], ends[0]), (pad[1], ends[1]), (0, 0)])
        blocks = padded.reshape(height, block, width, block, len(order)).transpose(0, 2, 1, 3, 4)
        assert np.array_equal(a, blocks.reshape(a.shape))


def test_what_does_not_fit_is_refused(native, pool):
    arena = Arena()
    blob = arena.blob(4, [(2, 2)])
    image = np.zeros((2, 2, 4), np.float32)

    def program(*operations, size=arena.size, results=()):
        return native.Program(pool, list(operations), list(results), size)

    with pytest.raises(ValueError, match="does not lie in the arena"):
        program(prepare(blob), size=arena.size - 1)
    with pytest.raises(ValueError, match="no operation Convolute"):
        program(operation("Convolute"))
    with pytest.raises(ValueError, match="different sizes"):
        program(operation("Softmax", bottom=blob, top=blob.part(0, 3)))
    with pytest.raises(ValueError, match="takes 1 images, not 2"):
        program(prepare(blob)).run([image] * 2, [])
    with pytest.raises(ValueError, match="has 3 channels; the network takes 4"):
        program(prepare(blob)).run([image[..., :3].copy()], [])
    with pytest.raises(ValueError, match=r"Result 0 is not float32 \[2, 2, 4\]"):
        program(prepare(blob), results=[operation("Whole", bottom=blob)]).run([image], [image[1:].copy()])
    with pytest.raises(ValueError, match="avx3 is not among"):
        native.ThreadPool(1, "avx3")


@pytest.mark.parametrize("kind", ["in steps", "read-only"])
def test_results_that_would_not_be_written_are_refused(native, pool, kind):
    net = Run(native, pool, [(3, 5)], 4)
    result = np.zeros((3, 10, 4), np.float32)[:, ::2] if kind == "in steps" else np.zeros((3, 5, 4), np.float32)
    result.flags.writeable = kind == "in steps"
    program = native.Program(pool, [prepare(net.bottom)], [operation("Whole", bottom=net.bottom)], net.arena.size)
    with pytest.raises(TypeError):
        program.run(net.pixels, [result])
