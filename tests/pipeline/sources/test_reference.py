"""Several references to one address become one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import ImageReference, merge

REFERENCES = st.builds(
    ImageReference,
    st.just("/a.jpg"),
    st.sampled_from(["", "7"]),
    st.sampled_from([-1, 1, 2]),
    st.sampled_from(["", "1-1", "2-2"]),
    container=st.just(""),
    kind=st.just(""),
    offset=st.just(-1),
    fault=st.sampled_from(["", "corrupt"]),
    label=st.sampled_from(["", "281"]),
    location=st.just(""),
    listed_by=st.sampled_from(["", "s3://bucket"]),
)


@given(st.lists(REFERENCES, min_size=1, max_size=5))
def test_the_order_does_not_matter(references):
    merged = merge(references)
    assert all(merge(order) == merged for order in itertools.islice(itertools.permutations(references), 24))
    assert merge([merged, *references]) == merged
    assert merge([merge(references[:2]), *references[2:]]) == merged
    assert merged.id == max(reference.id for reference in references)
    assert merged.label == max(reference.label for reference in references)
    named = [reference for reference in references if not reference.listed_by] or references
    assert merged.version == max(reference.version for reference in named)
    assert merged.listed_by == ("s3://bucket" if named == references and named[0].listed_by else "")


def test_two_ids_contradict():
    with pytest.raises(SourceError, match=r"/a.jpg: listed with the id '1' and with '2'"):
        merge([ImageReference("/a.jpg", "2"), ImageReference("/a.jpg"), ImageReference("/a.jpg", "1")])


def test_two_labels_contradict():
    with pytest.raises(SourceError, match=r"(?s)/a.jpg: listed with the label 'cat' and with 'dog'.*one label"):
        merge([ImageReference("/a.jpg", label="dog"), ImageReference("/a.jpg"), ImageReference("/a.jpg", label="cat")])


@given(
    st.lists(
        st.builds(
            ImageReference,
            st.just("/a.tar#b.jpg"),
            st.sampled_from(["", "7", "8"]),
            st.just(-1),
            offset=st.just(-1),
            version=st.sampled_from(["", "1-1", "2-2"]),
            container=st.sampled_from(["", "/a.tar"]),
            kind=st.sampled_from(["tar", "zip"]),
            location=st.sampled_from(["", "/b.jpg"]),
            fault=st.sampled_from(["", "corrupt", "zzz"]),
            label=st.just(""),
        ).filter(lambda one: bool(one.container) == bool(one.id)),
        min_size=1,
        max_size=4,
    )
)
def test_what_content_says_never_ends_a_run(references):
    """A container may change its kind or its ids between two listings; a user's pipeline may give one address twice."""
    merged = merge(references)
    assert all(merge(order) == merged for order in itertools.permutations(references))
    assert merge([merge(references[:2]), *references[2:]]) == merged
    several = len({(one.container != "", one.file) for one in references}) > 1
    assert (merged.fault == "unreadable: several files have this address") == several


def test_a_file_that_is_named_as_a_member_is_another_image():
    file = ImageReference("/a.tar#b.jpg").named()
    assert file == ImageReference(r"/a.tar\#b.jpg", location="/a.tar#b.jpg")
    assert file.named() == file
    assert file.file == "/a.tar#b.jpg"
    assert ImageReference("/a.tar#b.jpg", container="/a.tar", kind="tar").named().uri == "/a.tar#b.jpg"


def test_addresses_are_relative_to_a_root():
    reference = ImageReference("/photos/caf\udce9/1.jpg", size_bytes=3)
    assert reference.named("/photos") == reference._replace(uri=r"caf\udce9/1.jpg", location="/photos/caf\udce9/1.jpg")
    assert ImageReference("/other/1.jpg").named("/photos") == ImageReference("/other/1.jpg")


def test_nothing_is_nothing_to_merge():
    with pytest.raises(SourceError):
        merge([])
