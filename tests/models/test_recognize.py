"""Nets of the catalog are recognised by their definitions, and no other net is."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import entries, entry
from models.recognize import recognize


@pytest.mark.parametrize("name", ["caffenet", "digits", "squeezenet_1_1"])
def test_a_definition_of_the_catalog(name: str, tmp_path: Path):
    """The net's name and the batch do not matter, nor does what only training needs."""
    text = entry(name).definition.read_text()
    path = tmp_path / "deploy.prototxt"
    path.write_text(text.replace('name: "', 'name: "my own ', 1))
    assert recognize(str(path)) == entry(name)


@pytest.mark.parametrize(
    ("old", "new"), [("num_output: 1000", "num_output: 20"), ('"fc8"', '"fc8_mine"'), ("dim: 227", "dim: 259")]
)
def test_another_net_is_not_taken_for_it(old: str, new: str, tmp_path: Path):
    text = entry("caffenet").definition.read_text()
    assert old in text
    path = tmp_path / "deploy.prototxt"
    path.write_text(text.replace(old, new))
    assert recognize(str(path)) is None


def test_the_nets_of_the_catalog_differ():
    texts = [each.definition.read_text() for each in entries()]
    assert len(set(texts)) == len(texts)
