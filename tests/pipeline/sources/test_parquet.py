"""Images in Parquet files, row by row."""

import io
import uuid
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader, parquet, streams
from pipeline.storage.store import FileFacts
from tests.support.listing import fate, fates, members

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def written(folder, columns, name="a.parquet", **options):
    pq.write_table(pa.table(columns), folder / name, **options)
    return folder / name


IMAGES = [b"1", b"22", b"", None, b"5"]
FATES = {"0": b"1", "1": b"22", "2": b"", "3": "empty", "4": b"5"}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("column", ["image", "bytes", "png"])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_column_of_bytes(tmp_path, kind, column, rows):
    path = written(tmp_path, {"n": [1, 2, 3, 4, 5], column: pa.array(IMAGES, kind)}, row_group_size=rows)
    assert fates(path) == FATES


@pytest.mark.parametrize("rows", [2, 100])
def test_the_struct_of_the_hugging_face_hub(tmp_path, rows):
    structs: list[Any] = [{"bytes": data, "path": f"p{row}.jpg"} for row, data in enumerate(IMAGES)]
    structs[3] = None
    path = written(tmp_path, {"label": [1, 2, 3, 4, 5], "image": structs}, row_group_size=rows)
    assert fates(path) == FATES
    assert [reference.id for reference in members(path)] == ["p0.jpg", "p1.jpg", "p2.jpg", "", "p4.jpg"]


def test_references_say_where_and_what(tmp_path):
    path = written(tmp_path, {"image": IMAGES, "path": list("abcde"), "id": [7, 8, 9, None, 11]})
    status = path.stat()
    version = f"{status.st_size}-{status.st_mtime_ns}"
    assert members(path)[1] == ImageReference(f"{path}#1", "8", -1, f"{version}@1", str(path), "parquet", 1, "")
    assert [reference.id for reference in members(path)] == ["7", "8", "9", "", "11"]


