"""Layers of other packages: found by entry point, with fields of their own, named where they fail."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conversion import convert, evaluate, load_network, random_parameters, read_metadata, save, to_tensorflow
from conversion.errors import ExtensionError, NetworkError, UnsupportedError
from conversion.own_layers import GROUP, own_layers
from tests.support.definitions import convolution, data, layer, pooling

SOURCE = Path(__file__).parents[2] / "support" / "own_layer" / "channel_gain.py"
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages as pip does: a module and a `.dist-info` folder in a folder of the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def one(package: str, entries: dict[str, str], version: str = "1.2", code: str | None = None) -> Path:
        module = site / f"{package}.py"
        shutil.copy(SOURCE, module) if code is None else module.write_text(code)
        info = site / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()
        own_layers.cache_clear()
        return module

    before = set(sys.modules)
    yield one
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", "") and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]
    monkeypatch.undo()
    importlib.invalidate_caches()
    own_layers.cache_clear()


@pytest.fixture
def gain(install: Install) -> Install:
    install("channel_gain", {"ChannelGain": "channel_gain:ChannelGain"})
    return install


def classifier(field: str = 'gain_param {\n  limit: 0.5  # "quoted"\n}') -> str:
    own = f'layer {{ name: "g" type: "ChannelGain" bottom: "c" top: "g"\n  {field} }}\n'
    text = data(1, 3, 16, 16) + convolution("c", "data", "num_output: 4 kernel_size: 3 stride: 2") + own
    return text + pooling("p", "g", "pool: AVE global_pooling: true") + layer("Softmax", "prob", "p")


def write(folder: Path, text: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


def test_a_package_adds_a_layer_with_its_field_and_its_forms(gain: Install, tmp_path: Path):
    network = random_parameters(load_network(write(tmp_path, classifier())), seed=3)
    image = np.random.default_rng(0).normal(0, 2, (2, 3, 16, 16)).astype(np.float32)
    answer = evaluate(network, {"data": image})
    gains = network.parameters["g"][0].reshape(-1, 1, 1)
    np.testing.assert_allclose(answer["g"], np.minimum(answer["c"] * gains, 0.5), rtol=1e-6)
    np.testing.assert_allclose(to_tensorflow(network)({"data": image})["prob"], answer["prob"], rtol=1e-5)


def test_a_model_says_whose_layer_it_has(gain: Install, tmp_path: Path):
    path = write(tmp_path, classifier())
    save(random_parameters(load_network(path), seed=0), tmp_path / "saved.prototxt", tmp_path / "net.caffemodel")
    metadata = convert(path, tmp_path / "net.caffemodel", tmp_path / "model")
    assert metadata.own_layers == {"ChannelGain": "channel_gain 1.2"}
    assert read_metadata(tmp_path / "model") == metadata
    again = load_network(tmp_path / "model" / "network.prototxt")
    assert "limit: 0.5" in again.layer("g").definition.own_field[0].text
    saved = load_network(tmp_path / "saved.prototxt", tmp_path / "net.caffemodel")
    assert saved.layer("g").limit == 0.5  # type: ignore[attr-defined]


def test_another_version_of_the_package_is_another_model(install: Install, tmp_path: Path):
    from conversion import Preprocessing, digest

    digests = set()
    for version in ("1.2", "1.3"):
        install("channel_gain", {"ChannelGain": "channel_gain:ChannelGain"}, version)
        network = load_network(write(tmp_path, classifier()))
        digests.add(digest(network, Preprocessing(channel_order="bgr", mean=(0.0,), scale=1.0), "prob"))
        shutil.rmtree(tmp_path / "site" / f"channel_gain-{version}.dist-info")
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("gain_param { limit: 0 }", "limit 0.0 is not above 0"),
        ("gain_param { limits: 1 }", "gain_param is not a GainParameter"),
        ("gain_param { limit: 1 } gain_param { limit: 2 }", "gain_param is given 2 times"),
    ],
)
def test_what_the_package_refuses_names_the_layer(gain: Install, tmp_path: Path, field: str, what: str):
    with pytest.raises(NetworkError, match=what) as caught:
        load_network(write(tmp_path, classifier(field)))
    assert "layer 'g'" in caught.value.where


def test_fields_without_a_value_and_other_marks(gain: Install, tmp_path: Path):
    for field in ("", "gain_param: < limit: 1 >", "gain_param {}"):
        assert load_network(write(tmp_path, classifier(field))).layer("g").limit == 1.0  # type: ignore[attr-defined]


def test_fields_that_nobody_knows_stay_errors_with_their_lines(gain: Install, tmp_path: Path):
    text = classifier().replace('name: "p"', 'name: "p" other_param { a: 1 }')
    with pytest.raises(UnsupportedError, match=r"unknown fields: other_param \(in LayerParameter, line 7\)"):
        load_network(write(tmp_path, text))


def test_a_field_belongs_to_its_own_type(gain: Install, tmp_path: Path):
    text = classifier().replace('type: "ChannelGain"', 'type: "ReLU"')
    with pytest.raises(UnsupportedError, match="gain_param on type 'ReLU'"):
        load_network(write(tmp_path, text))


def test_without_the_package_the_type_is_unknown(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="layer type 'ChannelGain'"):
        load_network(write(tmp_path, classifier("")))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("raise OSError('no')", "broken:Layer cannot be imported: OSError: no"),
        ("", "cannot be imported: AttributeError"),
        ("Layer = 3", "3 is not a layer"),
        (
            "from conversion import Layer as Base\nclass Layer(Base): pass",
            "Layer lacks output_shapes, reference, tensorflow",
        ),
    ],
)
def test_a_bad_entry_point_names_its_package(install: Install, tmp_path: Path, code: str, what: str):
    install("broken", {"ChannelGain": "broken:Layer"}, "0.3", code)
    with pytest.raises(ExtensionError, match=what) as caught:
        load_network(write(tmp_path, classifier("")))
    assert caught.value.where == f"package broken 0.3: entry point 'ChannelGain' of {GROUP}"


def test_a_bad_package_hinders_no_other_net(install: Install, tmp_path: Path):
    install("broken", {"Other": "broken:Layer"}, code="raise OSError('no')")
    load_network(write(tmp_path, data(1, 1, 4, 4) + layer("ReLU", "r", "data")))


def test_two_packages_with_one_type_are_refused(gain: Install, tmp_path: Path):
    gain("second", {"ChannelGain": "second:ChannelGain"})
    with pytest.raises(ExtensionError, match="two packages have the layer type 'ChannelGain'") as caught:
        load_network(write(tmp_path, classifier("")))
    assert "channel_gain 1.2" in caught.value.what
    assert "second 1.2" in caught.value.what


def test_two_types_with_one_field_are_refused(install: Install, tmp_path: Path):
    entries = {"ChannelGain": "channel_gain:ChannelGain", "OtherGain": "channel_gain:ChannelGain"}
    install("channel_gain", entries)
    with pytest.raises(ExtensionError, match="two layer types have the field 'gain_param'"):
        load_network(write(tmp_path, classifier()))


def test_densecasts_own_types_cannot_be_replaced(install: Install, tmp_path: Path):
    install("channel_gain", {"ReLU": "channel_gain:ChannelGain"})
    with pytest.raises(ExtensionError, match="the layer type 'ReLU' is densecast's own"):
        load_network(write(tmp_path, classifier("")))
