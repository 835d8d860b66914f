"""Which blobs can be kept, and which of them can be put together from tiles."""

from pathlib import Path

import numpy as np
import pytest

from conversion import Network, cast, load_network
from pipeline.errors import JobError
from pipeline.maps.features import Wanted, check_tileable, parse_features
from tests.support.fakes import METADATA
from tests.support.golden_cases import GOLDEN

OFFERS = METADATA.model_copy(update={"features": {"fc7": 4096, "pool5": 256, "a:b": 3}})
SINGLE, HALF = np.dtype(np.float32), np.dtype(np.float16)


def test_names_may_say_how_values_are_kept() -> None:
    found = parse_features(
        [
            "pool5:float16",
            "fc7",
            "a:b",
        ],
        OFFERS,
    )
    assert found == (Wanted("pool5", HALF), Wanted("fc7", SINGLE), Wanted("a:b", SINGLE))
    assert parse_features(["fc7:float32", "a:b:float16"], OFFERS) == (Wanted("fc7", SINGLE), Wanted("a:b", HALF))
    assert parse_features([], OFFERS) == ()


@pytest.mark.parametrize("name", ["fc6", "fc6:float16", "", ":float16", "FC7"])
def test_an_unknown_blob_brings_those_there_are(name: str) -> None:
    with pytest.raises(JobError, match="there is no feature") as caught:
        parse_features(["fc7", name], OFFERS)
    assert caught.value.remedy == "it offers fc7 (4096 channels), pool5 (256 channels), a:b (3 channels)"
    with pytest.raises(JobError) as caught:
        parse_features([name], METADATA)
    assert "convert the model again" in caught.value.remedy


def test_other_types_and_repetitions_are_refused() -> None:
    with pytest.raises(JobError, match="'fc7' cannot be kept as 'uint8'"):
        parse_features(["fc7:uint8"], OFFERS)
    with pytest.raises(JobError, match="requested twice"):
        parse_features(["fc7", "fc7:float16"], OFFERS)


@pytest.fixture(scope="module")
def caffenet() -> Network:
    net = GOLDEN / "nets" / "caffenet_small"
    return cast(load_network(net / "net.prototxt", net / "net.caffemodel"))


def test_any_blob_of_the_network_before_or_after_its_in_place_layers(caffenet: Network) -> None:
    def found(*names: str) -> tuple[Wanted, ...]:
        return parse_features(names, OFFERS, lambda: caffenet)

    [before, half] = found("fc7:before", "conv1:before:float16")
    assert (before, half) == (Wanted("fc7:before", SINGLE), Wanted("conv1:before", HALF))
    assert (before.blob, before.is_before, Wanted("fc7", SINGLE).is_before) == ("fc7", True, False)
    assert found("prob", "conv5", "fc7-conv:before") == tuple(
        Wanted(name, SINGLE) for name in ("prob", "conv5", "fc7-conv:before")
    )
    check_tileable([before], caffenet, "prob")


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("pool5:before", "feature 'pool5' has one value", "leave out :before"),
        ("fc8:before", "feature 'fc8' has one value", "leave out :before"),
        ("conv6", "there is no feature 'conv6'", "nearest of the other blobs: conv"),
        ("fc9:before", "there is no feature 'fc9'", "it offers fc7"),
        ("fc7:before:int8", "feature 'fc7:before' cannot be kept as 'int8'", "use float32 or float16"),
    ],
)
def test_a_blob_that_is_not_there_is_refused(name: str, message: str, remedy: str, caffenet: Network) -> None:
    with pytest.raises(JobError, match=message) as caught:
        parse_features([name], OFFERS, lambda: caffenet)
    assert remedy in caught.value.remedy


def test_blobs_with_the_cells_of_the_map_can_be_tiled(caffenet: Network) -> None:
    check_tileable([Wanted(name, SINGLE) for name in ("fc6", "fc7", "fc8", "prob")], caffenet, "prob")
    for name in ("pool5", "conv5", "data", "nothing"):
        with pytest.raises(JobError, match=f"feature '{name}' cannot be kept of images that are cut into tiles"):
            check_tileable([Wanted("fc7", SINGLE), Wanted(name, SINGLE)], caffenet, "prob")
    # fc7 is computed from fc6, not the other way about.
    check_tileable([Wanted("fc6", SINGLE)], caffenet, "fc7-conv")
    with pytest.raises(JobError, match="'fc7'"):
        check_tileable([Wanted("fc7", SINGLE)], caffenet, "fc6-conv")


THINNED = """
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "fc" type: "Convolution" bottom: "data" top: "fc" convolution_param { num_output: 4 kernel_size: 8 } }
layer { name: "out" type: "Pooling" bottom: "fc" top: "out" pooling_param { kernel_size: 1 stride: 2 } }
"""


def test_one_cell_at_the_training_size_is_not_enough(tmp_path: Path) -> None:
    """Both blobs have one cell there; in a larger image the map has every second one of the other's."""
    (tmp_path / "net.prototxt").write_text(THINNED)
    network = load_network(tmp_path / "net.prototxt")
    assert network.shapes["fc"] == network.shapes["out"]
    with pytest.raises(JobError, match="cells are not those of the map"):
        check_tileable([Wanted("fc", SINGLE)], network, "out")
