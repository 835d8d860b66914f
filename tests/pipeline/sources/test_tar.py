"""Tar archives: what they hold is listed and read, whatever somebody put in; what is lost is said."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import ImageReference, Reader, match
from pipeline.sources import streams as streams_module
from pipeline.sources.listing import list_container
from tests.support.listing import fate, fates, members

PACK: dict[str, Any] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*entries, form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def written(folder, data, name="a.tar"):
    (folder / name).write_bytes(data)
    return folder / name


GOOD = tar(member("a.jpg", b"1"), member("b/c.png", b"22" * 600), member("d.webp", b"333"))
GOOD_FATES = {"a.jpg": b"1", "b/c.png": b"22" * 600, "d.webp": b"333"}


@pytest.mark.parametrize("extension", PACK)
def test_what_is_in_is_what_is_read(tmp_path, extension):
    path = written(tmp_path, PACK[extension](GOOD), f"shard.{extension}")
    assert fates(path) == GOOD_FATES


def test_references_say_where_and_what(tmp_path):
    path = written(tmp_path, GOOD)
    status = path.stat()
    version = f"{status.st_size}-{status.st_mtime_ns}@512"
    assert members(path)[0] == ImageReference(f"{path}#a.jpg", "a", 1, version, str(path), "tar", 512, "")
    with Reader(10) as reader:
        assert reader.read(members(path)[0]) == (b"1", version)


def test_a_webdataset_sample_shares_its_key(tmp_path):
    shard = tar(
        *(member(f"./train/{name}", b"x") for name in ("7.left.jpg", "7.right.jpg", "7.cls", "7.json", "8.PNG"))
    )
    assert [(reference.uri.partition("#")[2], reference.id) for reference in members(written(tmp_path, shard))] == [
        ("./train/7.left.jpg", "train/7"), ("./train/7.right.jpg", "train/7"), ("./train/8.PNG", "train/8"),
    ]  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect(tmp_path, form):
    long = "/".join(["0123456789"] * 20) if form != tarfile.USTAR_FORMAT else "folder/" * 12 + "x"
    archive = tar(member(f"{long}.jpg", b"1"), member("é.jpg", b"2"), member("caf\udce9.jpg", b"3"), form=form)
    assert fates(written(tmp_path, archive)) == {f"{long}.jpg": b"1", "é.jpg": b"2", r"caf\udce9.jpg": b"3"}
    assert members(tmp_path / "a.tar")[2].id == "caf\\udce9", "an id can be stored as UTF-8"


def test_what_is_no_image_is_left_out(tmp_path):
    names = ("notes.txt", "inner.tar", "inner.zip", ".hidden.jpg", "._a.jpg", "__MACOSX/a.jpg", ".git/a.jpg", "x")
    folder = member("folder.jpg", type=tarfile.DIRTYPE)
    link = member("latest", type=tarfile.SYMTYPE, linkname="2020")
    assert fates(
        written(tmp_path, tar(*(member(name, b"1") for name in names), folder, link, member("a.jpg", b"1")))
    ) == {"a.jpg": b"1"}


@pytest.mark.parametrize(
    ("kind", "linkname"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "a.jpg"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.GNUTYPE_SPARSE, ""),
    ],
)
def test_what_is_no_file_is_rejected_and_the_rest_is_read(tmp_path, kind, linkname):
    odd = member("odd.jpg", type=kind, linkname=linkname)
    archive = tar(member("a.jpg", b"1"), odd, member("b.jpg", b"2"), form=tarfile.GNU_FORMAT)
    assert fates(written(tmp_path, archive)) == {"a.jpg": b"1", "odd.jpg": "not-a-file", "b.jpg": b"2"}


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_members_of_pax(tmp_path, version):
    headers = {
        "0.0": {
            "GNU.sparse.size": "9",
            "GNU.sparse.numblocks": "1",
            "GNU.sparse.offset": "0",
            "GNU.sparse.numbytes": "1",
        },
        "0.1": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"},
        "1.0": {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.realsize": "9",
            "GNU.sparse.name": "s.jpg",
        },
    }[version]
    sparse = member("s.jpg", b"1\n0\n1\n".ljust(512, b"\0") + b"x", pax_headers=headers)
    found = fates(written(tmp_path, tar(sparse, member("b.jpg", b"2"))))
    assert found["s.jpg"] == "not-a-file"
    assert found["b.jpg"] == b"2"


@pytest.mark.parametrize(
    "name", ["../a.jpg", "b/../../a.jpg", "/etc/a.jpg", "..\\a.jpg", "C:\\a.jpg", "C:/a.jpg", "x" * 5000 + ".jpg"]
)
def test_names_that_lead_out_are_rejected(tmp_path, name):
    found = members(written(tmp_path, tar(member(name, b"1"), member("b.jpg", b"2"))))
    assert [reference.fault[:11] for reference in found] == ["unsafe-name", ""]
    assert len(found[0].uri) < 4500
    assert found[0].id == ""


def test_equal_names_have_addresses_of_their_own(tmp_path):
    path = written(tmp_path, tar(*(member("a.jpg", data) for data in (b"1", b"2", b"3"))))
    assert fates(path) == {"a.jpg": b"1", "a.jpg@1536": b"2", "a.jpg@2560": b"3"}


@pytest.mark.parametrize("extension", ["tar", "tar.gz"])
def test_too_large_members_are_not_read(tmp_path, extension):
    path = written(tmp_path, PACK[extension](GOOD), f"a.{extension}")
    assert fates(path, max_bytes=100) == {**GOOD_FATES, "b/c.png": "too-many-bytes"}


def test_a_size_beyond_the_end(tmp_path):
    header = member("b.jpg")[0]
    header.size = 8 * 2**60
    archive = tar(member("a.jpg", b"1"))[:1024] + header.tobuf(tarfile.GNU_FORMAT) + b"x"
    assert fates(written(tmp_path, archive)) == {"a.jpg": b"1", "b.jpg": "too-many-bytes", "": "truncated"}


def test_a_negative_size(tmp_path):
    header = bytearray(member("b.jpg")[0].tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive = tar(member("a.jpg", b"1"))[:1024] + bytes(header) + bytes(1024)
    assert fates(written(tmp_path, archive)) == {"a.jpg": b"1", "": "corrupt"}


@given(cut=st.integers(0, len(GOOD) - 1), extension=st.sampled_from(["tar", "tar.gz", "tar.bz2", "tar.xz"]))
def test_a_cut_is_never_silent(tmp_path_factory, cut, extension):
    packed = PACK[extension](GOOD)
    path = written(tmp_path_factory.mktemp("cut"), packed[: cut * len(packed) // len(GOOD)], f"a.{extension}")
    found = fates(path)
    whole = {name: data for name, data in found.items() if isinstance(data, bytes)}
    assert whole.items() <= GOOD_FATES.items()
    # Two blocks of zeros end an archive, and then padding: what is cut off after the first loses nothing.
    # Cut within a header, compressed bytes may look damaged rather than short.
    assert found.get("") in ("truncated", "corrupt") or whole == GOOD_FATES


@given(at=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_damaged_byte_loses_nothing_in_silence(tmp_path_factory, at, value):
    data = bytearray(GOOD)
    data[at] = value
    found = fates(written(tmp_path_factory.mktemp("damaged"), bytes(data)))
    assert len(found) == 3 or "" in found or any(name not in GOOD_FATES for name in found)


def test_a_damaged_header_says_what_is_lost(tmp_path):
    data = bytearray(GOOD)
    data[1024] ^= 1
    path = written(tmp_path, bytes(data))
    lost = members(path)[-1]
    assert (lost.uri, lost.container) == (str(path), "")
    assert lost.fault.startswith("corrupt: damaged tar header at byte 1,024 ")
    assert fates(path) == {"a.jpg": b"1", "": "corrupt"}


@pytest.mark.parametrize("data", [b"", b"no tar at all", bytes(range(256)) * 8])
def test_what_is_no_archive(tmp_path, data):
    assert set(fates(written(tmp_path, data))) == {""}
    assert set(fates(written(tmp_path, data, "a.tar.gz"))) == {""}


@pytest.mark.parametrize("archive", [tar(), tar(member("notes.txt", b"1"))])
def test_an_archive_without_images_is_not_passed_over(tmp_path, archive):
    assert fates(written(tmp_path, archive)) == {"": "empty"}


def test_an_archive_that_is_not_there(tmp_path):
    (tmp_path / "list.txt").write_text("nope.tar\nfolder.tar\nhttps://host/a.tar\n")
    (tmp_path / "folder.tar").mkdir()
    from pipeline.sources import read_manifest

    with Reader(10) as reader:
        found = [fate(reader, reference) for reference in read_manifest(str(tmp_path / "list.txt"))]
    assert found == ["missing", "not-a-file", "unreadable"]


def test_a_header_without_end_is_not_held_in_memory(tmp_path):
    name = member("././@LongLink", bytes(200 * 2**20), type=tarfile.GNUTYPE_LONGNAME)
    path = written(
        tmp_path,
        gzip.compress(tar(member("a.jpg", b"1"), name, member("b.jpg", b"2"), form=tarfile.GNU_FORMAT), 1),
        "a.tgz",
    )
    tracemalloc.start()
    try:
        found = fates(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == {"a.jpg": b"1", "": "corrupt"}
    assert peak < 40 * 2**20


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_chains_of_headers_end(tmp_path, kind):
    link = member("x", b"", type=kind)[0].tobuf(tarfile.GNU_FORMAT)
    assert fates(written(tmp_path, tar(member("a.jpg", b"1"))[:1024] + link * 5000)) == {"a.jpg": b"1", "": "corrupt"}


def test_a_bomb_is_given_up_and_what_is_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(streams_module, "_INFLATES_TO", 2**20)
    archive = tar(member("a.jpg", b"1"), member("big.bin", bytes(4 * 2**20)), member("b.jpg", b"2"))
    for extension in ("tar.gz", "tar.bz2", "tar.xz"):
        path = written(tmp_path, PACK[extension](archive), f"a.{extension}")
        assert fates(path) == {"a.jpg": b"1", "": "compression-bomb"}


def test_listing_a_long_archive_takes_little_memory(tmp_path):
    path = written(tmp_path, b"".join(tar(member(f"{i}.jpg", b""))[:512] for i in range(10_000)) + bytes(1024))
    tracemalloc.start()
    try:
        assert sum(1 for _ in match(str(path))) == 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, "tarfile alone would hold 10 MB"


@given(
    order=st.permutations(range(3)), extension=st.sampled_from(["tar", "tar.gz"]), lookback=st.sampled_from([0, 2**20])
)
def test_members_are_read_in_any_order(tmp_path_factory, order, extension, lookback):
    path = written(tmp_path_factory.mktemp("order"), PACK[extension](GOOD), f"a.{extension}")
    found = members(path)
    with Reader(10**6) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams_module, "LOOKBACK", lookback)
        for index in order:
            assert reader.read(found[index]).data == list(GOOD_FATES.values())[index]


def test_a_header_of_many_digits_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    digits = b"7" * 60_000
    head = tarfile.TarInfo("x")
    head.size, head.type = len(digits), tarfile.XHDTYPE
    path.write_bytes(head.tobuf(tarfile.USTAR_FORMAT) + digits + bytes(-len(digits) % 512) + bytes(1024))
    [reference] = list_container(ImageReference(str(path)))
    assert reference.fault.startswith("corrupt: a tar header with a number of 1,000 digits or more")
