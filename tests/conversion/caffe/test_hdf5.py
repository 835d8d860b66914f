"""Weights as HDF5: the same as in binary form, or a typed error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conversion import load_network
from conversion.errors import LimitError, ReadingError, WeightsError
from conversion.limits import Limits
from conversion.net.network import Network, to_definition
from conversion.net.weights import with_shared_blobs
from conversion.surgery import random_parameters, save
from tests.support.definitions import CLASSIFIER, convolution, data, inner_product, layer, network
from tests.support.golden_cases import GOLDEN


def assert_same(a: Network, b: Network) -> None:
    assert a.parameters.keys() == b.parameters.keys()
    for name, blobs in a.parameters.items():
        for left, right in zip(blobs, b.parameters[name], strict=True):
            assert left.dtype == right.dtype == np.float32
            np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("case", ["layers/hdf5_conv_ip", "layers/shared_weights", "nets/lenet_small"])
def test_the_same_as_the_binary_form(case: str):
    """Caffe wrote both."""
    folder = GOLDEN / case
    binary = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    read = load_network(folder / "net.prototxt", folder / "net.caffemodel.h5")
    assert_same(binary, read)
    assert read.notes == ()


def test_shared_parameters_are_the_owners():
    folder = GOLDEN / "layers" / "shared_weights"
    read = load_network(folder / "net.prototxt", folder / "net.caffemodel.h5")
    assert all(a is b for a, b in zip(read.parameters["c1"], read.parameters["c2"], strict=True))


def test_told_apart_by_content(tmp_path: Path):
    """Whatever the name says."""
    folder = GOLDEN / "nets" / "lenet_small"
    for source, name in (("net.caffemodel.h5", "a.caffemodel"), ("net.caffemodel", "b.h5")):
        file = tmp_path / name
        file.write_bytes((folder / source).read_bytes())
        assert len(load_network(folder / "net.prototxt", file).parameters) == 4


@pytest.fixture
def net(tmp_path: Path) -> Network:
    subject = network(CLASSIFIER, seed=0)
    save(subject, tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5")
    return subject


def load(tmp_path: Path, limits: Limits | None = None) -> Network:
    more: Any = {} if limits is None else {"limits": limits}
    return load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5", **more)


def change(tmp_path: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(tmp_path / "net.caffemodel.h5", "a") as file:
        edit(file)


def test_round_trip(tmp_path: Path, net: Network):
    assert_same(load(tmp_path), net)
    assert to_definition(load(tmp_path)) == to_definition(net)


def test_round_trip_of_what_is_shared_in_part(tmp_path: Path):
    """The filters are, the biases are not: the second layer has dataset 1 and no dataset 0."""
    shared = 'name: "w"'
    bare = network(
        data(1, 2, 5, 5)
        + convolution("a", "data", "num_output: 2 kernel_size: 3", param=shared)
        + convolution("b", "data", "num_output: 2 kernel_size: 3", param=shared)
        + layer("Eltwise", "e", "a b"),
        seed=0,
    )
    parameters = {**bare.parameters, "b": (bare.parameters["a"][0], bare.parameters["b"][1])}
    subject = dataclasses.replace(bare, parameters=parameters)
    save(subject, tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5")
    with h5py.File(tmp_path / "net.caffemodel.h5") as file:
        assert sorted(file["data/a"]) == ["0", "1"]
        assert sorted(file["data/b"]) == ["1"]
    read = load(tmp_path)
    assert_same(read, subject)
    assert read.parameters["a"][0] is read.parameters["b"][0]


def test_names_with_slashes(tmp_path: Path):
    """They are groups in groups. Caffe looks into the first only, so that we write none; but read what others wrote."""
    subject = network(
        data(1, 2, 5, 5)
        + convolution("a", "data", "num_output: 2 kernel_size: 3")
        + inner_product("a/fc", "a", "num_output: 3"),
        seed=0,
    )
    with pytest.raises(WeightsError, match="layers a/fc cannot be saved as HDF5") as caught:
        save(subject, tmp_path / "net.prototxt", tmp_path / "net.caffemodel.h5")
    assert "caffemodel" in caught.value.remedy
    save(subject, tmp_path / "net.prototxt")
    with h5py.File(tmp_path / "net.caffemodel.h5", "w") as file:
        for name, blobs in subject.parameters.items():
            for index, blob in enumerate(blobs):
                file[f"data/{name}/{index}"] = blob
    assert_same(load(tmp_path), subject)


def test_double_values_and_compression(tmp_path: Path, net: Network):
    """What other tools rewrite a file to."""
    change(tmp_path, lambda f: f.pop("data/conv1/0"))
    weights = net.parameters["conv1"][0]
    change(
        tmp_path,
        lambda f: f["data/conv1"].create_dataset("0", data=weights.astype(np.float64), compression="gzip"),
    )
    assert_same(load(tmp_path), net)


def test_unused_weights_are_told(tmp_path: Path, net: Network):
    change(tmp_path, lambda f: f.create_dataset("data/aux/0", data=np.ones(3, np.float32)))
    change(tmp_path, lambda f: f.create_group("data/relu9"))
    assert load(tmp_path).notes == ("weights of layer 'aux' are not used",)


MISSING = {
    "a layer": ("data/fc2", "0 of 2 weight blobs"),
    "its biases": ("data/fc2/1", "1 of 2 weight blobs"),
    "its filters": ("data/fc2/0", "0 of 2 weight blobs"),
}


@pytest.mark.parametrize(("path", "message"), MISSING.values(), ids=MISSING)
def test_missing_weights(tmp_path: Path, net: Network, path: str, message: str):
    change(tmp_path, lambda f: f.pop(path))
    with pytest.raises(WeightsError, match=message) as caught:
        load(tmp_path)
    assert "layer 'fc2'" in caught.value.where


def test_more_blobs_than_the_layer_has(tmp_path: Path, net: Network):
    change(tmp_path, lambda f: f.create_dataset("data/fc2/2", data=np.ones(3, np.float32)))
    with pytest.raises(WeightsError, match="3 of 2 weight blobs"):
        load(tmp_path)


def test_weights_of_another_shape(tmp_path: Path, net: Network):
    change(tmp_path, lambda f: f.pop("data/fc2/1"))
    change(tmp_path, lambda f: f.create_dataset("data/fc2/1", data=np.ones(9, np.float32)))
    with pytest.raises(WeightsError, match=r"shape \(9,\), the definition requires \(8,\)"):
        load(tmp_path)


def test_values_that_are_not_finite(tmp_path: Path, net: Network):
    def edit(file: h5py.File) -> None:
        file["data/fc2/1"][3] = np.nan

    change(tmp_path, edit)
    with pytest.raises(WeightsError):
        load(tmp_path)


def external(file: h5py.File) -> None:
    del file["data/fc2/1"]
    file["data/fc2/1"] = h5py.ExternalLink("/etc/hostname", "/x")


def soft(file: h5py.File) -> None:
    del file["data/fc2/1"]
    file["data/fc2/1"] = h5py.SoftLink("/data/conv1/1")


def raw_elsewhere(file: h5py.File) -> None:
    del file["data/fc2/1"]
    file["data/fc2"].create_dataset("1", (8,), np.float32, external=[("/etc/hostname", 0, 32)])


def virtual(file: h5py.File) -> None:
    del file["data/fc2/1"]
    layout = h5py.VirtualLayout(shape=(8,), dtype=np.float32)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(8,))
    file["data/fc2"].create_virtual_dataset("1", layout)


def itself(file: h5py.File) -> None:
    file["data/fc2/again"] = file["data"]


def data_elsewhere(file: h5py.File) -> None:
    del file["data"]
    file["data"] = h5py.ExternalLink("/etc/hostname", "/data")


def solver_state(file: h5py.File) -> None:
    del file["data"]
    file.create_group("history")


def put(path: str, value: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        if path in file:
            del file[path]
        file[path] = value

    return edit


HOSTILE = {
    "link to another file": (external, "link to another object"),
    "link within the file": (soft, "link to another object"),
    "values in another file": (raw_elsewhere, "another file"),
    "values gathered from other files": (virtual, "another file"),
    "group in itself": (itself, "not a blob of a layer|nested too deeply"),
    "all in another file": (data_elsewhere, "link to another object"),
    "state of a solver": (solver_state, "looks like a solver"),
    "data is no group": (put("data", np.ones(3)), "no group /data"),
    "text": (put("data/fc2/1", "weights"), "a blob of object"),
    "whole numbers": (put("data/fc2/1", np.arange(8)), "a blob of int64"),
    "no values": (put("data/fc2/1", np.ones((0,), np.float32)), r"shape \(0,\)"),
    "a named type": (put("data/fc2/1", np.dtype(np.float32)), "neither group nor dataset"),
    "a dataset without a layer": (put("data/9", np.ones(3, np.float32)), "not a blob of a layer"),
    "a name for an index": (put("data/fc2/weights", np.ones(3, np.float32)), "not a blob of a layer"),
    "a huge index": (put("data/fc2/99999999", np.ones(3, np.float32)), "not a blob of a layer"),
}


@pytest.mark.parametrize(("edit", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(tmp_path: Path, net: Network, edit: Callable[[h5py.File], object], message: str):
    change(tmp_path, edit)
    with pytest.raises(ReadingError, match=message) as caught:
        load(tmp_path)
    assert "net.caffemodel.h5" in caught.value.where


def test_more_than_the_limits(tmp_path: Path, net: Network):
    """A dataset of a terabyte takes no space in a file."""

    def edit(file: h5py.File) -> None:
        del file["data/fc2/1"]
        file["data/fc2"].create_dataset("1", (1 << 38,), np.float32, chunks=(1 << 20,))

    change(tmp_path, edit)
    with pytest.raises(LimitError, match="a blob of shape"):
        load(tmp_path)
    change(tmp_path, put("data/fc2/1", np.ones(8, np.float32)))
    for limits in (
        Limits(entries=5),
        Limits(memory=1000),
        Limits(axes=2),
        Limits(elements=100),
        Limits(weights_bytes=99),
    ):
        with pytest.raises(LimitError):
            load(tmp_path, limits)


def test_truncated_files(tmp_path: Path, net: Network):
    file = tmp_path / "net.caffemodel.h5"
    whole = file.read_bytes()
    for length in range(8, len(whole), len(whole) // 37):
        file.write_bytes(whole[:length])
        with pytest.raises(ReadingError):
            load(tmp_path)


def test_flipped_bytes_give_typed_errors_or_other_weights(tmp_path: Path, net: Network):
    file = tmp_path / "net.caffemodel.h5"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(8, 4000))] = int(rng.integers(256))
        file.write_bytes(damaged)
        try:
            load(tmp_path)
        except (ReadingError, WeightsError, LimitError):
            continue


def test_saving_without_weights(tmp_path: Path):
    with pytest.raises(WeightsError, match="no weights"):
        save(network(CLASSIFIER), tmp_path / "net.prototxt", tmp_path / "net.h5")


def test_complete_leaves_what_it_does_not_know():
    subject = random_parameters(network(CLASSIFIER))
    stored = {name: dict(enumerate(blobs)) for name, blobs in subject.parameters.items()}
    assert set(with_shared_blobs(subject, {**stored, "other": {0: np.ones(2, np.float32)}})) == {*stored, "other"}
