"""The class names: Caffe's order, complete, read once and only when asked for."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest

import models
from conversion.errors import ReadingError
from models import entry

FILE = Path(models.__file__).with_name("imagenet_labels.txt")


def class_lines() -> list[str]:
    return [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def test_there_are_1000_classes_in_the_order_of_their_synsets() -> None:
    ids = [line.split(" ", 1)[0] for line in class_lines()]
    assert len(ids) == 1000
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in ids)
    assert all(first < second for first, second in itertools.pairwise(ids))


@pytest.mark.parametrize(
    ("index", "label"),
    [
        (0, "tench, Tinca tinca"),
        (134, "crane"),
        (207, "golden retriever"),
        (281, "tabby, tabby cat"),
        (340, "zebra"),
        (517, "crane"),
        (817, "sports car, sport car"),
        (954, "banana"),
        (999, "toilet tissue, toilet paper, bathroom tissue"),
    ],
)
def test_known_classes_are_where_caffe_has_them(index: int, label: str) -> None:
    assert entry("caffenet").labels[index] == label


def test_labels_are_the_lemmas_without_the_id() -> None:
    labels = entry("caffenet").labels
    assert list(labels) == [line.split(" ", 1)[1] for line in class_lines()]
    assert all(label == label.strip() != "" for label in labels)
    assert not any(re.match(r"n\d{8}", label) for label in labels)


def test_labels_are_read_once() -> None:
    assert entry("caffenet").labels is entry("alexnet").labels


def test_wordnet_is_attributed() -> None:
    header = "".join(line for line in FILE.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in header.replace("\n# ", " ")


def labels_of(file: Path) -> tuple[str, ...]:
    # An absolute path takes the place of the package's folder in a join.
    return dataclasses.replace(entry("caffenet"), labels_file=str(file)).labels


def test_labels_without_ids_keep_all_their_words(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("# digits\n0\n\nzero n01440764 one\n  n0144 x \n", encoding="utf-8")
    assert labels_of(file) == ("0", "zero n01440764 one", "n0144 x")


@pytest.mark.parametrize("content", [None, b"", b"# only a comment\n\n", b"caf\xe9\n"])
def test_damaged_file_is_a_typed_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ReadingError, match="install densecast again") as caught:
        labels_of(file)
    assert str(file) in str(caught.value)
