"""What is exported, as other programs read it: NumPy, h5py, SciPy and Arrow."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
from click.testing import CliRunner

from pipeline.cli.main import cli
from pipeline.errors import SettingError, TableError
from pipeline.exports import formats
from pipeline.exports.export_table import ExportReport, export_table, format_of
from pipeline.exports.formats import ExportFormat
from pipeline.exports.gather import Selection
from pipeline.settings import Form
from pipeline.table.paths import TableRoot
from tests.pipeline.exports.tables import publish, random_blobs, row

URIS = ["b/é.jpg", "a/2.jpg", "a/10.jpg", "c#m/\U0001f41f.png"]
ORDER = sorted(URIS)
SIZES = {uri: (2 + number % 2, 3) for number, uri in enumerate(URIS)}


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Ten windows an image, beside maps of the whole images."""
    rows = [row(uri, (1, 10), random_blobs(len(uri), (1, 10)), ident=f"id {uri[0]}") for uri in URIS]
    rows += [row(uri, SIZES[uri], random_blobs(len(uri), SIZES[uri]), scale=1.0) for uri in URIS]
    return publish(tmp_path / "maps", *rows)


def expected(name: str, size: tuple[int, int] | None = (1, 10)) -> list[np.ndarray]:
    return [random_blobs(len(uri), size or SIZES[uri])[name] for uri in ORDER]


def export(table: Path, name: str, **selection: object) -> ExportReport:
    chosen = Selection(**selection)
    output = str(table.with_name(name))
    return export_table(TableRoot(str(table)), output, format_of(output), chosen, overwrite=True)


def test_npz_is_read_by_numpy(windows: Path):
    report = export(windows, "x.npz")
    assert report.arrays == {"fc7": (4, 10, 6), "fc7:before": (4, 10, 6), "probabilities": (4, 10, 4)}
    with np.load(windows.with_name("x.npz")) as file:
        assert file["uri"].tolist() == ORDER
        assert file["id"].tolist() == [f"id {uri[0]}" for uri in ORDER]
        assert file["label"].tolist() == [f"of {uri[-5:]}" for uri in ORDER]
        np.testing.assert_array_equal(file["fc7:before"], np.concatenate(expected("fc7:before")))
        assert file["fc7.shape"].tolist() == [[1, 10]] * 4
        assert json.loads(str(file["densecast"][0]))["scale"] == 0


def test_npy_has_its_names_beside_it(windows: Path):
    report = export(windows, "x.npy", blobs=("fc7",), average=True)
    assert sorted(Path(name).name for name in report.files) == ["x.json", "x.npy"]
    found = np.load(windows.with_name("x.npy"), mmap_mode="r")
    means = np.stack([values.mean(axis=(0, 1)) for values in expected("fc7")])
    assert (found.shape, found.dtype) == ((4, 6), np.float32)
    np.testing.assert_allclose(found, means, rtol=1e-6)
    names = json.loads(windows.with_name("x.json").read_text(encoding="utf-8"))
    assert (names["uri"], names["name"], names["densecast"]["averaged"]) == (ORDER, "fc7", True)


def test_maps_of_several_sizes_lie_one_after_another(windows: Path):
    report = export(windows, "x.h5", scale=1.0, blobs=("fc7", "prob", "probabilities"))
    cells = sum(height * width for height, width in SIZES.values())
    assert report.arrays["fc7"] == (cells, 6)
    with h5py.File(windows.with_name("x.h5")) as file:
        assert list(file["uri"].asstr()) == ORDER
        assert file["fc7.shape"][:].tolist() == [list(SIZES[uri]) for uri in ORDER]
        whole = np.concatenate([values.reshape(-1, 6) for values in expected("fc7", None)])
        np.testing.assert_array_equal(file["fc7"][:], whole)
        np.testing.assert_array_equal(file["prob"][:], file["probabilities"][:])


def test_mat_is_a_matlab_file_of_version_7_3(windows: Path):
    export(windows, "x.mat")
    path = windows.with_name("x.mat")
    assert scipy.io.matlab.matfile_version(str(path)) == (2, 0)
    with pytest.raises(NotImplementedError, match=r"v7\.3"):
        scipy.io.loadmat(path)
    with h5py.File(path) as file:
        assert {name: item.attrs["MATLAB_class"].decode() for name, item in file.items()} == {
            **dict.fromkeys(["uri", "id", "label", "densecast"], "char"),
            **dict.fromkeys(["fc7", "fc7_before", "probabilities"], "single"),
            **dict.fromkeys(["fc7_shape", "fc7_before_shape", "probabilities_shape"], "int32"),
        }
        # MATLAB counts axes from the other end, and shows 4 x 10 x 6.
        np.testing.assert_array_equal(file["fc7_before"][:].transpose(), np.concatenate(expected("fc7:before")))
        names = [bytes(line.astype("<u2")).decode("utf-16-le").rstrip(" ") for line in file["uri"][:].transpose()]
        assert names == ORDER


