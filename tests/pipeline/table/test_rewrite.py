from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TableError
from pipeline.maps.encoding import map_digest
from pipeline.settings import Rounding
from pipeline.table.commit import Changes, ConflictError, commit
from pipeline.table.part_file import PartWriter, Receipt, rounding_of
from pipeline.table.rewrite import Action, Edit, rewrite
from pipeline.table.rows import MapRow
from pipeline.table.schema import SCHEMA
from pipeline.transforms import inventory
from pipeline.transforms.inventory import Inventory, read_orphan, read_part, take_inventory
from pipeline.transforms.reconcile import Known
from tests.support.stored_rows import MODEL_JSON, digest_of, publish_rows, rejected, scored, write

LATER = datetime(2026, 2, 3, tzinfo=UTC)


def rows_of(root: Path, receipt: Receipt | None) -> list[dict[str, Any]]:
    if receipt is None:
        return []
    table = pq.read_table(root / receipt.path, page_checksum_verification=True)
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == receipt.rows
    return table.to_pylist()


def change(
    root: Path, rows: list[MapRow], *edits: tuple[str, Action, Any], orphan: bool = False
) -> list[dict[str, Any]]:
    [part] = write(root, *rows)
    given = [Edit(uri, part.path, action, **(more or {})) for uri, action, more in edits]
    receipt = rewrite(str(root), part.path, given, orphan=orphan, run_id="r2", now=LATER)
    return rows_of(root, receipt)


def test_rows_that_others_replace_are_gone_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    rows = [scored(uri) for uri in "abc"]
    [before] = write(tmp_path, *rows)
    after = change(tmp_path, rows, ("b", Action.DROP, None))
    assert after == [row for row in rows_of(tmp_path, before) if row["uri"] != "b"]
    assert change(tmp_path, rows[:1], ("a", Action.DROP, None)) == []


def test_an_image_that_is_known_by_another_version_or_name_keeps_its_map(tmp_path: Path) -> None:
    rows = [scored("a", id_="old"), scored("b")]
    new = {"version": "v2", "id": "new", "label": "281"}
    a, b = change(tmp_path, rows, ("a", Action.UPDATE, new), ("b", Action.UPDATE, {"version": "v3"}))
    assert (a["image_version"], a["id"], a["run_id"], a["map_digest"]) == ("v2", "new", "r1", rows[0].map_digest)
    assert (b["image_version"], b["id"]) == ("v3", None)
    assert (a["label"], b["label"]) == ("281", None)


def test_a_deleted_image_leaves_one_row_a_scale_without_a_map(tmp_path: Path) -> None:
    rows = [scored("a", tile=(0, 2)), scored("a", tile=(1, 2)), scored("a", scale=0.5), scored("b"), rejected("c")]
    after = change(tmp_path, rows, ("a", Action.DELETE, None), ("c", Action.DELETE, None))
    found = [(row["uri"], row["scale"], row["status"], row["run_id"]) for row in after]
    assert sorted(found) == [
        ("a", 0.5, "deleted", "r2"),
        ("a", 1.0, "deleted", "r2"),
        ("b", 1.0, "scored", "r1"),
        ("c", 1.0, "deleted", "r2"),
    ]
    for row in after:
        if row["status"] == "deleted":
            assert row["tile_count"] == 1
            assert row["scored_at"] == LATER
            assert row["classes"] is row["reason"] is row["geometry"] is row["map_digest"] is row["features"] is None
            assert row["image_digest"] is not None


def test_of_an_orphan_only_what_was_asked_for_is_adopted(tmp_path: Path) -> None:
    rows = [scored("a"), scored("a", scale=0.5), scored("b"), rejected("c")]
    [part] = write(tmp_path, *rows)
    edit = Edit("a", part.path, Action.ADOPT, "v1", "mine", [[1.0, 0]])  # type: ignore[list-item] # as JSON gives it
    receipt = rewrite(str(tmp_path), part.path, [edit], orphan=True, run_id="r2", now=LATER)
    [row] = rows_of(tmp_path, receipt)
    assert (row["uri"], row["scale"], row["id"], row["run_id"]) == ("a", 1.0, "mine", "r2")
    assert receipt is not None
    assert (receipt.scored, receipt.rejected) == (1, 0)


