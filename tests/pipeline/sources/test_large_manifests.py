"""Manifests are read in bounded memory: long lines, rows and items are refused, large JSON is parsed item by item."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import manifest_json, manifest_rows
from pipeline.sources.manifest import read_manifest


def addresses(path: Path) -> list[str]:
    return [reference.uri.rpartition("/")[2] for reference in read_manifest(str(path))]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which small files are large."""
    monkeypatch.setattr(manifest_rows, "LONGEST_LINE", 200)
    monkeypatch.setattr(manifest_json, "LONGEST_LINE", 200)
    monkeypatch.setattr(manifest_json, "_LARGEST_WHOLE", 400)


LONG = "a" * (manifest_rows.LONGEST_LINE + 1)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list.txt", f"a.jpg\n{LONG}\n", "line 2: a line of more than 1,048,576 characters"),
        ("list.jsonl", f'{{"uri": "a.jpg"}}\n{{"uri": "{LONG}"}}\n', "line 2: a line of more than"),
        ("list.csv", f"uri\na.jpg\n{LONG}\n", "line 3: a line of more than"),
        ("list.csv", f"{LONG},uri\na.jpg\n", "line 1: a line of more than"),
        ("list.csv", f"{'b' * 140_000},uri\na.jpg\n", "line 1: not CSV: field larger than field limit"),
        ("list.csv", f"uri\n{'b' * 140_000}\n", "line 2: not CSV: field larger than field limit"),
        ("list.csv", "uri,id\na.jpg,1" + ',"b\n"' * 300_000, "a row of more than 1,048,576 characters"),
    ],
)
def test_what_is_too_long_is_refused(name: str, text: str, words: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError) as caught:
        addresses(tmp_path / name)
    assert words in " ".join(str(caught.value).split())
    assert caught.value.remedy
    assert len(str(caught.value)) < 2000


def test_a_list_that_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.sources.streams._INFLATES_TO", 2**20)
    (tmp_path / "list.txt.bz2").write_bytes(bz2.compress(b"\n" * 2**22))
    with pytest.raises(SourceError, match="inflates to more than"):
        addresses(tmp_path / "list.txt.bz2")


ITEMS = [{"file_name": f"{number}.jpg", "id": number, "size": [1, 2.5, {"a": None}]} for number in range(50)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "content",
    [
        ITEMS,
        [item["file_name"] for item in ITEMS],
        {"info": {"year": 1}, "annotations": [[1, 2]] * 90, "images": ITEMS, "categories": []},
        {"annotations": [], "count": 12345678901234567890, "images": ITEMS},
    ],
    ids=["objects", "addresses", "COCO", "COCO with numbers"],
)
def test_large_json_is_parsed_item_by_item(content: object, indent: int | None, tmp_path: Path):
    (tmp_path / "list.json").write_text(json.dumps(content, indent=indent))
    assert addresses(tmp_path / "list.json") == [f"{number}.jpg" for number in range(50)]


@pytest.mark.usefixtures("small")
def test_large_json_lines_with_the_extension_of_json(tmp_path: Path):
    (tmp_path / "list.json").write_text("".join(f"{json.dumps(item)}\n" for item in ITEMS))
    assert addresses(tmp_path / "list.json") == [f"{number}.jpg" for number in range(50)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(ITEMS)[:-1], "not JSON"),
        (json.dumps(ITEMS) + "[]", "text after its end"),
        (json.dumps(ITEMS).replace("30.jpg", "b" * 300), "an item of more than 200 characters"),
        (json.dumps(ITEMS).replace('"30.jpg"', "nonsense"), "not JSON: Expecting value"),
        (json.dumps({"annotations": ITEMS}), "not a list of images"),
        (" " * 500 + "7", "not a list of images"),
        ("[" * 500, "an item of more than 200 characters"),
    ],
)
def test_large_json_that_is_not_a_list(text: str, words: str, tmp_path: Path):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SourceError, match=words):
        addresses(tmp_path / "list.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(_JSON, min_size=1, max_size=8), st.integers(1, 60), st.sampled_from([None, 1]))
def test_item_by_item_gives_what_json_gives(items: list[object], step: int, indent: int | None):
    class Slow:
        def __init__(self, text: str) -> None:
            self._text = text

        def read(self, _: int) -> str:
            piece, self._text = self._text[:step], self._text[step:]
            return piece

    text = json.dumps(items, indent=indent)
    parser = manifest_json._Parser("list.json", text[:1], Slow(text[1:]))
    assert list(parser.items()) == items