def test_parquet_is_read_by_arrow(windows: Path):
    export(windows, "x.parquet", scale=1.0)
    table = pq.read_table(windows.with_name("x.parquet"))
    assert table["uri"].to_pylist() == ORDER
    for found, values in zip(table.to_pylist(), expected("fc7", None), strict=True):
        shape = tuple(found[f"fc7.{part}"] for part in ("height", "width", "channels"))
        np.testing.assert_array_equal(np.array(found["fc7"], np.float32).reshape(shape), values)
    assert json.loads(table.schema.metadata[b"densecast"])["version"] == 0


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.mat", "x.parquet"])
def test_float16_is_kept_where_a_format_has_it(tmp_path: Path, name: str):
    values = random_blobs(0, (1, 1), np.float16)
    table = publish(tmp_path / "maps", row("a.jpg", (1, 1), values))
    report = export(table, name, blobs=("fc7",))
    assert report.arrays == {"fc7": (1, 6)}
    path = tmp_path / name
    if name == "x.npy":
        found = np.load(path)
    elif name == "x.npz":
        found = np.load(path)["fc7"]
    elif name == "x.parquet":
        found = np.array(pq.read_table(path)["fc7"].to_pylist(), np.float16)
    else:
        with h5py.File(path) as file:
            found = file["fc7"][:].reshape(1, 6)
    assert found.dtype == (np.float32 if name == "x.mat" else np.float16)
    np.testing.assert_array_equal(found.ravel(), values["fc7"].ravel())


