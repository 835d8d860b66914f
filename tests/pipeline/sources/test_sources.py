"""Listing images: what users name is what they get, once, in an order that does not change."""

import bz2
import gzip
import io
import itertools
import os
import pickle
import re
import tarfile
import tracemalloc
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as BeamTestPipeline  # pytest collects names in Test*
from apache_beam.testing.util import assert_that, equal_to

from pipeline.errors import NoImagesError, SourceError
from pipeline.sources import ImageReference, globs, list_images, manifest, match, merge, read_manifest
from pipeline.sources.listing import Listing
from pipeline.sources.reference import resolve
from pipeline.transforms.list_images import ListImages

TREE = (
    "a.jpg", "b.JPEG", "notes.txt", ".hidden.jpg", "c[1].png", "half.jpg.partial", "upload.partial/d.jpg",
    "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg", "2020/deep/g.webp", ".git/h.jpg", "lost+found/i.jpg",
    "@eaDir/a.jpg/thumb.jpg", "[2021]/j.ppm",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for size, name in enumerate(TREE, start=1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(pattern, root):
    return sorted(os.path.relpath(reference.uri, root) for reference in match(str(pattern)))


def known(reference):
    """What a test can know of a reference, whatever the clock says."""
    return reference.uri, reference.id, reference.size_bytes


# References


def test_references_survive_pickling():
    reference = ImageReference("s3://b/é.jpg", "7", 12)
    assert pickle.loads(pickle.dumps(reference)) == reference  # noqa: S301
    assert ImageReference("x") == ("x", "", -1, "", "", "", -1, "", "", "", "")


def test_addresses_have_one_form(tree, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve("2020/../a.jpg") == f"{tree}/a.jpg"
    assert resolve(f"file://{tree}/a%20b.jpg") == f"{tree}/a b.jpg"
    assert resolve("~/a.jpg") == "/home/me/a.jpg"
    assert resolve("x//y/./z.jpg", "/list") == "/list/x/y/z.jpg"
    assert resolve("/abs.jpg", "s3://bucket/lists") == "/abs.jpg"
    assert resolve("s3://b//odd/../name", "/list") == "s3://b//odd/../name"
    assert resolve("../../../c.jpg", "s3://bucket/lists/x") == "s3://bucket/c.jpg"


@pytest.mark.parametrize("address", ["", "  ", "a\0b", "file://elsewhere/a.jpg", "~nobody-of-that-name/a.jpg"])
def test_what_is_no_address(address):
    with pytest.raises(SourceError):
        resolve(address)


# Folders, files, patterns


def test_a_folder_means_the_images_below_it(tree):
    expected = sorted(["a.jpg", "b.JPEG", "c[1].png", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg", "2020/deep/g.webp",
                       "[2021]/j.ppm"])  # fmt: skip
    for folder in (tree, f"{tree}/", ".", "./", f"file://{tree}"):
        assert names(folder, tree) == expected


def test_sizes_are_known(tree):
    assert {reference.size_bytes for reference in match("2020")} == {8, 9, 10, 11}
    status = (tree / "a.jpg").stat()
    assert next(match("a.jpg")) == ImageReference(f"{tree}/a.jpg", "", 1, f"1-{status.st_mtime_ns}")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (
            ".",
            {
                ".txt": 1, "no extension": 1, "hidden files": 2, "hidden folders": 2, "system folders": 2,
                "unfinished files": 2, "pipes and devices": 1,
            },
        ),
        ("20*/", {".heic": 1, "hidden folders": 1, "pipes and devices": 1}),
        ("*", {}),
    ],
)  # fmt: skip
def test_what_a_folder_leaves_out_is_counted(tree, pattern, expected):
    """A pattern names every file, and leaves out none."""
    for name in ("LICENSE", ".gitignore", "2020/.x/k.heic", "lost+found/l.txt"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    if pattern == "20*/":
        (tree / "2020" / "m.HEIC").touch()
    os.mkfifo(tree / "2020" / "pipe.jpg")
    found = []
    assert list(globs.match_files(pattern, on_left_out=found.append)) == list(match(pattern))
    assert Counter(found) == expected


def test_the_order_is_that_of_names_folder_by_folder(tree):
    found = [os.path.relpath(reference.uri, tree) for reference in match(".")]
    assert found == ["a.jpg", "b.JPEG", "c[1].png", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg", "2020/deep/g.webp",
                     "[2021]/j.ppm"]  # fmt: skip


def test_listing_holds_no_more_than_a_folder(tmp_path):
    for folder in range(60):
        (tmp_path / f"{folder:04}").mkdir()
        for image in range(100):
            (tmp_path / f"{folder:04}" / f"{image}.jpg").touch()
    tracemalloc.start()
    try:
        assert sum(1 for _ in match(str(tmp_path))) == 6000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000, "50 bytes a file, where a reference has 500"


def test_the_web_is_not_listed():
    for address in ("https://host/a?b=*.jpg", "HTTP://host/[x]/c.tar.jpg"):
        globs.check(address)
        assert list(match(address)) == [ImageReference(address)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg"]),
        ("./*.jpg", ["a.jpg"]),
        ("*.j*g", ["a.jpg"]),
        ("**/*.jpg", ["2020/f1.jpg", "2020/f2.jpg", "a.jpg", "upload.partial/d.jpg"]),
        ("**.jpg", ["2020/f1.jpg", "2020/f2.jpg", "a.jpg", "upload.partial/d.jpg"]),
        ("2020/**", ["2020/deep/g.webp", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg"]),
        ("20**/g.webp", ["2020/deep/g.webp"]),
        ("**/deep/*", ["2020/deep/g.webp"]),
        ("*/f?.jpg", ["2020/f1.jpg", "2020/f2.jpg"]),
        ("2020/f[!2].jpg", ["2020/f1.jpg"]),
        ("2020/f[0-1].jpg", ["2020/f1.jpg"]),
        ("2020?f1.jpg", None),
        ("2020[/]f1.jpg", None),
        ("*", ["a.jpg", "b.JPEG", "c[1].png", "half.jpg.partial", "notes.txt"]),
        (".*.jpg", [".hidden.jpg"]),
        (".git/*", [".git/h.jpg"]),
        (".g*/*", [".git/h.jpg"]),
        ("[.]hidden.jpg", None),
        ("lost+found/*", ["lost+found/i.jpg"]),
        ("2*/", ["2020/deep/g.webp", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg"]),
        ("c[1].png", ["c[1].png"]),
        ("c[[]1[]].png", ["c[1].png"]),
        ("[2021]", ["[2021]/j.ppm"]),
        ("a.JPG", None),
        ("notes.txt", ["notes.txt"]),
        ("[", None),
        ("nowhere", None),
        ("nowhere/*.jpg", None),
    ],
)
def test_patterns(tree, pattern, expected):
    if expected is None:
        with pytest.raises(SourceError, match=r"no file matches|no such file"):
            match(pattern)
    else:
        assert names(pattern, tree) == expected
        globs.check(pattern)


@pytest.mark.parametrize("pattern", ["[z-a].jpg", "[!].jpg"])
def test_a_malformed_pattern(tree, pattern):
    with pytest.raises(SourceError, match="not a pattern"):
        match(pattern)
    with pytest.raises(SourceError, match="not a pattern"):
        globs.check(pattern)


def test_what_matches_nothing_says_why(tree):
    (tree / "empty").mkdir()
    (tree / "empty.txt").write_text("# no image today\n")
    with pytest.raises(NoImagesError, match="lists no images"):
        list(read_manifest("empty.txt"))
    with pytest.raises(NoImagesError, match="there is no such file or folder"):
        match("nope")
    with pytest.raises(NoImagesError, match=r"(?s)empty: this folder contains no images.*\.jpg.*/empty/\*\*'"):
        match("empty")
    with pytest.raises(NoImagesError, match=r"(?s)2020/\*\.nope: no file matches this pattern"):
        match("2020/*.nope")
    with pytest.raises(NoImagesError, match=r"(?s)nope/\*\.jpg: no file matches this pattern.*\*\*/"):
        match("nope/*.jpg")


@pytest.mark.parametrize("address", ["nope.jpg", "nope/", "nope/*.jpg", "nosuch://bucket/*.jpg"])
def test_checking_finds_typing_errors_without_listing(tree, address, monkeypatch):
    monkeypatch.setattr(os, "scandir", None)
    with pytest.raises(SourceError):
        globs.check(address)


@pytest.mark.parametrize("address", ["", ".", "2020/e.tif", "2020/*.nope", "c[1].png"])
def test_checking_lets_pass_what_may_match(tree, address, monkeypatch):
    monkeypatch.setattr(os, "scandir", None)
    globs.check(str(tree / address))


def test_an_unknown_scheme_names_those_that_are_known():
    with pytest.raises(SourceError, match=r"(?s)nosuch:// is not supported.*s3://, gs://, abfs://"):
        match("nosuch://bucket/*.jpg")


def test_links_that_stay_are_followed_and_those_that_lead_out_are_faults(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(b"secret")
    (tree / "2020" / "in.jpg").symlink_to("../a.jpg")
    (tree / "2020" / "out.jpg").symlink_to(outside / "secret.jpg")
    (tree / "2020" / "gone.jpg").symlink_to(outside / "nothing.jpg")
    (tree / "2020" / "self.jpg").symlink_to("self.jpg")
    (tree / "2020" / "notes.txt").symlink_to("/etc/passwd")
    (tree / "linked").symlink_to("2020/deep")
    (tree / "2020" / "deep" / "back").symlink_to("../..")
    (tree / "2020" / "deep" / "again").symlink_to("../../[2021]")
    (tree / "outer").symlink_to(outside)
    kinds = []
    found = {os.path.relpath(one.uri, tree): one for one in globs.match_files(".", on_left_out=kinds.append)}
    fault = f"unsafe-name: a link that leads out of {tree}/"
    assert {name for name, one in found.items() if one.fault} == {"2020/out.jpg", "2020/gone.jpg", "outer"}
    assert {(one.fault, one.version) for one in found.values() if one.fault} == {(fault, "")}
    assert {name for name in found if name.startswith(("linked", "2020/deep", "2020/in", "2020/self"))} == {
        *("linked/g.webp", "2020/deep/g.webp", "2020/deep/again/j.ppm", "2020/in.jpg", "2020/self.jpg"),
    }
    assert found["2020/in.jpg"].size_bytes == 1
    assert kinds.count("links to a folder above") == 1
    assert kinds.count("links within linked folders") == 2
    assert names("2020/*.jpg", tree) == [f"2020/{name}.jpg" for name in ("f1", "f2", "gone", "in", "out", "self")]
    assert "linked/g.webp" in names("**/*.webp", tree)
    assert "outer" not in names("2*/*.jpg", tree), "a pattern that cannot match there does not reject it"
    assert "outer" in names("out*/*.jpg", tree)


def test_a_link_that_is_named_may_lead_anywhere(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "b.jpg").write_bytes(b"1")
    (tree / "link.jpg").symlink_to(outside / "b.jpg")
    (tree / "folder").symlink_to(outside)
    (tree / "list.txt").write_text("link.jpg\n")
    for argument in ("link.jpg", "folder", "folder/*.jpg"):
        [reference] = match(argument)
        assert (reference.fault, reference.size_bytes) == ("", 1)
    [listed_link] = read_manifest("list.txt")
    listed_below = next(one for one in match(".") if one.uri.endswith("/link.jpg"))
    assert listed_below.fault
    assert merge([listed_below, listed_link]) == listed_link


def test_a_dangling_link_is_listed_and_a_pipe_is_not(tree):
    (tree / "2020" / "link.jpg").symlink_to("gone.jpg")
    os.mkfifo(tree / "2020" / "pipe.jpg")
    assert ImageReference(f"{tree}/2020/link.jpg") in match("2020")
    assert "2020/pipe.jpg" not in names("2020", tree)


def test_an_unreadable_folder_is_not_passed_over(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root, who runs tests in containers, may read everything
    assert names("2020/*.jpg", tree) == ["2020/f1.jpg", "2020/f2.jpg"]
    with pytest.raises(SourceError, match=r"(?s)2020/deep: a folder cannot be read: Permission denied.*access"):
        list(match("."))


# Behind scheme://


class ObjectStore(FileSystem):
    """An object store in a dictionary."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    broken = False

    @classmethod
    def scheme(cls):
        return "listing-test"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        if self.broken:
            raise OSError("no credentials")
        for path in sorted(self.files, reverse=True):
            if path.startswith(dir_or_prefix):
                yield self.metadata(path)

    def open(self, path, mime_type="", compression_type=None):
        if path not in self.files:
            raise FileNotFoundError(path)
        return io.BytesIO(self.files[path])

    def exists(self, path):
        return path in self.files

    def size(self, path):
        return len(self.files[path])

    def metadata(self, path):
        return FileMetadata(path, self.size(path), 5.5)

    def mkdirs(self, path): ...
    def create(self, path, mime_type="", compression_type=None): ...
    def copy(self, source_file_names, destination_file_names): ...
    def rename(self, source_file_names, destination_file_names): ...
    def last_updated(self, path): ...
    def checksum(self, path): ...
    def delete(self, paths): ...


@pytest.fixture
def bucket(monkeypatch):
    root = "listing-test://bucket/"
    stored = {root + name: bytes(size) for size, name in enumerate(TREE, start=1)}
    monkeypatch.setattr(ObjectStore, "files", stored | {f"{root}2020/": b""})
    return root


@pytest.mark.parametrize("pattern", ["", "*/"])
def test_what_a_folder_of_an_object_store_leaves_out_is_counted(bucket, pattern):
    found = []
    assert list(globs.match_files(bucket + pattern, on_left_out=found.append))
    everything = {".txt": 1, "hidden files": 2, "unfinished files": 2, "files in system folders": 2}
    assert Counter(found) == ({} if pattern else everything)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("2020", ["2020/deep/g.webp", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg"]),
        ("2020/", ["2020/deep/g.webp", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg"]),
        ("202", None),
        ("a.jpg", ["a.jpg"]),
        ("notes.txt", ["notes.txt"]),
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["2020/f1.jpg", "2020/f2.jpg", "a.jpg", "upload.partial/d.jpg"]),
        ("2020/f?.jpg", ["2020/f1.jpg", "2020/f2.jpg"]),
        ("c[1].png", ["c[1].png"]),
        ("[2021]/", ["[2021]/j.ppm"]),
        ("2*/", ["2020/deep/g.webp", "2020/e.tif", "2020/f1.jpg", "2020/f2.jpg"]),
        ("nope/*.jpg", None),
    ],
)
def test_an_object_store_is_matched_as_a_disk_is(bucket, pattern, expected):
    globs.check(bucket + pattern)
    if expected is None:
        with pytest.raises(SourceError):
            match(bucket + pattern)
    else:
        found = list(match(bucket + pattern))
        assert sorted(reference.uri.removeprefix(bucket) for reference in found) == expected
        assert {reference.version for reference in found} <= {f"{size}-5500000000" for size in range(100)}
        assert all(reference.size_bytes == len(ObjectStore.files[reference.uri]) for reference in found)


def test_a_store_that_cannot_be_listed(bucket, monkeypatch):
    monkeypatch.setattr(ObjectStore, "broken", True)
    with pytest.raises(SourceError, match=r"(?s)no credentials.*check the credentials"):
        match(bucket + "*.jpg")


def test_a_manifest_in_an_object_store(bucket):
    ObjectStore.files[bucket + "lists/today.csv"] = b"image,id\n../a.jpg,1\n/local.jpg,2\ns3://b/x.jpg,3\n"
    assert [known(reference) for reference in read_manifest(bucket + "lists/today.csv")] == [
        (bucket + "a.jpg", "1", -1), ("/local.jpg", "2", -1), ("s3://b/x.jpg", "3", -1),
    ]  # fmt: skip


# Manifests


def listed(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [known(reference) for reference in read_manifest(str(path))]


def test_a_text_manifest(tmp_path):
    text = "\ufeff# images of today\r\n\r\na.jpg\n  sub/b c.jpg  \r\n/abs/d#1.jpg\n#e.jpg\ns3://b/f.jpg\na.jpg\n./a.jpg"
    uris = (f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b c.jpg", "/abs/d#1.jpg", "s3://b/f.jpg", f"{tmp_path}/a.jpg",
            f"{tmp_path}/a.jpg")  # fmt: skip
    assert listed(tmp_path / "list.txt", text) == [(uri, "", -1) for uri in uris]


@pytest.mark.parametrize("column", ["uri", "path", "image", " URI "])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_manifest(tmp_path, column, delimiter, mark, end):
    rows = [
        ["label", column, "id"],
        ["cat", "a.jpg", "1"],
        [],
        ["dog", '"b,;\t""c"".jpg"', " 2 "],
        ["cat", "a.jpg", "1"],
    ]
    text = mark + end.join(delimiter.join(row) for row in rows)
    assert listed(tmp_path / "list.csv", text) == [
        (f"{tmp_path}/a.jpg", "1", -1), (f'{tmp_path}/b,;\t"c".jpg', "2", -1), (f"{tmp_path}/a.jpg", "1", -1),
    ]  # fmt: skip


def test_a_csv_of_one_column_and_a_trailing_comma(tmp_path):
    assert listed(tmp_path / "list.csv", "path\na.jpg,\nb.jpg") == [(f"{tmp_path}/{n}.jpg", "", -1) for n in "ab"]


def test_uri_goes_before_path_before_image(tmp_path):
    assert listed(tmp_path / "list.csv", "image,path,uri\n1,2,/3")[0][0] == "/3"
    assert listed(tmp_path / "list.csv", "image,path\n1,/2")[0][0] == "/2"


@pytest.mark.parametrize(("extension", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_packed_manifests(tmp_path, extension, pack):
    assert listed(tmp_path / f"list.csv.{extension}", pack(b"uri\n/a.jpg\n")) == [("/a.jpg", "", -1)]
    with pytest.raises(SourceError, match=r"list\.txt"):
        listed(tmp_path / f"list.txt.{extension}", pack(b"/a.jpg\n" * 9999)[:-9])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "", "list.txt: the manifest lists no images"),
        ("list.txt", "# nothing\n\n", "lists no images"),
        ("list.csv", "uri,id\n", "lists no images"),
        ("list.csv", "", r"list.csv, line 1: the header has the columns none"),
        ("list.csv", "a.jpg\nb.jpg\n", r"(?s)line 1: the header has the columns a.jpg.*uri, path, image.*\.txt"),
        ("list.csv", "uri,id\n/a.jpg,1\n,2\n", "list.csv, line 3: the column uri is empty"),
        ("list.csv", "id,uri\n1\n", "line 2: the column uri is empty"),
        (
            "list.csv",
            "uri\n/cats, dogs.jpg\n",
            r"(?s)line 2: the row has 2 fields, but the header has 1.*double quotes",
        ),
        ("list.csv", 'uri\n"/a.jpg\n', "list.csv, line 2: not CSV"),
        ("list.txt", b"/caf\xe9.jpg", "list.txt: the manifest is not UTF-8"),
        ("list.csv", "uri,id\n/a.jpg,1\n/b.tar,2\n", r"(?s)line 3: /b.tar has the id '2'.*leave the id empty"),
        ("list.jsonl", '{"uri": "/a.jpg"}\n{"uri": ""}', "list.jsonl, line 2: uri is ''"),
        ("list.jsonl", '{"uri": 7}', "line 1: uri is 7"),
        ("list.jsonl", '\n{"link": "/a.jpg"}', r"(?s)line 2: the object has the names 'link'.*uri, path, image"),
        ("list.jsonl", '["/a.jpg"]', "line 1: not an object"),
        ("list.jsonl", '{"uri": "/a.jpg"', "line 1: not JSON"),
        ("list.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("list.jsonl", '{"uri": "/a.jpg", "id": 1.5}', "line 1: id is 1.5"),
        ("list.jsonl", '{"uri": "/a.jpg", "id": true}', "line 1: id is True"),
        ("list.jsonl", '{"uri": "/a.jpg", "id": "\\ud800"}', "line 1: the id .* is not valid text"),
        ("list.jsonl", '{"uri": "/\\ud800.jpg"}', "line 1: .* is not an address"),
        ("list.ndjson", "\n", "lists no images"),
        ("list.tsv", "uri\tid\n\t2\n", "list.tsv, line 2: the column uri is empty"),
        ("list.json", '[{"uri": "/a.jpg"}, 7]', "list.json, item 2: not an object"),
        ("list.json", "7", "list.json: not a list of images"),
        ("list.json", '["/a.jpg"', "line 1: not JSON"),
        ("list.json", "[]", "lists no images"),
        ("list.txt", "/b.tar 7\n", r"(?s)line 1: /b.tar has the label '7'.*leave the label empty"),
        ("list.txt", "/a.jpg\n/b\0.jpg", r"list.txt, line 2: '/b\\x00.jpg' is not an address"),
    ],
)
def test_damaged_manifests_name_file_and_line(tmp_path, name, text, message):
    with pytest.raises(SourceError, match=message):
        listed(tmp_path / name, text)


def test_json_lines(tmp_path):
    lines = (
        '\ufeff{"uri": "a.jpg", "id": 7, "label": "x"}\r',
        "\r",
        '{"image": "i", "path": "https://h/é?q=1"}',
        '{"uri": "b", "id": null}',
    )
    text = "\n".join(lines)
    for name in ("list.jsonl", "list.NDJSON"):
        assert listed(tmp_path / name, text) == [
            (f"{tmp_path}/a.jpg", "7", -1), ("https://h/é?q=1", "", -1), (f"{tmp_path}/b", "", -1),
        ]  # fmt: skip
    assert listed(tmp_path / "list.jsonl.gz", gzip.compress(text.encode()))[2] == (f"{tmp_path}/b", "", -1)


def test_brackets_in_a_folder_are_explained(tmp_path):
    folder = tmp_path / "[2024] x"
    folder.mkdir()
    (folder / "a [1].jpg").write_bytes(b"")
    with pytest.raises(SourceError, match="one of the characters between the brackets") as caught:
        list(match(f"{folder}/*.jpg"))
    [pattern] = re.findall("'(.*)'", caught.value.remedy)
    assert pattern == f"{tmp_path}/[[]2024] x/*.jpg", "names that exist are taken as they are"
    assert [reference.uri for reference in match(pattern)] == [f"{folder}/a [1].jpg"]
    with pytest.raises(SourceError, match=r"for a bracket in a name write \[\[\]") as caught:
        list(match(f"{folder}/[0-9].png"))
    with pytest.raises(SourceError) as caught:
        list(match(f"{tmp_path}/[b-d].jpg"))
    assert f"'{tmp_path}/[[]b-d].jpg'" in caught.value.remedy


def labels(path, text):
    path.write_text(text)
    return [(reference.uri, reference.label) for reference in read_manifest(str(path))]


def test_a_list_of_caffe(tmp_path):
    """`convert_imageset` and `ImageData` take what stands after the last space as the label."""
    for name in ("photo 1.jpg", "a", "n01 2"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b.jpg 7").write_bytes(b"")
    text = "photo 1.jpg 0\nnone.JPEG\t999\na 3\nn01 2\nb.jpg 7\nnothing 5\nhttps://h/x?id=1 4\ns3://b/c d.png -1\nb.jpg"
    assert labels(tmp_path / "train.txt", text) == [
        (f"{tmp_path}/photo 1.jpg", "0"),
        (f"{tmp_path}/none.JPEG", "999"),
        (f"{tmp_path}/a", "3"),
        (f"{tmp_path}/n01 2", ""),
        (f"{tmp_path}/b.jpg 7", ""),
        (f"{tmp_path}/nothing 5", ""),
        ("https://h/x?id=1", "4"),
        ("s3://b/c d.png", "-1"),
        (f"{tmp_path}/b.jpg", ""),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "Label;file_name\ncat;a.jpg\n;b.jpg"),
        ("list.tsv", "filepath\tlabel,x\tlabel\na.jpg\t1;2;3\tcat\nb.jpg\t"),
        ("list.jsonl", '{"url": "a.jpg", "label": "cat"}\n{"url": "b.jpg", "label": null}'),
        ("list.json", '[{"file_name": "a.jpg", "label": "cat"}, "b.jpg"]'),
        ("list.json", '{"images": [{"file_name": "a.jpg", "label": "cat"}, {"file_name": "b.jpg"}], "info": {}}'),
        ("list.json", '{"filepath": "a.jpg", "label": "cat"}\n{"path": "b.jpg"}'),
    ],
)
def test_labels_and_addresses_under_their_usual_names(tmp_path, name, text):
    assert labels(tmp_path / name, text) == [(f"{tmp_path}/a.jpg", "cat"), (f"{tmp_path}/b.jpg", "")]


def test_a_label_in_json_may_be_of_any_type(tmp_path):
    text = '{"uri": "/a", "label": 281}\n{"uri": "/b", "label": ["cat", 7]}\n{"uri": "/c", "label": true}'
    assert [label for _, label in labels(tmp_path / "list.jsonl", text)] == ["281", '["cat", 7]', "true"]


def test_local_files_of_a_manifest_are_looked_up(tree):
    (tree / "list.txt").write_text("a.jpg\n2020\nnope.jpg\na.jpg/x.jpg\nnosuch://b/x.jpg\n")
    status = (tree / "a.jpg").stat()
    assert list(read_manifest("list.txt")) == [
        ImageReference(f"{tree}/a.jpg", size_bytes=1, version=f"1-{status.st_mtime_ns}"),
        *(
            ImageReference(uri)
            for uri in (f"{tree}/2020", f"{tree}/nope.jpg", f"{tree}/a.jpg/x.jpg", "nosuch://b/x.jpg")
        ),
    ]


@pytest.mark.parametrize("address", ["nope.txt", "nosuch://bucket/list.csv", "."])
def test_a_manifest_that_is_not_there(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        manifest.check(address)


def test_a_manifest_is_read_as_it_is_asked_for(tmp_path):
    lines = (f"/{number}.jpg\n" for number in range(200_000))
    (tmp_path / "list.txt").write_text("".join(lines))
    with (tmp_path / "list.txt").open("ab") as file:
        file.write(b"\xff")
    references = read_manifest(str(tmp_path / "list.txt"))
    assert [reference.uri for reference in itertools.islice(references, 3)] == ["/0.jpg", "/1.jpg", "/2.jpg"]
    references.close()


# ListImages


def run(arguments, expected, **options):
    with BeamTestPipeline(runner=FnApiRunner()) as pipeline:
        found = pipeline | ListImages(arguments, **options)
        # Names need not be UTF-8, which Beam's coder of strings insists on.
        assert_that(
            found | beam.Map(lambda reference: ascii(known(reference))),
            equal_to([ascii(reference) for reference in expected]),
        )


def test_everything_is_listed_as_often_as_it_is_named(tree):
    (tree / "list.csv").write_text("uri,id\na.jpg,first\nelsewhere.jpg,second\n")
    (tree / "more.jsonl").write_text('{"uri": "2020/f1.jpg"}\n{"uri": "https://host/x.jpg"}\n')
    sizes = {name: size for size, name in enumerate(TREE, start=1)}
    run(
        ["2020", "@list.csv", "more.jsonl", f"file://{tree}/a.jpg"],
        [
            (f"{tree}/a.jpg", "first", 1),
            (f"{tree}/a.jpg", "", 1),
            (f"{tree}/elsewhere.jpg", "second", -1),
            (f"{tree}/2020/f1.jpg", "", sizes["2020/f1.jpg"]),
            ("https://host/x.jpg", "", -1),
            *((f"{tree}/{name}", "", sizes[name]) for name in TREE if name.startswith("2020/")),
        ],
    )


def test_folders_patterns_and_manifests_may_be_empty_where_that_is_allowed(tree):
    (tree / "quiet").mkdir()
    (tree / "heic").mkdir()
    (tree / "heic" / "a.heic").touch()
    (tree / "list.csv").write_text("uri\n")
    empty = ["quiet/", "heic/", "not/yet/", "not/yet", "not/yet/*.jpg", "2020/*.bmp", "@list.csv"]
    for argument in empty:
        with pytest.raises(NoImagesError):
            list(list_images([argument]))
    run([*empty, "2020/e.tif"], [(f"{tree}/2020/e.tif", "", TREE.index("2020/e.tif") + 1)], allow_empty=True)
    assert list(list_images(empty, Listing(allow_empty=True))) == []


@pytest.mark.parametrize("argument", ["nope.jpg", "nope.tar", "@nope.csv", "nope.txt", "[z-a].jpg"])
def test_a_file_that_is_missing_is_never_an_empty_folder(tree, argument):
    with pytest.raises(SourceError):
        ListImages([argument], allow_empty=True)
    with pytest.raises(SourceError):
        list(list_images([argument], Listing(allow_empty=True)))


def shard(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return str(path)


def test_containers_named_by_patterns_and_manifests_are_looked_into(tree):
    (tree / "shards").mkdir()
    for number in range(3):
        shard(tree / "shards" / f"{number}.tar", ["a.jpg", "b.jpg"])
    (tree / "shards" / "broken.tar").write_bytes(b"x" * 600)
    (tree / "list.txt").write_text("shards/1.tar\nhttps://host/x.zip\n")
    every = [(f"{tree}/shards/{n}.tar#{m}.jpg", m, 0) for n in range(3) for m in "ab"]
    broken = (f"{tree}/shards/broken.tar", "", -1)
    run(["shards/*.tar"], [*every, broken])
    run(["shards/0.tar", "list.txt"], [*every[:4], ("https://host/x.zip", "", -1)])
    assert [known(reference) for reference in match("shards/*")] == [*every, broken]
    with pytest.raises(SourceError, match=r"this folder contains no images; it has \d+ \.tar"):
        match("shards")


def test_a_name_that_is_not_utf8_is_listed(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"1")
    run([str(tmp_path)], [(rf"{tmp_path}/caf\udce9.jpg", "", 1)])


def test_relative_arguments_are_relative_to_where_it_was_made(tree, monkeypatch):
    transform = ListImages(["2020/e.tif", "2*/"])
    monkeypatch.chdir("/")
    with BeamTestPipeline(runner=FnApiRunner()) as pipeline:
        uris = pipeline | transform | beam.Map(lambda reference: reference.uri)
        assert_that(
            uris, equal_to([*(f"{tree}/{name}" for name in TREE if name.startswith("2020/")), f"{tree}/2020/e.tif"])
        )


@pytest.mark.parametrize(
    "arguments",
    [[], "a.jpg", [""], ["nope"], ["a.jpg", "nope/*.jpg"], ["@nope.csv"], ["nope.txt"], ["@a.jpg"], ["nosuch://b/x"]],
)
def test_what_is_wrong_is_found_when_it_is_made(tree, arguments):
    with pytest.raises(SourceError):
        ListImages(arguments)


def test_files_that_only_workers_see_can_be_named(tree):
    ListImages(["nope", "@nope.csv", "nope.txt"], check=False)
    with pytest.raises(SourceError):
        ListImages(["a\0b"], check=False)
