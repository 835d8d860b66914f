from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.maintenance.check_images import Fault, RowIdentity, RowLedger, hash_of, image_faults


def whole(uri: str, scale: float = 1.0, tiles: int = 1, run: str = "r1", recipe: str = "c") -> list[RowIdentity]:
    return [RowIdentity(uri, scale, tile, tiles, f"key of {uri} {scale}", recipe, run) for tile in range(tiles)]


def faults(rows: list[RowIdentity]) -> dict[str, set[Fault]]:
    """The naive way: every image is looked at exactly."""
    rows = sorted(rows)
    found = {uri: {fault for fault, _ in image_faults(list(group))} for uri, group in groupby(rows, lambda r: r.uri)}
    return {uri: kinds for uri, kinds in found.items() if kinds}


def suspects(rows: list[RowIdentity], room: int = 0) -> set[int]:
    ledger = RowLedger(room)
    for start in range(0, len(rows), 3):
        ledger.add(rows[start : start + 3])
    assert len(ledger) == len(rows)
    return {int(image) for image in ledger.suspects()}


images = st.lists(
    st.builds(
        whole,
        st.text(max_size=3),
        st.sampled_from([1.0, 0.5, 0.7]),
        st.integers(1, 4),
        st.sampled_from(["r1", "r2"]),
        st.sampled_from(["c", "d"]),
    ),
    max_size=8,
)


@given(images=images, data=st.data())
def test_the_ledger_suspects_the_images_that_are_wrong_and_no_others(
    images: list[list[RowIdentity]], data: st.DataObject
) -> None:
    rows = [row for image in images for row in image]
    for _ in range(data.draw(st.integers(0, 3)) if rows else 0):
        row = data.draw(st.sampled_from(rows))
        change = data.draw(st.sampled_from(["drop", "repeat", "key", "count", "tile", "run"]))
        if change in ("drop", "key", "count", "tile", "run"):
            rows.remove(row)
        if change != "drop":
            changed: dict[str, dict[str, Any]] = {
                "key": {"key": "other"},
                "count": {"tile_count": row.tile_count + 1},
                "tile": {"tile_index": row.tile_index + 1},
                "run": {"run_id": "r9"},
            }
            rows.append(row._replace(**changed.get(change, {})))
        if not rows:
            break
    rows = data.draw(st.permutations(rows))
    expected = {hash_of(uri) for uri in faults(rows)}
    assert suspects(rows) == expected
    assert suspects(rows, room=len(rows)) == expected


def test_whole_images_are_sound() -> None:
    rows = whole("a") + whole("a", 0.5) + whole("b", tiles=3) + whole("c", run="r2", recipe="other")
    assert suspects(rows) == set()
    assert faults(rows) == {}
    assert suspects([]) == set()


def test_each_fault_has_its_name() -> None:
    a = whole("a", tiles=3)
    assert faults([*a, a[1]]) == {"a": {Fault.DUPLICATE}}
    assert faults(a[:2]) == {"a": {Fault.INCOMPLETE}}
    assert faults([*a[:2], a[2]._replace(key="other")]) == {"a": {Fault.MIXED}}
    assert faults([*a[:2], a[2]._replace(tile_count=2)]) == {"a": {Fault.MIXED}}
    assert faults([*a, *whole("a", 0.5, run="r2")]) == {"a": {Fault.MIXED}}
    assert faults([*a, *whole("a", 0.5, recipe="d")]) == {"a": {Fault.MIXED}}
    assert faults([a[0]._replace(tile_count=1, tile_index=1)]) == {"a": {Fault.INCOMPLETE, Fault.MIXED}}


def test_messages_name_what_is_missing_and_stay_short() -> None:
    tiles = whole("a", tiles=2000)
    [(fault, what)] = image_faults(tiles[:10] + tiles[1990:])
    assert fault is Fault.INCOMPLETE
    assert what.startswith("20 of 2000 tiles at scale 1; missing: 10, 11, 12, 13, 14")
    assert len(what) < 100
    [(_, what)] = image_faults([tiles[0]._replace(tile_count=2**31 - 1)])
    assert "1 of 2147483647" in what


def test_a_negative_tile_is_no_crash() -> None:
    row = whole("a")[0]._replace(tile_index=-1, tile_count=-1)
    assert suspects([row]) == {hash_of("a")}
    assert faults([row])


def test_a_row_takes_28_bytes() -> None:
    ledger = RowLedger(10)
    held = [value for value in vars(ledger).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) == 280