@given(actions=st.lists(st.sampled_from([None, Action.DROP, Action.UPDATE, Action.DELETE]), min_size=1, max_size=12))
@settings(max_examples=20)
def test_every_row_that_is_left_is_intact(
    actions: list[Action | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("table")
    uris = [f"image {number}" for number in range(len(actions))]
    edits = [(uri, action, None) for uri, action in zip(uris, actions, strict=True) if action]
    after = change(root, [scored(uri) for uri in uris], *edits)
    assert [row["uri"] for row in after] == sorted(
        u for u, a in zip(uris, actions, strict=True) if a is not Action.DROP
    )
    for row in after:
        if row["status"] == "scored":
            names = ("classes", "scores", "residual", "probabilities", "features")
            digest = map_digest(row["map_height"], row["map_width"], **{name: row[name] for name in names})
            assert digest == row["map_digest"]


def test_a_part_that_cannot_be_read_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    [part] = write(tmp_path, scored("a"))
    data = bytearray((tmp_path / part.path).read_bytes())
    data[len(data) // 3] ^= 0xFF
    (tmp_path / part.path).write_bytes(data)
    with pytest.raises(TableError, match="cannot be read"):
        rewrite(str(tmp_path), part.path, [Edit("b", part.path, Action.DROP)], orphan=False, run_id="r2", now=LATER)
    assert [path.name for path in tmp_path.iterdir()] == [part.path]


def test_a_survey_tells_parts_from_orphans_and_from_leftovers(tmp_path: Path) -> None:
    publish_rows(tmp_path, scored("a"), run_id="r1")
    [loser] = write(tmp_path, scored("a", size=4), run_id="r1")  # of a repeated attempt that did not count
    [orphan] = write(tmp_path, scored("b", "dead"), run_id="dead")
    [own] = write(tmp_path, scored("b", "me"), run_id="me")
    (tmp_path / "part-of-something.parquet").write_bytes(b"")
    found = take_inventory(str(tmp_path), "me")
    assert found.version == 0
    assert found.orphans == [orphan.path]
    assert not {loser.path, own.path} & {*found.parts, *found.orphans}
    assert len(found.parts) == 1
    assert take_inventory(str(tmp_path / "none"), "me") == Inventory(-1, [], [])


def test_a_part_knows_its_images(tmp_path: Path) -> None:
    rows = [scored("a", tile=(0, 2)), scored("a", tile=(1, 2)), scored("b", version=None, id_="B"), rejected("c")]
    [part] = write(tmp_path, *rows)
    a, b, c = read_part(str(tmp_path), part.path)
    recipe = rows[0].recipe
    assert a == Known(
        "a", part.path, False, "", "v1", digest_of("a"), recipe, ["scored"], [], 0, [(1.0, 0, 2), (1.0, 1, 2)]
    )
    assert (b.version, b.id, c.statuses, c.reasons, c.rejected) == ("", "B", ["rejected"], ["corrupt"], 1)
    assert all(known.orphan for known in read_orphan(str(tmp_path), part.path))


def test_damaged_orphans_are_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [part] = write(tmp_path, scored("a"), scored("b"))
    path, whole = tmp_path / part.path, (tmp_path / part.path).read_bytes()
    assert len(read_orphan(str(tmp_path), part.path)) == 2
    third = len(whole) // 3
    flipped = whole[:third] + bytes([whole[third] ^ 0xFF]) + whole[third + 1 :]
    damages = [whole[:-1], whole[: len(whole) // 2], b"", b"PAR1", flipped]
    for damage in damages:
        path.write_bytes(damage)
        assert read_orphan(str(tmp_path), part.path) == []
    path.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr(inventory, "map_digest", lambda *_, **__: "another")
        assert read_orphan(str(tmp_path), part.path) == []
    # Two contents of one image in one part: no telling which is the right one.
    [both] = write(tmp_path, scored("a"), scored("a", content="b"))
    assert read_orphan(str(tmp_path), both.path) == []


@pytest.mark.parametrize(("written", "adopted"), [(Rounding.EXACT, 1), (Rounding.BOUNDED, 0)])
def test_an_exact_run_adopts_exact_maps_only(tmp_path: Path, written: Rounding, adopted: int) -> None:
    row = scored("a")
    writer = PartWriter(str(tmp_path), row.run_id, row.model_digest, rounding=written)
    writer.add(row)
    part = writer.flush()
    assert part is not None
    assert len(read_orphan(str(tmp_path), part.path, Rounding.EXACT)) == adopted
    assert len(read_orphan(str(tmp_path), part.path, Rounding.BOUNDED)) == 1


def test_a_part_of_an_older_version_is_bounded() -> None:
    schema = pa.schema([])
    for metadata in ({}, {"densecast": '{"run_id": "r"}'}, {"densecast": '"r"'}, {"densecast": "{"}):
        assert rounding_of(schema.with_metadata(metadata)) is Rounding.BOUNDED


def publish_changes(root: Path, run_id: str, base: int, receipts: list[Receipt], removed: list[str]) -> int:
    changes = Changes(base, receipts, removed)
    return commit(str(root), changes, run_id=run_id, model_json=MODEL_JSON, summary={}).version


def test_old_rows_leave_in_the_transaction_that_brings_the_new_ones(tmp_path: Path) -> None:
    publish_rows(tmp_path, scored("a"), scored("b"))
    [part] = take_inventory(str(tmp_path), "r2").parts
    kept = rewrite(str(tmp_path), part, [Edit("a", part, Action.DROP)], orphan=False, run_id="r2", now=LATER)
    assert kept is not None
    new = write(tmp_path, scored("a", "r2", content="a2"), run_id="r2")
    assert publish_changes(tmp_path, "r2", 0, [kept, *new], [part]) == 1
    found = take_inventory(str(tmp_path), "r3")
    assert sorted(known.uri for p in found.parts for known in read_part(str(tmp_path), p)) == ["a", "b"]
    assert (tmp_path / part).exists()  # version 0 can still be read
    # Repeated by the runner: nothing new.
    assert publish_changes(tmp_path, "r2", 0, [kept, *new], [part]) == 1


def test_two_runs_publish_beside_each_other_unless_they_scored_the_same_images(tmp_path: Path) -> None:
    first, second, third = (
        write(tmp_path, scored(uri, run), run_id=run) for run, uri in (("r1", "a"), ("r2", "b"), ("r3", "a"))
    )
    assert publish_changes(tmp_path, "r1", -1, first, []) == 0
    assert publish_changes(tmp_path, "r2", -1, second, []) == 1
    with pytest.raises(ConflictError, match="same images while this one ran, a among them"):
        publish_changes(tmp_path, "r3", -1, third, [])
    with pytest.raises(ConflictError, match="same images"):
        publish_changes(tmp_path, "r3", 0, write(tmp_path, scored("b", "r3"), run_id="r3"), [])
    assert take_inventory(str(tmp_path), "r4").version == 1


def test_a_part_that_another_run_replaced_is_not_replaced_twice(tmp_path: Path) -> None:
    publish_rows(tmp_path, scored("a"), scored("b"))
    [part] = take_inventory(str(tmp_path), "").parts
    for run, uri in (("r2", "a"), ("r3", "b")):
        kept = rewrite(str(tmp_path), part, [Edit(uri, part, Action.DROP)], orphan=False, run_id=run, now=LATER)
        assert kept is not None
        receipts = [kept, *write(tmp_path, scored(uri, run, content="new"), run_id=run)]
        if run == "r2":
            assert publish_changes(tmp_path, run, 0, receipts, [part]) == 1
        else:
            with pytest.raises(ConflictError, match="1 parts that hold images of this run were rewritten"):
                publish_changes(tmp_path, run, 0, receipts, [part])
