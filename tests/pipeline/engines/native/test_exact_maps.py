"""The promise of the native engine: a map has the same bits on every machine, beside any images, by any threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.native_digests import FILE, SIZES, digest, digests, images, opened

pytestmark = pytest.mark.usefixtures("native")
KNOWN = json.loads(FILE.read_text())


def known(name: str) -> dict[str, str]:
    return {key: value for key, value in KNOWN.items() if key.startswith(f"{name} ")}


def test_ten_maps_are_known():
    assert len(KNOWN) == 10
    assert list(KNOWN) == [f"{name} {h}x{w}" for name, sizes in SIZES.items() for h, w in sizes]


@pytest.mark.parametrize("name", SIZES)
def test_every_machine_makes_the_same_bits(by_name: dict[str, Path], name: str):
    """Of every kind of processor that ever runs the tests."""
    assert digests(name, opened(name, by_name[name])) == known(name)


@pytest.mark.parametrize("name", SIZES)
def test_bits_do_not_depend_on_threads_and_instructions(native: Any, by_name: dict[str, Path], name: str):
    for isa in native.isas():
        for threads in (1, 3) if isa == "scalar" else (1, 2, 3, 4):
            assert digests(name, opened(name, by_name[name], threads, isa)) == known(name), (isa, threads)


@pytest.mark.parametrize("name", SIZES)
def test_bits_do_not_depend_on_the_batch(by_name: dict[str, Path], name: str):
    """Of images of one size and of several; from 1 to 9, and at any place."""
    engine = opened(name, by_name[name])
    given, expected = images(name), list(known(name).values())
    order = [3, 0, 4, 1, 1, 2, 0, 3, 4]
    for count in range(2, 10):
        found = engine.score_mixed([given[i] for i in order[:count]])
        assert [digest(cells) for cells in found] == [expected[i] for i in order[:count]], count
    for count in (2, 5, 9):
        others = np.random.default_rng(count).integers(0, 256, (count, *given[1].shape), dtype=np.uint8)
        for place in {0, count // 2, count - 1}:
            others[place] = given[1]
            assert digest(engine.score(others)[place]) == expected[1], (count, place)
