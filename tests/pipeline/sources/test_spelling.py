"""Addresses in the table: valid Unicode, and one spelling for each file and member."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.spelling import below, is_location, relative_to, spell, spell_file, split, unspell, unspell_file

# The letters that spellings are made of, so that collisions are likely; any text as well.
PIECES = ["\\", "u", "d", "c", "8", "f", "\udcff", "\udc80", "\ud800", "udcff", "#", ".tar", "/", ".jpg", "é"]
TRICKY = st.lists(st.sampled_from(PIECES)).map("".join)
NAMES = st.one_of(TRICKY, st.text(), st.binary().map(lambda name: name.decode("utf-8", "surrogateescape")))


@given(NAMES)
def test_a_spelling_is_unicode_and_has_one_name(name: str):
    spell(name).encode()
    spell_file(name).encode()
    assert unspell(spell(name)) == name
    assert unspell_file(spell_file(name)) == name


@given(NAMES)
def test_what_has_no_escape_keeps_its_spelling(name: str):
    plain = name.replace("\\", "/").encode("utf-8", "ignore").decode()
    assert spell(plain) == plain
    assert spell_file(plain.replace("#", "/")) == plain.replace("#", "/")


@given(NAMES)
def test_a_file_is_never_spelled_as_a_member(path: str):
    assert split(spell_file(path)) == (spell_file(path), "")


@given(NAMES, NAMES)
def test_a_member_has_its_container(path: str, name: str):
    container = f"{path}.tar"
    if not container.lower().startswith(("http://", "https://")):
        assert split(f"{spell_file(container)}#{spell(name)}") == (spell_file(container), spell(name))


def test_names_on_the_web_stay():
    assert spell_file("https://host/x.tar#a.jpg") == "https://host/x.tar#a.jpg"
    assert split("https://host/x.tar#a.jpg").member == ""


def test_long_runs_take_no_time():
    assert len(spell("\\" * 1_000_000 + "\\ud")) == 1_000_003
    assert len(spell("\\" * 1_000_000 + "\udcff")) == 2_000_006


@pytest.mark.parametrize(
    ("root", "location", "path"),
    [
        ("/photos", "/photos/a/1.jpg", "a/1.jpg"),
        ("/photos", "/photos2/1.jpg", "/photos2/1.jpg"),
        ("/", "/a.jpg", "a.jpg"),
        ("", "/a.jpg", "/a.jpg"),
        ("s3://b/photos/", "s3://b/photos/a.jpg", "a.jpg"),
        ("s3://b/photos", "s3://b/photos//a.jpg", "s3://b/photos//a.jpg"),
        ("s3://b/photos", "s3://b/photos/http://h/a.jpg", "s3://b/photos/http://h/a.jpg"),
        ("/photos", "https://h/a.jpg", "https://h/a.jpg"),
    ],
)
def test_paths_below_a_root(root: str, location: str, path: str):
    assert relative_to(root, location) == path
    assert below(root, path) == location
    assert is_location(path) == (path == location)
