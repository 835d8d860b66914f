"""What a part of a file inflates to is compared with its bytes, before it is inflated."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rejection import Reason, Rejected
from pipeline.sources import parquet_pages, streams
from pipeline.sources.listing import list_container
from pipeline.sources.parquet_pages import largest_page, read_header
from pipeline.sources.reader import Reader
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream
from pipeline.sources.web_content import decoded


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which small files are bombs."""
    monkeypatch.setattr(streams, "_PART_INFLATES_TO", 2**16)
    monkeypatch.setattr(streams, "_INFLATES_TO", 2**18)
    monkeypatch.setattr(parquet_pages, "_SMALL_PAGE", 0)


def fates(path: Path) -> list[str]:
    """Returns the reason of each member of a container, or `read`."""
    found = []
    with Reader() as reader:
        for reference in list_container(ImageReference(str(path))):
            try:
                reader.read(reference)
                found.append("read")
            except Rejected as rejected:
                found.append(rejected.reason.value)
    return found


def test_a_member_of_a_zip(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", bytes(2**17))
        archive.writestr("good.bmp", bytes(2**15))
    assert fates(tmp_path / "a.zip") == ["compression-bomb", "read"]


def test_a_zip_whose_members_lie_on_one_another(tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.bmp", bytes(2**16))
        member = archive.infolist()[0]
        for number in range(1, 9):
            other = zipfile.ZipInfo(f"{number}.bmp")
            for name in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(other, name, getattr(member, name))
            archive.filelist.append(other)
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    assert fates(tmp_path / "a.zip") == ["compression-bomb"]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "snappy", "none"])
def test_a_page_of_parquet(compression: str, tmp_path: Path):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": pa.array([bytes(2**18), b"x"], pa.binary())})
    pq.write_table(table, path, compression=compression, use_dictionary=False, write_statistics=False)
    ratio = 2**18 / path.stat().st_size
    assert fates(path) == (["compression-bomb"] * 2 if ratio > 200 else ["read"] * 2)


def test_a_page_larger_than_an_image_may_be(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([bytes(2**12)], pa.binary())}), path, compression="none")
    [reference] = list_container(ImageReference(str(path)))
    with Reader(max_bytes=1000) as reader, pytest.raises(Rejected) as caught:
        reader.read(reference)
    assert caught.value.reason == Reason.TOO_MANY_BYTES


def test_a_row_with_the_same_image_many_times_is_not_expanded(tmp_path: Path):
    path = tmp_path / "a.parquet"
    images = pa.array([[bytes(2**12)] * 5000, [b"x"], [], None], pa.list_(pa.binary()))
    pq.write_table(pa.table({"images": images}), path, compression="zstd", store_schema=False)
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    assert fates(path) == ["unknown-format", "read", "empty", "empty"]
    assert (pool.max_memory() or 0) >= before
    assert pa.total_allocated_bytes() <= before + 2**20


def test_one_id_for_many_rows_is_expanded_by_few(tmp_path: Path):
    path = tmp_path / "a.parquet"
    ids = pa.array(["a" * 50_000] * 300)
    pq.write_table(pa.table({"image": [b"x"] * 300, "id": ids}), path, compression="none", store_schema=False)
    references = list(list_container(ImageReference(str(path))))
    assert len(references) == 300
    assert all(reference.fault.startswith("unsafe-name") for reference in references)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_page_headers_are_those_that_were_written(version: str, compression: str, tmp_path: Path):
    path = tmp_path / "a.parquet"
    values = [struct.pack("<I", number) * 100 for number in range(2000)]
    pq.write_table(
        pa.table({"image": pa.array(values, pa.binary())}),
        path,
        compression=compression,
        data_page_size=4096,
        data_page_version=version,
        use_dictionary=False,
        row_group_size=1000,
        write_batch_size=10,
    )
    file = pq.ParquetFile(path)
    with FileStream(str(path)) as stream:
        for group in range(2):
            chunk = file.metadata.row_group(group).column(0)
            pages = list(parquet_pages._pages(stream, chunk))
            assert sum(page.values for page in pages) == 1000
            assert len(pages) >= 50
            # The chunk counts headers too.
            headers = chunk.total_compressed_size - sum(page.packed for page in pages)
            assert 0 < headers < 2000 * len(pages)
            assert sum(page.inflated for page in pages) == chunk.total_uncompressed_size - headers
            assert largest_page(stream, file, group, "image", max_bytes=2**20) == max(page.inflated for page in pages)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_page_header_or_rejected(head: bytes):
    with contextlib.suppress(Rejected):
        page, length = read_header(head)
        assert min(page) >= 0
        assert length <= len(head)


def test_an_answer_of_a_server():
    assert decoded(gzip.compress(bytes(2**15)), "gzip", 2**20) == bytes(2**15)
    with pytest.raises(Rejected) as caught:
        decoded(gzip.compress(bytes(2**17)), "gzip", 2**20)
    assert caught.value.reason == Reason.COMPRESSION_BOMB
