"""How far two sets of features are apart, against NumPy's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.main import cli
from pipeline.errors import TableError
from pipeline.exports.compare_features import Comparison, Match, compare_features
from pipeline.exports.export_table import export_table, format_of
from pipeline.exports.gather import Selection
from pipeline.exports.read_features import FeatureSet, read_features
from pipeline.table.paths import TableRoot
from tests.pipeline.exports.tables import publish, random_blobs, row

FILES = ("x.npz", "x.h5", "x.mat", "x.parquet")


def feature_set(values: np.ndarray, uris: list[str] | None = None, name: str = "fc7") -> FeatureSet:
    names = [f"{index}.jpg" for index in range(len(values))] if uris is None else uris
    return FeatureSet("here", names, names, {name: values.__getitem__}, len(values))


@given(images=st.integers(1, 6), values=st.integers(1, 40), seed=st.integers(0, 99))
def test_numbers_are_numpys(images: int, values: int, seed: int):
    random = np.random.default_rng(seed)
    old = random.normal(3, 1, (images, values))
    new = old + random.normal(0, 0.1, old.shape)
    [found] = compare_features(feature_set(old), feature_set(new)).blobs
    difference = np.abs(old - new)
    assert found.largest == pytest.approx(difference.max())
    assert found.mean == pytest.approx(difference.mean())
    assert found.relative == pytest.approx(difference.max() / np.abs(old).max())
    cosines = (old * new).sum(1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert found.cosine == pytest.approx(cosines.min())
    assert found.worst == f"{difference.max(axis=1).argmax()}.jpg"
    if old.size > 1:
        assert found.correlation == pytest.approx(np.corrcoef(old.ravel(), new.ravel())[0, 1], abs=1e-9)
    else:
        assert found.correlation is None


def test_equal_sets_are_equal_and_constant_ones_have_no_correlation():
    comparison = compare_features(feature_set(np.ones((2, 3))), feature_set(np.ones((2, 3))))
    [found] = comparison.blobs
    assert (found.largest, found.mean, found.relative, found.correlation) == (0, 0, 0, None)
    assert comparison.within(0)
    zero = compare_features(feature_set(np.zeros((2, 3))), feature_set(np.zeros((2, 3))))
    assert zero.within(0)
    assert (zero.blobs[0].relative, zero.blobs[0].cosine) == (None, None)


def test_a_value_that_is_not_a_number_is_no_match():
    values = np.ones((3, 3))
    bad = values.copy()
    bad[1, 1] = np.nan
    comparison = compare_features(feature_set(values), feature_set(bad))
    assert comparison.blobs[0].largest is None
    assert comparison.blobs[0].worst == "1.jpg"
    assert not comparison.within(1e9)


def test_equal_infinities_are_equal():
    values = np.array([[1.0, np.inf, 3.0], [4.0, 5.0, 6.0]])
    comparison = compare_features(feature_set(values), feature_set(values))
    assert comparison.within(0)
    assert comparison.blobs[0].correlation is None
    other = np.where(np.isinf(values), -values, values)
    assert not compare_features(feature_set(values), feature_set(other)).within(1e9)


def test_a_blob_that_the_new_set_lacks_is_beyond_every_tolerance():
    def both(*names: str) -> FeatureSet:
        rows = {name: np.ones((2, 3)).__getitem__ for name in names}
        return FeatureSet("here", ["a", "b"], ["a", "b"], rows, 2)

    assert not compare_features(both("fc7", "prob"), both("prob")).within(1)
    assert compare_features(both("prob"), both("fc7", "prob")).within(1)


def test_images_are_matched_by_name_in_any_order():
    old, new = np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2)[::-1]
    uris = ["x/a.jpg", "x/b.jpg", "x/c.jpg"]
    moved = ["y/c.jpg", "y/b.jpg", "tar#y/a.jpg"]
    with pytest.raises(TableError, match="no image is in both") as caught:
        compare_features(feature_set(old, uris), feature_set(new, moved))
    assert "--match name" in caught.value.remedy
    comparison = compare_features(feature_set(old, uris), feature_set(new, moved), Match.NAME)
    assert (comparison.matched, comparison.blobs[0].largest) == (3, 0)
    fewer = compare_features(feature_set(old, uris), feature_set(old[:2], uris[:2]))
    assert (fewer.matched, fewer.only_old, fewer.only_new, fewer.within(1)) == (2, 1, 0, False)
    with pytest.raises(TableError, match=r"several images are called 'a.jpg'"):
        compare_features(feature_set(old[:2], ["x/a.jpg", "y/a.jpg"]), feature_set(old[:2], uris[:2]), Match.NAME)
    with pytest.raises(TableError, match="images have no name"):
        compare_features(feature_set(old, ["", "", ""]), feature_set(old, uris), Match.ID)


def test_other_shapes_and_blobs_are_counted():
    comparison = compare_features(feature_set(np.ones((2, 3))), feature_set(np.ones((2, 4))))
    assert (comparison.blobs[0].other_shape, comparison.blobs[0].largest) == (2, None)
    assert not comparison.within(1)
    with pytest.raises(TableError, match="no blob in common"):
        compare_features(feature_set(np.ones((2, 3))), feature_set(np.ones((2, 3)), name="fc6"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    sizes = {"a/1.jpg": (2, 3), "a/2.jpg": (3, 3), "é.png": (1, 2)}
    return publish(
        tmp_path / "maps", *(row(uri, size, random_blobs(len(uri), size), scale=1.0) for uri, size in sizes.items())
    )


def compared(old: Path, new: Path, *blobs: str) -> Comparison:
    chosen = Selection(blobs=blobs)
    with read_features(TableRoot(str(old)), chosen) as one, read_features(TableRoot(str(new)), chosen) as other:
        return compare_features(one, other)


@pytest.mark.parametrize("name", FILES)
def test_every_export_is_equal_to_its_table(table: Path, name: str):
    output = str(table.with_name(name))
    export_table(TableRoot(str(table)), output, format_of(output), Selection())
    for pair in ((table, Path(output)), (Path(output), table)):
        assert compared(*pair).only_old_blobs == compared(*pair).only_new_blobs == ()
        comparison = compared(*pair, "fc7", "fc7:before")
        assert [blob.blob for blob in comparison.blobs] == ["fc7", "fc7:before"]
        assert (comparison.matched, comparison.within(0)) == (3, True)
        assert {blob.images for blob in comparison.blobs} == {3}


def test_arrays_of_ones_own(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.save(tmp_path / "old.npy", values)
    np.save(tmp_path / "new.npy", values[::-1])
    (tmp_path / "old.json").write_text(json.dumps({"uri": ["a", "b", "c", "d"], "name": "fc7"}))
    with pytest.raises(TableError, match="rows have no names"):
        compared(tmp_path / "old.npy", tmp_path / "new.npy")
    (tmp_path / "new.json").write_text(json.dumps({"uri": ["d", "c", "b", "a"], "name": "fc7"}))
    assert compared(tmp_path / "old.npy", tmp_path / "new.npy").within(0)
    np.savez(tmp_path / "new.npz", uri=["a", "b", "c", "d"], fc7=values)
    assert compared(tmp_path / "old.npy", tmp_path / "new.npz").within(0)
    np.savez(tmp_path / "bytes.npz", uri=[b"a", b"b", b"c", b"d"], fc7=values)
    assert compared(tmp_path / "old.npy", tmp_path / "bytes.npz").within(0)
    for names, message in (([1, 2, 3, 4], "a name is 1, not a text"), (["d"], "1 names for 4 images")):
        (tmp_path / "new.json").write_text(json.dumps({"uri": names, "name": "fc7"}))
        with pytest.raises(TableError, match=message):
            compared(tmp_path / "old.npy", tmp_path / "new.npy")
    (tmp_path / "new.json").write_text(json.dumps(["d", "c", "b", "a"]))
    with pytest.raises(TableError, match="not a JSON object"):
        compared(tmp_path / "old.npy", tmp_path / "new.npy")
    (tmp_path / "new.json").write_text(json.dumps({"uri": ["d"], "name": "fc7"}))
    with pytest.raises(TableError, match="1 names for 4 images"):
        compared(tmp_path / "old.npy", tmp_path / "new.npy")


@pytest.mark.parametrize("name", ["x.npy", *FILES])
def test_damaged_files_are_typed_errors(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"not such a file" * 9)
    with pytest.raises(TableError):
        compared(tmp_path / name, tmp_path / name)


def test_the_command_says_it_and_exits_with_6_beyond_the_tolerance(table: Path, tmp_path: Path):
    output = str(tmp_path / "x.npz")
    assert CliRunner().invoke(cli, ["export", str(table), output]).exit_code == 0
    same = CliRunner().invoke(cli, ["compare", str(table), output, "--tolerance", "0"])
    assert same.exit_code == 0, same.output
    assert "fc7:before" in same.output
    with np.load(output) as file:
        arrays = dict(file)
    arrays["fc7"] = arrays["fc7"] * np.float32(1.1)
    np.savez(tmp_path / "y.npz", **arrays)
    other = CliRunner().invoke(cli, ["compare", output, str(tmp_path / "y.npz"), "--tolerance", "0.01", "--json"])
    assert other.exit_code == 6, other.output
    report = json.loads(other.output[: other.output.rindex("}") + 1])
    assert report["within"] is False
    assert next(blob for blob in report["blobs"] if blob["blob"] == "fc7")["relative"] == pytest.approx(0.1, abs=1e-6)
    assert CliRunner().invoke(cli, ["compare", output, str(tmp_path / "y.npz")]).exit_code == 0