@pytest.mark.parametrize(
    "columns",
    [
        {"label": [1]},
        {"image": ["a.jpg"]},
        {"image": [{"path": "a.jpg"}]},
        {"image": [[1, 2]]},
        {"Image": [7]},
    ],
)
def test_a_file_without_images_says_what_it_has(tmp_path, columns):
    path = written(tmp_path, columns)
    assert fates(path) == {"": "unknown-format"}
    [name] = columns
    assert name in members(path)[0].fault
    if name != "label":
        assert f"{name} ({pq.read_schema(path).field(name).type}) has no bytes" in members(path)[0].fault


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.mark.parametrize(
    "column",
    [
        pa.array(IMAGES).dictionary_encode(),
        pa.array(IMAGES, pa.binary_view()),
        pa.array([None if data is None else [data] for data in IMAGES], pa.list_(pa.binary())),
        pa.array([None if data is None else [data] for data in IMAGES], pa.large_list(pa.large_binary())),
        pa.array([[] if data is None else [{"bytes": data}] for data in IMAGES], pa.list_(STRUCT)),
        pa.array([{"bytes": data} for data in IMAGES], pa.struct({"path": pa.string(), "bytes": pa.large_binary()})),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["image", "images", "content", "Image", "JPEG"])
@pytest.mark.parametrize("rows", [2, 100])
def test_bytes_in_any_form_and_under_any_known_name(tmp_path, column, name, rows):
    assert fates(written(tmp_path, {"n": [1, 2, 3, 4, 5], name: column}, row_group_size=rows)) == FATES


@pytest.mark.parametrize("inner", ["item", "element", "array"])
def test_a_list_of_the_struct_of_the_hugging_face_hub(tmp_path, inner):
    kind = pa.list_(pa.field(inner, STRUCT))
    rows = [
        [{"bytes": b"1", "path": "a.jpg"}],
        [],
        [{"bytes": b"3", "path": "c.jpg"}, {"bytes": b"4", "path": "d.jpg"}],
    ]
    path = written(tmp_path, {"images": pa.array(rows, kind)}, use_compliant_nested_type=inner == "element")
    assert fates(path) == {"0": b"1", "1": "empty", "2": "unknown-format"}
    assert [reference.id for reference in members(path)] == ["a.jpg", "", ""]
    with Reader() as reader, pytest.raises(Rejected, match="the row has 2 images"):
        reader.read(members(path)[2])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["a", None]).dictionary_encode(), ["a", ""]),
        (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([7.0, None]), ["7", ""]),
        (pa.array([7.5, float("nan")]), ["7.5", ""]),
        (pa.array([2.0**53, 1e22]), ["9007199254740992", "10000000000000000000000"]),
        (pa.array([1, 2], pa.float16()), ["1", "2"]),
        (pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), ""]),
        (pa.array([b"ab", b"\xff"], pa.binary()), ["ab", "\\xff"]),
        (pa.array([Decimal("1.50"), None]), ["1.50", ""]),
        (pa.array([date(2026, 1, 2), None]), ["2026-01-02", ""]),
        (pa.array([True, False]), ["True", "False"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_ids_of_any_type_that_has_a_text(tmp_path, ids, expected):
    path = written(tmp_path, {"image": [b"1", b"2"], "ID": ids})
    assert [reference.id for reference in members(path)] == expected


def test_ids_that_have_no_text_are_named_with_their_type(tmp_path, caplog):
    path = written(tmp_path, {"image": [b"1"], "id": [[1, 2]]})
    assert fates(path) == {"0": b"1"}
    assert f"{path}: ids are not read, for its column id (list<element: int64>)" in caplog.text
    caplog.clear()
    path = written(tmp_path, {"image": [b"1"], "id": [[1, 2]], "path": ["a"]})
    assert [reference.id for reference in members(path)] == ["a"]
    assert not caplog.text


def test_an_empty_file_is_not_passed_over(tmp_path):
    assert fates(written(tmp_path, {"image": pa.array([], pa.binary())})) == {"": "empty"}
    (tmp_path / "b.parquet").write_bytes(b"")
    assert fates(tmp_path / "b.parquet") == {"": "corrupt"}


def test_too_large_images_are_rejected(tmp_path):
    path = written(tmp_path, {"image": [b"1", b"2" * 200]})
    assert fates(path, max_bytes=100) == {"0": b"1", "1": "too-many-bytes"}


def test_an_endless_id_rejects_one(tmp_path):
    path = written(tmp_path, {"image": [b"1", b"2"], "id": ["x" * 5000, "b"]})
    assert fates(path) == {"0": "unsafe-name", "1": b"2"}


def test_announced_rows_are_not_believed(tmp_path, monkeypatch):
    path = written(tmp_path, {"image": pa.array([None] * 500, pa.binary())})
    monkeypatch.setattr(parquet, "_ROWS_OF_ANY_FILE", 0)
    monkeypatch.setattr(streams.FileStream, "facts_now", lambda self: FileFacts(400, ""))
    assert fates(path) == {"": "compression-bomb"}


@pytest.mark.parametrize("ids", [False, True])
def test_damage_is_met_by_a_typed_rejection(tmp_path, ids):
    file = io.BytesIO()
    columns = {"image": [bytes([row]) * 50 for row in range(8)]} | ({"id": list("abcdefgh")} if ids else {})
    pq.write_table(pa.table(columns), file, row_group_size=4, write_statistics=False, compression="none")
    good = file.getvalue()
    path = tmp_path / "a.parquet"
    damaged = 0
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        found = fates(path)
        damaged += any(isinstance(data, str) for data in found.values())
        assert len(found) >= 8 or "" in found
    assert damaged > 20


@given(cut=st.integers(0, 400))
def test_a_cut_is_never_silent(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("cut"), {"image": IMAGES})
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data) - 1)])
    assert fates(path) == {"": "corrupt"}


@given(order=st.lists(st.integers(0, 29), min_size=1, max_size=12), lookback=st.sampled_from([0, 25, 2**20]))
def test_rows_are_read_in_any_order(tmp_path_factory, order, lookback):
    path = written(tmp_path_factory.mktemp("order"), {"image": [b"%d" % row for row in range(30)]}, row_group_size=10)
    found = members(path)
    with Reader(10**6) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "LOOKBACK", lookback)
        for row in order:
            assert reader.read(found[row]).data == b"%d" % row


def test_one_large_image_at_a_time_is_held(tmp_path):
    """A dictionary makes a small file of many equal large images: a row group of them must not be held whole."""
    before = pa.total_allocated_bytes()
    path = written(tmp_path, {"image": [bytes(2**20)] * 200})
    assert path.stat().st_size < 2**20
    with Reader(2**21) as reader:
        peak = 0
        for reference in members(path)[:50]:
            assert len(reader.read(reference).data) == 2**20
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 20 * 2**20


def test_fewer_rows_than_were_listed(tmp_path):
    path = written(tmp_path, {"image": IMAGES})
    last = members(path)[-1]._replace(version="")
    written(tmp_path, {"image": IMAGES[:2]})
    with Reader(10) as reader:
        assert fate(reader, last) == "unreadable"
