"""The memory of a net: what is counted before anything is allocated, held against what the reference allocates."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from conversion import DEFAULT_LIMITS, Limits, Network, cast, random_parameters
from conversion.errors import LimitError
from conversion.net.build import build
from conversion.net.lifetimes import lifetimes
from conversion.net.reference import evaluate_each
from conversion.net.shape_limits import peak_bytes
from models import entry
from tests.conversion.layers.test_layers_dynamic import MAPS
from tests.conversion.layers.test_layers_dynamic import network as network_of
from tests.support.definitions import convolution, data, definition, layer, network
from tests.support.golden_cases import GOLDEN
from tests.support.published_nets import unet, vdsr

PIECES = ("densenet", "fcn", "googlenet", "mobilenet", "resnet", "squeezenet", "vgg")
SMALL = {name: (GOLDEN / "nets" / f"{name}_piece" / "net.prototxt").read_text() for name in PIECES}
SMALL |= {"caffenet": (GOLDEN / "nets" / "caffenet_small" / "net.prototxt").read_text()}
SMALL |= {"unet": unet(188, 8), "vdsr": vdsr(160, 160, 12)}
LARGE = ("alexnet", "googlenet", "nin", "resnet50", "squeezenet_1_0", "vgg16", "vgg19", "caffenet", "unet", "vdsr")


def measured_peak(subject: Network, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that the reference allocates at its peak, beside the weights and the inputs that it is given."""
    given = {blob: np.random.default_rng(0).standard_normal(shape) for blob, shape in shapes.items()}
    weights = {id(blob): blob.nbytes for blobs in subject.parameters.values() for blob in blobs}
    tracemalloc.start()
    try:
        with np.errstate(all="ignore"):
            for _, value in evaluate_each(subject, given):
                del value
        allocated = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return allocated + sum(weights.values()) + sum(value.nbytes for value in given.values())


@pytest.mark.parametrize("name", SMALL)
def test_the_figure_is_what_the_reference_needs(name: str):
    """Casting sets the size free, so that arrays are large beside what Python needs for itself."""
    subject = random_parameters(cast(build(definition(SMALL[name]))))
    ((blob, shape),) = subject.inputs.items()
    shapes = {blob: (1, shape[1], max(shape[2], 180), max(shape[3], 200))}
    figure, measured = peak_bytes(subject, shapes), measured_peak(subject, shapes)
    assert measured <= figure <= 2 * measured


@pytest.mark.large
@pytest.mark.parametrize("name", LARGE)
def test_the_figure_of_a_published_net_is_what_the_reference_needs(name: str):
    text = {"unet": unet(572), "vdsr": vdsr(768, 768)}.get(name) or entry(name).definition.read_text()
    subject = random_parameters(build(definition(text)))
    figure, measured = peak_bytes(subject, subject.inputs), measured_peak(subject, subject.inputs)
    assert measured <= figure <= 2 * measured


# It states the size of its top.
OF_ANY_SIZE = {name: layers for name, layers in MAPS.items() if name != "unpool_size"}


@pytest.mark.parametrize("layers", OF_ANY_SIZE.values(), ids=OF_ANY_SIZE.keys())
def test_no_layer_needs_more_than_its_workspace(layers: str):
    subject = network_of(layers, x=(64, 4, 41, 43))
    assert measured_peak(subject, subject.inputs) <= peak_bytes(subject, subject.inputs)


@pytest.mark.parametrize("text", [unet(572), vdsr(768, 768)], ids=["U-Net at 572", "VDSR at 768"])
def test_published_nets_are_within_the_default(text: str):
    subject = build(definition(text))
    assert subject.parameter_count() == (31_030_658 if subject.name == "U-Net" else 665_921)
    (output,) = subject.outputs
    assert subject.shapes[output] == ((1, 2, 388, 388) if subject.name == "U-Net" else (1, 1, 768, 768))
    assert peak_bytes(subject, subject.inputs) < DEFAULT_LIMITS.memory


def test_blobs_that_nobody_reads_any_more_do_not_add_up():
    """The layers of a chain take turns: a hundred need no more than ten."""

    def chain(length: int) -> str:
        blobs = ["data", *(f"b{i}" for i in range(length))]
        return data(1, 8, 100, 100) + "".join(
            layer("AbsVal", after, before) for before, after in itertools.pairwise(blobs)
        )

    few, many = (network(chain(length)) for length in (10, 100))
    assert peak_bytes(few, few.inputs) == peak_bytes(many, many.inputs)


def test_a_blob_that_a_late_layer_reads_counts_until_then():
    plain = data(1, 8, 100, 100) + layer("AbsVal", "a", "data") + layer("AbsVal", "b", "a") + layer("AbsVal", "c", "b")
    skip = plain + layer("Eltwise", "sum", "c a")
    more = peak_bytes(network(skip), {"data": (1, 8, 100, 100)}) - peak_bytes(
        network(plain), {"data": (1, 8, 100, 100)}
    )
    assert more >= 8 * 8 * 100 * 100


def test_the_limit_is_checked_before_the_layer():
    text = data(1, 8, 1000, 1000) + convolution("wide", "data", "num_output: 2000 kernel_size: 1")
    with pytest.raises(LimitError, match="bytes in use at once") as caught:
        build(definition(text))
    assert "--max-memory" in str(caught.value)


def test_other_sizes_have_other_figures():
    subject = network(data(1, 3, 40, 40) + convolution("conv", "data", "num_output: 8 kernel_size: 3"))
    small, large = (peak_bytes(subject, {"data": (1, 3, side, side)}) for side in (40, 400))
    assert large > 10 * small
    with pytest.raises(LimitError, match="here: layer 'conv'"):
        peak_bytes(subject, {"data": (1, 3, 4000, 4000)}, Limits(memory=1 << 30), "here")


def test_lifetimes_follow_memory_that_is_shared():
    """The ReLU changes the convolution's blob under another name, so that both are final after it."""
    subject = network(
        data(1, 2, 8, 8)
        + convolution("conv", "data", "num_output: 2 kernel_size: 1")
        + layer("Flatten", "flat", "conv")
        + layer("ReLU", "relu", "flat", "flat")
        + layer("AbsVal", "last", "conv")
    )
    lives = lifetimes(subject.layers)
    assert lives.final == [["data"], [], [], ["conv", "flat"], ["last"]]
    assert lives.unused == [[], ["data"], [], ["flat"], ["conv", "last"]]
    assert lives.memory == {"data": "data", "conv": "conv", "flat": "conv", "last": "last"}


def test_the_reference_forgets_what_nobody_reads(tmp_path: Path):
    """Slices of a large blob do not keep it."""
    subject = network(
        data(1, 8, 64, 64)
        + layer("Slice", "cut", "data", "a b", slice_param="slice_point: 1")
        + layer("AbsVal", "end", "a"),
        seed=0,
    )
    image = np.zeros((1, 8, 64, 64))
    blobs = dict(evaluate_each(subject, {"data": image}))
    assert list(blobs) == ["data", "a", "b", "end"]
    assert blobs["a"].base is None
    assert not np.shares_memory(blobs["a"], image)
