"""Zip archives: what they hold is listed and read, whatever somebody put in."""

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import ImageReference, Reader
from pipeline.sources import zip as zips_module
from tests.support.listing import fate, fates, members

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(*entries, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return file.getvalue()


def member(name, mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def written(folder, data):
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


GOOD_FATES = {"a.jpg": b"1", "b/é.png": b"22" * 600, "d.webp": b"333"}
GOOD = zipped(*GOOD_FATES.items())


@pytest.mark.parametrize("method", METHODS)
def test_what_is_in_is_what_is_read(tmp_path, method):
    assert fates(written(tmp_path, zipped(*GOOD_FATES.items(), method=method))) == GOOD_FATES


def test_references_say_where_and_what(tmp_path):
    path = written(tmp_path, b"before" + GOOD)
    found = members(path)
    version = f"{zlib.crc32(b'22' * 600):08x}-1200"
    assert found[1] == ImageReference(f"{path}#b/é.png", "", 1200, version, str(path), "zip", found[1].offset, "")
    assert fates(path) == GOOD_FATES, "what is before an archive, a program that unpacks it say, does not matter"


def test_what_is_no_image_is_left_out(tmp_path):
    names = ("notes.txt", "inner.zip", "__MACOSX/._a.jpg", ".git/a.jpg", "folder.jpg/", "a.jpg")
    assert fates(written(tmp_path, zipped(*((name, b"1") for name in names)))) == {"a.jpg": b"1"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK])
def test_what_is_no_file_is_rejected_and_the_rest_is_read(tmp_path, kind):
    archive = zipped(("a.jpg", b"1"), (member("odd.jpg", kind | 0o644), b"/etc/passwd"), ("b.jpg", b"2"))
    assert fates(written(tmp_path, archive)) == {"a.jpg": b"1", "odd.jpg": "not-a-file", "b.jpg": b"2"}


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "/etc/a.jpg", "..\\a.jpg", "C:\\a.jpg"])
def test_names_that_lead_out_are_rejected(tmp_path, name):
    assert fates(written(tmp_path, zipped((name, b"1"), ("b.jpg", b"2")))) == {name: "unsafe-name", "b.jpg": b"2"}


def test_a_member_without_a_name_is_no_image(tmp_path):
    archive = zipped(("a.jpg", b"1"), ("b.jpg", b"2")).replace(b"a.jpg", b"\0.jpg")
    assert fates(written(tmp_path, archive)) == {"b.jpg": b"2"}


def test_equal_names_have_addresses_of_their_own(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = written(tmp_path, zipped(("a.jpg", b"1"), ("a.jpg", b"2")))
    assert fates(path) == {"a.jpg": b"1", f"a.jpg@{members(path)[1].offset}": b"2"}


def edit(data, at, form, value):
    """`data` with a number written at some places."""
    out = bytearray(data)
    for place in at:
        struct.pack_into(form, out, place, value)
    return bytes(out)


def test_encrypted_members_and_unknown_methods_are_rejected(tmp_path):
    directory = GOOD.index(b"PK\1\2")
    encrypted = edit(GOOD, [6, directory + 8], "<H", 1)
    assert fates(written(tmp_path, encrypted)) == {**GOOD_FATES, "a.jpg": "unreadable"}
    unknown = edit(GOOD, [8, directory + 10], "<H", 9)
    assert fates(written(tmp_path, unknown)) == {**GOOD_FATES, "a.jpg": "unreadable"}


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_checksum_rejects_one(tmp_path, method):
    data = zipped(*GOOD_FATES.items(), method=method)
    wrong = edit(data, [14, data.index(b"PK\1\2") + 16], "<I", 7)
    assert fates(written(tmp_path, wrong)) == {**GOOD_FATES, "a.jpg": "corrupt"}


@pytest.mark.parametrize(
    ("method", "size", "most"),
    [(zipfile.ZIP_DEFLATED, 2**25, 2**23), (zipfile.ZIP_BZIP2, 2**22, 2**24), (zipfile.ZIP_LZMA, 2**26, 2**26 + 2**24)],
)
def test_a_bomb_that_lies_about_its_size_is_not_inflated(tmp_path, method, size, most):
    """Zeros that announce themselves as a hundred bytes, with the checksum of a hundred zeros."""
    data = zipped(("a.jpg", bytes(size)), ("b.jpg", b"2"), method=method)
    directory = data.index(b"PK\1\2")
    data = edit(data, [14, directory + 16], "<I", zlib.crc32(bytes(100)))
    path = written(tmp_path, edit(data, [22, directory + 24], "<I", 100))
    tracemalloc.start()
    try:
        found = fates(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # No more than is announced is taken, as every tool does.
    assert found == {"a.jpg": bytes(100), "b.jpg": b"2"}
    assert peak < most


def test_an_honest_bomb_is_not_read(tmp_path):
    path = written(tmp_path, zipped(("a.jpg", bytes(2 * 10**6)), ("b.jpg", b"2")))
    assert fates(path) == {"a.jpg": "too-many-bytes", "b.jpg": b"2"}


def test_an_endless_directory_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(zips_module, "_LARGEST_DIRECTORY", 100)
    assert fates(written(tmp_path, GOOD)) == {"": "corrupt"}


@given(cut=st.integers(0, len(GOOD) - 1))
def test_a_cut_is_never_silent(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("cut"), GOOD[:cut])
    assert set(fates(path)) == {""}
    if cut > 4:
        assert members(path)[0].fault.startswith("truncated: zip: ")


@given(at=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_damaged_byte_is_met_by_a_typed_rejection(tmp_path_factory, at, value):
    data = bytearray(GOOD)
    data[at] = value
    found = fates(written(tmp_path_factory.mktemp("damaged"), bytes(data)))
    assert all(data in GOOD_FATES.values() for data in found.values() if isinstance(data, bytes))


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 9, b"PK\5\6" + bytes(18)])
def test_what_holds_nothing_is_not_passed_over(tmp_path, data):
    assert set(fates(written(tmp_path, data))) == {""}


def test_a_repacked_archive_is_not_taken_for_the_listed_one(tmp_path):
    path = written(tmp_path, GOOD)
    first, second, _ = members(path)
    with Reader(10**6) as reader:
        assert reader.read(first).data == b"1"
        same = zipped(("a.jpg", b"1"), ("x.jpg", b"other"))
        (tmp_path / "new.zip").write_bytes(same)
        (tmp_path / "new.zip").replace(path)
        assert reader.read(first).data == b"1"
    with Reader(10**6) as reader:
        assert reader.read(first).data == b"1", "the member is the same, whatever happened to others"
        assert fate(reader, second) == "unreadable"


def test_an_archive_that_was_open_before_it_was_replaced_is_opened_again(tmp_path):
    path = written(tmp_path, GOOD)
    with Reader(10**6) as reader:
        reader.read(members(path)[0])
        (tmp_path / "new.zip").write_bytes(zipped(("n.jpg", b"new")))
        (tmp_path / "new.zip").replace(path)
        assert reader.read(members(path)[0]).data == b"new"