def test_pieces_are_put_together(windows: Path, monkeypatch: pytest.MonkeyPatch):
    whole = export(windows, "x.npz"), windows.with_name("x.npz").read_bytes()
    monkeypatch.setattr(formats, "_IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(formats, "_BYTES_AT_ONCE", 500)
    assert export(windows, "x.npz").arrays == whole[0].arrays
    with np.load(windows.with_name("x.npz")) as file:
        np.testing.assert_array_equal(file["fc7"], np.concatenate(expected("fc7")))
    for name in ("x.mat", "x.h5", "x.parquet"):
        export(windows, name)
    with h5py.File(windows.with_name("x.mat")) as file:
        np.testing.assert_array_equal(file["fc7"][:].transpose(), np.concatenate(expected("fc7")))
    assert pq.read_table(windows.with_name("x.parquet"))["uri"].to_pylist() == ORDER


def test_tiles_of_an_image_are_one_map(tmp_path: Path):
    parts = [random_blobs(tile, (2, 3)) for tile in range(2)]
    rows = [row("a.tif", (2, 3), part, scale=1.0, tile=(tile, 2)) for tile, part in enumerate(parts)]
    table = publish(tmp_path / "maps", *rows)
    assert export(table, "x.npz", blobs=("fc7",)).arrays == {"fc7": (1, 2, 6, 6)}
    with np.load(tmp_path / "x.npz") as file:
        np.testing.assert_array_equal(file["fc7"][0], np.concatenate([part["fc7"] for part in parts], axis=1))


def test_the_maps_of_a_run(tmp_path: Path):
    table = publish(tmp_path / "maps", row("a.jpg", (1, 1), random_blobs(0, (1, 1))))
    publish(table, row("b.jpg", (1, 1), {}, run_id="r2"), run_id="r2")
    assert export(table, "x.npz", run="r1").arrays == {"fc7": (1, 6), "fc7:before": (1, 6), "probabilities": (1, 4)}
    assert export(table, "x.npz", blobs=("probabilities",)).images == 2
    with pytest.raises(TableError, match="1 of 2 images do not keep fc7"):
        export(table, "x.npz")
    with pytest.raises(TableError, match="no maps by run r3"):
        export(table, "x.npz", run="r3")


def test_a_table_of_best_classes_gives_them(tmp_path: Path):
    table = publish(tmp_path / "maps", row("a.jpg", (2, 3), {}, scale=1.0, form=Form.TOP_K))
    assert export(table, "x.npz").arrays == {"classes": (1, 2, 3, 2), "scores": (1, 2, 3, 2)}
    with pytest.raises(TableError, match="classes and scores cannot be averaged"):
        export(table, "x.npz", average=True)
    with pytest.raises(TableError, match="there is no prob") as caught:
        export(table, "x.npz", blobs=("prob",))
    assert "--scores float32" in caught.value.remedy


def test_what_a_format_does_not_hold_is_refused_and_nothing_is_left(windows: Path):
    before = sorted(path.name for path in windows.parent.iterdir())
    with pytest.raises(TableError, match=r"an \.npy holds one array"):
        export(windows, "x.npy")
    with pytest.raises(TableError, match="fc7 has 2 shapes"):
        export(windows, "x.npy", blobs=("fc7",), scale=1.0)
    with pytest.raises(TableError, match=r"no maps at scale 0\.5"):
        export(windows, "x.npz", scale=0.5)
    assert sorted(path.name for path in windows.parent.iterdir()) == before


def test_several_scales_need_a_choice(tmp_path: Path):
    rows = [row("a.jpg", (1, 1), {}, scale=scale) for scale in (1.0, 0.5)]
    table = publish(tmp_path / "maps", *rows)
    with pytest.raises(TableError, match=r"at the scales 0.5, 1"):
        export(table, "x.npz")
    assert export(table, "x.npz", scale=0.5).scale == 0.5


@pytest.mark.parametrize(
    ("name", "blobs"),
    [
        ("x.mat", ("a:b", "a/b")),
        ("x.mat", ("label",)),
        ("x.npz", ("label",)),
        ("x.npz", ("a", "a.shape")),
        ("x.h5", ("uri",)),
        ("x.h5", ("a", "a/b")),
        ("x.parquet", ("id",)),
        ("x.parquet", ("a", "a.width")),
    ],
)
def test_names_that_would_be_one_in_the_file_are_refused(tmp_path: Path, name: str, blobs: tuple[str, ...]):
    values = {blob: np.ones((1, 1, 2), np.float32) for blob in blobs}
    table = publish(tmp_path / "maps", row("a.jpg", (1, 1), values))
    with pytest.raises(TableError, match="the same names in the file"):
        export(table, name)
    assert not (tmp_path / name).exists()


def test_a_slash_in_a_name_makes_a_group(tmp_path: Path):
    blobs = {f"a/{name}": np.ones((1, 1, 2), np.float32) for name in ("b", "c")}
    export(publish(tmp_path / "maps", row("a.jpg", (1, 1), blobs)), "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["a/b"].shape == (1, 2)


def test_formats_and_outputs_that_are_wrong(windows: Path):
    with pytest.raises(SettingError, match="does not say a format"):
        format_of("x.csv")
    with pytest.raises(SettingError, match="does not end in"):
        format_of("x.dat", "npy")
    assert format_of("x.dat", "npz") is ExportFormat.NPZ
    root = TableRoot(str(windows))
    windows.with_name("y.npz").write_bytes(b"mine")
    for output, message in (
        ("s3://bucket/x.npz", "local file"),
        (str(windows.with_name("y.npz")), "exists"),
        (str(windows / "no" / "x.npz"), "folder of the output"),
    ):
        with pytest.raises(SettingError, match=message):
            export_table(root, output, ExportFormat.NPZ, Selection())
    assert windows.with_name("y.npz").read_bytes() == b"mine"


def test_the_command_writes_and_says_what(windows: Path):
    output = str(windows.with_name("out.npz"))
    done = CliRunner().invoke(cli, ["export", str(windows), output, "--blob", "fc7"])
    assert done.exit_code == 0, done.output
    assert "fc7: 4 x 10 x 6, of 4 images" in done.output
    report = CliRunner().invoke(cli, ["export", str(windows), output, "--overwrite", "--json"])
    assert json.loads(report.output)["arrays"]["fc7"] == [4, 10, 6]
    for arguments, message in (
        ([output, "--fp16"], "--fp16 is not for a table"),
        ([output, "--format", "onnx"], "is not a model directory"),
    ):
        refused = CliRunner().invoke(cli, ["export", str(windows), *arguments])
        assert refused.exit_code == 2
        assert message in refused.output


def test_flags_of_tables_are_not_for_models(tmp_path: Path):
    (tmp_path / "densecast.json").write_text("{}")
    for arguments, message in ((["--average"], "--average is not for a model"), ([], "is a model")):
        refused = CliRunner().invoke(cli, ["export", str(tmp_path), "x.npz", *arguments])
        assert refused.exit_code == 2
        assert message in refused.output
