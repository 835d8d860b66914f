"""The digests of recipes: stable for tables that exist, and different wherever pixels differ."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipeline.images.decoding_rules import Decoding, Rules, rules
from pipeline.maps.recipe import Recipe
from pipeline.sources.file_types import IMAGE_EXTENSIONS

MODEL = "m" * 64
STEADY = {name: Rules() for name in rules()}
CHANGED = {**STEADY, "TIFF": Rules(3, 2), "JPEG": Rules(2, 1)}


def test_a_row_of_an_unknown_type_has_the_digest_of_the_settings():
    recipe = Recipe(MODEL, rules=CHANGED)
    assert recipe.decoding(None) == Decoding()
    assert recipe.digest_of(Decoding()) == recipe.digest == Recipe(MODEL, rules=STEADY).digest


def test_every_decoding_has_its_own_digest_and_is_found_by_it():
    recipe = Recipe(MODEL, rules=CHANGED)
    decodings = recipe.decodings()
    assert len(decodings) == 1 + len(STEADY) + 2 + 1
    assert {recipe.digest_of(decoding): decoding for decoding in decodings.values()} == decodings
    assert recipe.decoding("TIFF") == Decoding("TIFF", 3)
    assert not decodings.keys() & dataclasses.replace(recipe, k=7).decodings().keys()


def test_a_key_changes_with_the_pixels_and_not_with_what_is_accepted():
    before, after = Recipe(MODEL, rules=STEADY), Recipe(MODEL, rules=CHANGED)
    for name in (None, "JPEG", "PNG"):
        assert after.key("d", 1.0, name) == before.key("d", 1.0, name) == Recipe(MODEL).key("d", 1.0)
    assert after.key("d", 1.0, "TIFF") != before.key("d", 1.0, "TIFF")


@pytest.mark.parametrize("order", ["gray", "bgr"])
def test_a_recipe_is_read_from_the_summary_of_a_run(order: str):
    recipe = Recipe(resize=(2, 3), scales=(1.0, 0.5), features=("fc7",)).of_model(MODEL, grey=order == "gray")
    stored = json.loads(json.dumps(recipe.as_json()))
    assert stored["decoding"]["TIFF"] == rules()["TIFF"].version
    read = Recipe.from_json(stored, {"preprocessing": {"channel_order": order}})
    assert read is not None
    assert read.decodings() == recipe.decodings()
    assert read.rules == recipe.rules


@pytest.mark.parametrize("stored", [None, {}, {"digest": "d"}, {"scales": 3}, {**Recipe().as_json(), "k": 9}])
def test_what_is_not_a_recipe_is_none(stored: object):
    assert Recipe.from_json(stored, {}) is None
    assert Recipe.from_json(Recipe().as_json(), {"preprocessing": "?"}) is None


def test_grey_nets_have_rules_of_their_own_for_jpeg_alone():
    colour, grey = rules(), rules(grey=True)
    assert {name for name in colour if colour[name] != grey[name]} == {"JPEG"}
    assert all(1 <= of.pixels <= of.version for of in [*colour.values(), *grey.values()])
    assert ".jpg" in IMAGE_EXTENSIONS
