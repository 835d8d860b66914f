"""Small files that ask for terabytes: refused by shape inference, before anything is allocated."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, NetworkError
from conversion.limits import Limits
from tests.attacks.attack import SMALL, Attack, each
from tests.support.definitions import convolution, data, inner_product, layer, pooling

IMAGE = data(1, 3, 224, 224)
PIXEL = data(1, 1, 1, 1)
MEMORY = ("bytes in use at once", "--max-memory")
ELEMENTS = ("--max-elements",)
ATTACKS = [
    Attack("an input", data(1, 1, 2**15, 2**15) + layer("Split", "s", "data", "a b c"), LimitError, MEMORY),
    Attack(
        "a kernel",
        IMAGE + convolution("c", "data", f"num_output: 1 kernel_size: {2**31} pad: {2**31}"),
        LimitError,
        ELEMENTS,
    ),
    Attack(
        "filters",
        IMAGE + "".join(convolution(c, "data", "num_output: 1200 kernel_size: 600 pad: 300") for c in "abc"),
        LimitError,
        MEMORY,
    ),
    Attack("a matrix", IMAGE + "".join(inner_product(c, "data", "num_output: 9000") for c in "ab"), LimitError, MEMORY),
    Attack(
        "padding that a stride hides",
        PIXEL + convolution("c", "data", f"num_output: 1 kernel_size: 1 pad: {2**30} stride: {2**30}"),
        LimitError,
        MEMORY,
    ),
    Attack(
        "padding of a pooling",
        PIXEL + pooling("p", "data", f"kernel_size: {2**30} pad: {2**30 - 1} stride: {2**30}"),
        LimitError,
        MEMORY,
    ),
    Attack(
        "a Deconvolution",
        IMAGE
        + layer("Deconvolution", "d", "data", convolution_param="num_output: 1 kernel_size: 1 stride: 2147483647"),
        LimitError,
        ELEMENTS,
    ),
    Attack(
        "a Deconvolution that padding hides",
        data(1, 1, 2, 2)
        + layer(
            "Deconvolution", "d", "data", convolution_param=f"num_output: 1 kernel_size: 1 stride: {2**30} pad: {2**29}"
        ),
        LimitError,
        MEMORY,
    ),
    Attack(
        "gaps of a Deconvolution",
        PIXEL
        + layer(
            "Deconvolution",
            "d",
            "data",
            convolution_param=f"num_output: 1 kernel_size: 2 dilation: {2**30} pad: {2**29}",
        ),
        LimitError,
        MEMORY,
    ),
    Attack("Tile", IMAGE + layer("Tile", "t", "data", tile_param="tiles: 100000000"), LimitError, ELEMENTS),
    Attack("copies", IMAGE + layer("Split", "s", "data", " ".join(f"s{i}" for i in range(20_000))), LimitError, MEMORY),
    Attack(
        "a pyramid",
        IMAGE + layer("SPP", "s", "data", spp_param="pyramid_height: 4294967295"),
        NetworkError,
        ("too small for",),
    ),
    Attack(
        "a pyramid that fits",
        data(1, 20000, 256, 256) + layer("SPP", "s", "data", spp_param="pyramid_height: 9"),
        LimitError,
        MEMORY,
    ),
    Attack(
        "LRN across",
        data(1, 1, 8, 8) + layer("LRN", "l", "data", lrn_param="local_size: 4294967295"),
        LimitError,
        MEMORY,
    ),
    Attack(
        "LRN within",
        PIXEL + layer("LRN", "l", "data", lrn_param="local_size: 1000001 norm_region: WITHIN_CHANNEL"),
        LimitError,
        MEMORY,
    ),
    Attack(
        "Embed",
        data(1) + layer("Embed", "e", "data", embed_param=f"num_output: 65536 input_dim: {2**32 - 1}"),
        LimitError,
        ELEMENTS,
    ),
    Attack("Parameter", layer("Parameter", "p", parameter_param=f"shape {{ dim: {2**40} }}"), LimitError, ELEMENTS),
    Attack("a limit of one's own", SMALL, LimitError, ("limit of 1,000",), limits=Limits(memory=1000)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_published_nets_pass():
    """The defaults are generous."""
    from conversion.net.load import load_network
    from models import entry

    for name in ("caffenet", "alexnet"):
        assert load_network(entry(name).definition).shapes


def vgg() -> str:
    """VGG-16 with the batch of ten of its published definition: 0.5 GB of weights, 1.2 GB of blobs."""
    text, bottom = data(10, 3, 224, 224), "data"
    for block, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for index in range(count):
            text += convolution(f"conv{block}_{index}", bottom, f"num_output: {width} kernel_size: 3 pad: 1")
            bottom = f"conv{block}_{index}"
            text += layer("ReLU", f"relu{block}_{index}", bottom, bottom)
        text += pooling(f"pool{block}", bottom, "kernel_size: 2 stride: 2")
        bottom = f"pool{block}"
    for index, width in ((6, 4096), (7, 4096), (8, 1000)):
        text += inner_product(f"fc{index}", bottom, f"num_output: {width}")
        bottom = f"fc{index}"
    return text


def test_vgg_passes(tmp_path: Path):
    attack = Attack("VGG-16", vgg(), LimitError)
    assert attack.run(attack.write(tmp_path)).parameter_count() == 138_357_544  # type: ignore[attr-defined]


def resnet() -> str:
    """ResNet-152's layers: 515 convolutions, normalizations, scales and sums."""
    text = data(1, 3, 224, 224) + convolution("c", "data", "num_output: 64 kernel_size: 7 stride: 2 pad: 3")
    text, bottom = text + pooling("p", "c", "kernel_size: 3 stride: 2"), "p"
    for stage, (width, count) in enumerate(((64, 3), (128, 8), (256, 36), (512, 3))):
        for unit in range(count):
            start, stride = bottom, 2 if stage and not unit else 1
            for part, (k, w) in enumerate(((1, width), (3, width), (1, 4 * width))):
                name, s = f"r{stage}_{unit}_{part}", stride if part == 0 else 1
                text += convolution(
                    name, bottom, f"num_output: {w} kernel_size: {k} pad: {k // 2} stride: {s} bias_term: false"
                )
                text += layer("BatchNorm", f"{name}_bn", name, name) + layer(
                    "Scale", f"{name}_s", name, name, scale_param="bias_term: true"
                )
                bottom = name
            if not unit:
                short = f"r{stage}_short"
                text += convolution(short, start, f"num_output: {4 * width} kernel_size: 1 stride: {stride}")
                start = short
            text += layer("Eltwise", f"sum{stage}_{unit}", f"{start} {bottom}")
            bottom = f"sum{stage}_{unit}"
    return text


def test_resnet_152_passes(tmp_path: Path):
    attack = Attack("ResNet-152", resnet(), LimitError)
    assert len(attack.run(attack.write(tmp_path)).layers) > 500  # type: ignore[attr-defined]
