from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.decoding_rules import Currency, Decoding, Rules, rules
from pipeline.sources import ImageReference
from pipeline.table.rewrite import Action, Edit
from pipeline.transforms.reconcile import Decision, Known, Outcome, Policy, decide
from pipeline.transforms.shuffle import BUCKETS, bucket_of, pack, unpack

URI = "/photos/a.jpg"
MADE = {
    "recipe": Decoding("JPEG"),
    "untyped": Decoding(),
    "old tiff": Decoding("TIFF"),
    "new tiff": Decoding("TIFF", 2),
}
STEADY = {name: Rules() for name in rules()}


def policy(*settings: Any, **more: Any) -> Policy:
    """A policy under which no decoding rules have changed, unless it says so."""
    return Policy(MADE, *settings, **{"rules": STEADY, **more})


POLICY = policy()
LISTED = ImageReference(URI, version="v1")


def known(part: str = "p1", **changes: object) -> Known:
    facts = {
        "uri": URI,
        "part": part,
        "orphan": part.startswith("o"),
        "id": "",
        "version": "v1",
        "digest": "d1",
        "recipe": "recipe",
        "statuses": ["scored"],
        "reasons": [],
        "rejected": 0,
        "slots": [(1.0, 0, 1)],
    }
    return Known(**{**facts, **changes})  # the values are those of Known


def outcome(decision: Decision) -> tuple[str, list[tuple[str, str]]]:
    return str(decision.outcome), [(edit.part, edit.action) for edit in decision.edits]


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ([], ("score", [])),
        ([known()], ("keep", [])),
        ([known(version="v0")], ("probe", [])),
        ([known(recipe="another")], ("score", [("p1", "drop")])),
        ([known(statuses=["deleted"])], ("score", [("p1", "drop")])),
        ([known(statuses=["rejected"])], ("keep", [])),
        ([known(statuses=["rejected"], digest="")], ("probe", [])),
        ([known(slots=[(1.0, 0, 2)])], ("score", [("p1", "drop")])),
        ([known(slots=[(0.5, 0, 1)])], ("score", [("p1", "drop")])),
        ([known("p1"), known("p2", recipe="another")], ("score", [("p1", "drop"), ("p2", "drop")])),
        ([known("p1"), known("p2", digest="d2")], ("score", [("p1", "drop"), ("p2", "drop")])),
    ],
    ids=[
        *("new", "same", "touched", "other model", "back again", "known bad", "unread"),
        *("a tile is gone", "a scale is gone", "two recipes", "two contents"),
    ],
)
def test_what_becomes_of_a_listed_image(current: list[Known], expected: object) -> None:
    assert outcome(decide(URI, LISTED, POLICY, current=current)) == expected


CHANGED = policy(rules={**STEADY, "JPEG": Rules(2, 1), "TIFF": Rules(2, 2)})


def of(uri: str, **changes: object) -> list[Known]:
    return [known(**{"uri": uri, "recipe": "untyped", **changes})]


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (of("a.jpg"), Currency.CURRENT),
        (of("a.jpg", statuses=["rejected"]), Currency.OUTDATED),
        (of("a.jpg", statuses=["rejected"], digest=""), Currency.CURRENT),
        (of("a.png", statuses=["rejected"]), Currency.CURRENT),
        (of("shard.tar#b.TIF"), Currency.OUTDATED),
        (of("maps.parquet#17"), Currency.UNCERTAIN),
        (of("maps.parquet#17", recipe="recipe"), Currency.CURRENT),
        (of("maps.parquet#17", recipe="old tiff"), Currency.OUTDATED),
        (of("a.jpg", recipe="new tiff"), Currency.CURRENT),
        (of("a.jpg", recipe="another"), Currency.OUTDATED),
    ],
)
def test_maps_of_older_decoding_rules(current: list[Known], expected: Currency) -> None:
    assert CHANGED.currency(current) is expected


def test_what_becomes_of_maps_of_older_decoding_rules() -> None:
    def becomes(uri: str, **changes: object) -> Outcome:
        return decide(uri, ImageReference(uri, version="v1"), CHANGED, current=of(uri, **changes)).outcome

    assert becomes("a.tif") is Outcome.SCORE
    assert becomes("a.jpg") is Outcome.KEEP
    assert becomes("17") is Outcome.PROBE
    assert becomes("17", recipe="recipe") is Outcome.KEEP
    orphans = [known("o1", uri="a.tif", recipe=name) for name in ("untyped", "old tiff")]
    listed = ImageReference("a.tif", version="v1")
    assert decide("a.tif", listed, CHANGED, orphans=orphans).outcome is Outcome.SCORE
    newer = known("o2", uri="a.tif", recipe="new tiff")
    assert [edit.part for edit in decide("a.tif", listed, CHANGED, orphans=[*orphans, newer]).edits] == ["o2"]


def test_the_type_of_a_file_that_was_read_counts_more_than_its_name() -> None:
    assert CHANGED.currency(of("a.jpg"), "TIFF") is Currency.OUTDATED
    assert CHANGED.currency(of("17"), "JPEG") is Currency.CURRENT


def test_an_image_whose_listing_has_no_version_is_looked_at() -> None:
    assert decide(URI, LISTED._replace(version=""), POLICY, current=[known(version="")]).outcome is Outcome.PROBE


def test_another_id_is_written_down_and_none_is_forgotten() -> None:
    [edit] = decide(URI, LISTED._replace(id="mine"), POLICY, current=[known(id="old")]).edits
    assert edit == Edit(URI, "p1", Action.UPDATE, "v1", "mine", recipe="recipe")
    assert decide(URI, LISTED, POLICY, current=[known(id="old")]).outcome is Outcome.KEEP


def test_another_label_is_written_down_and_none_is_forgotten() -> None:
    [edit] = decide(URI, LISTED._replace(label="281"), POLICY, current=[known(id="old")]).edits
    assert edit == Edit(URI, "p1", Action.UPDATE, "v1", "old", recipe="recipe", label="281")
    assert decide(URI, LISTED, POLICY, current=[known(label="281")]).outcome is Outcome.KEEP


def test_rejected_images_are_tried_again_on_demand_and_all_images_too() -> None:
    bad, good = [known(statuses=["rejected"], rejected=2)], [known()]
    assert decide(URI, LISTED, POLICY, current=bad).rejected == 2
    retry = policy(retry_rejected=True)
    assert outcome(decide(URI, LISTED, retry, current=bad)) == ("score", [("p1", "drop")])
    assert decide(URI, LISTED, retry, current=good).outcome is Outcome.KEEP
    anew = policy(rescore=True)
    assert outcome(decide(URI, LISTED, anew, current=good, orphans=[known("o1")])) == ("score", [("p1", "drop")])


def test_only_a_run_that_prunes_marks_what_is_not_listed() -> None:
    prune = policy(prune=True)
    assert outcome(decide(URI, None, POLICY, current=[known()])) == ("absent", [])
    assert outcome(decide(URI, None, prune, current=[known(), known("p2")])) == (
        "delete",
        [("p1", "delete"), ("p2", "delete")],
    )
    assert outcome(decide(URI, None, prune, current=[known(statuses=["deleted"])])) == ("absent", [])
    assert outcome(decide(URI, None, prune, orphans=[known("o1")])) == ("absent", [])


def test_what_a_dead_run_has_finished_is_adopted_and_nothing_else() -> None:
    def adopted(*orphans: Known, policy: Policy = POLICY, reference: ImageReference = LISTED) -> object:
        return outcome(decide(URI, reference, policy, orphans=orphans))

    score = ("score", [])
    assert adopted(known("o1")) == ("adopt", [("o1", "adopt")])
    assert adopted(known("o1", version="v0")) == score
    assert adopted(known("o1", recipe="another")) == score
    assert adopted(known("o1", statuses=["rejected"])) == score
    assert adopted(known("o1", version=""), reference=LISTED._replace(version="")) == score
    tiles = known("o1", slots=[(1.0, 0, 3), (1.0, 1, 3)])
    assert adopted(tiles) == score
    assert adopted(tiles, known("o2", slots=[(1.0, 2, 3)])) == ("adopt", [("o1", "adopt"), ("o2", "adopt")])
    two = policy((1.0, 0.5))
    assert adopted(known("o1"), policy=two) == score
    assert adopted(known("o1"), known("o2", slots=[(0.5, 0, 1)]), policy=two)[0] == "adopt"  # type: ignore[index]
    assert adopted(known("o1", slots=[(1.0, 0, 1), (2.0, 0, 1)])) == score
    # A changed image whose new map a dead run had finished: neither looked at nor scored again.
    changed = outcome(decide(URI, LISTED, POLICY, current=[known(version="v0")], orphans=[known("o1")]))
    assert changed == ("adopt", [("o1", "adopt"), ("p1", "drop")])


def test_rows_that_two_attempts_left_are_adopted_once() -> None:
    attempts = [known("o2", slots=[(1.0, 0, 2), (1.0, 1, 2)]), known("o1", slots=[(1.0, 1, 2)])]
    decision = decide(URI, LISTED, POLICY, current=[known("p1", recipe="old")], orphans=attempts)
    slots = Counter(tuple(slot) for edit in decision.edits for slot in edit.slots)
    assert slots == {(1.0, 0): 1, (1.0, 1): 1}
    assert decision.edits[-1] == Edit(URI, "p1", Action.DROP)


@given(
    listed=st.none() | st.sampled_from(["", "v1", "v2"]),
    current=st.lists(st.tuples(st.sampled_from(["v1", "v2", ""]), st.sampled_from(["recipe", "b"])), max_size=2),
    orphans=st.lists(st.tuples(st.sampled_from(["v1", "v2"]), st.sampled_from(["d1", "d2"])), max_size=3),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    statuses=st.sampled_from(["scored", "rejected", "deleted"]),
)
def test_a_listed_image_ends_in_one_set_of_rows(
    listed: str | None,
    current: list[tuple[str, str]],
    orphans: list[tuple[str, str]],
    flags: tuple[bool, bool, bool],
    statuses: str,
) -> None:
    """The invariant: rows stay, or are replaced as a whole; never both, never neither."""
    reference = None if listed is None else ImageReference(URI, version=listed)
    there = [known(f"p{i}", version=v, recipe=r, statuses=[statuses]) for i, (v, r) in enumerate(current)]
    left = [known(f"o{i}", version=v, digest=d) for i, (v, d) in enumerate(orphans)]
    decision = decide(URI, reference, policy((1.0,), *flags), current=there, orphans=left)
    done = Counter(edit.action for edit in decision.edits)
    parts = {edit.part for edit in decision.edits if edit.action != Action.ADOPT}
    if decision.outcome in (Outcome.SCORE, Outcome.ADOPT):
        assert done[Action.DROP] == len(there)
        assert parts == {record.part for record in there}
        assert done[Action.ADOPT] == (decision.outcome is Outcome.ADOPT)
    elif decision.outcome in (Outcome.KEEP, Outcome.UPDATE, Outcome.PROBE):
        assert there
        assert reference is not None
        assert done.keys() <= {Action.UPDATE}
    else:
        assert reference is None
        assert done.keys() <= {Action.DELETE}


@given(st.lists(st.text()))
def test_records_come_back_from_their_pack(uris: list[str]) -> None:
    records = [known(uri=uri) for uri in (*uris, "caf\udce9.jpg")]
    again = list(unpack(pack(records), Known))
    assert [record.uri for record in again] == [record.uri for record in records]
    assert all(0 <= bucket_of(uri) < BUCKETS for uri in uris)


def test_a_pack_is_small() -> None:
    uris = [f"/data/collection/2026/{number // 1000:03d}/photo-{number:07d}.jpg" for number in range(10_000)]
    buckets = itertools.groupby(sorted(uris, key=bucket_of), key=bucket_of)
    size = sum(len(pack([ImageReference(uri, version=f"123-{hash(uri)}") for uri in some])) for _, some in buckets)
    assert size / len(uris) < 100


def test_names_that_are_no_utf_8_are_edited_under_the_name_that_the_table_has() -> None:
    raw, stored = "/caf\udce9.png", r"/caf\udce9.png"
    listed = ImageReference(raw, version="v1")
    [update] = decide(stored, listed, POLICY, current=[known(uri=stored, id="x", version="v1")]).edits or [None]
    assert update is None
    [update] = decide(stored, listed._replace(id="y"), POLICY, current=[known(uri=stored)]).edits
    [adopt] = decide(stored, listed, POLICY, orphans=[known("o1", uri=stored)]).edits
    assert (update.uri, adopt.uri) == (stored, stored)


def test_a_map_is_adopted_rather_than_the_rejection_of_another_attempt() -> None:
    left = [known("o1", statuses=["rejected"], reasons=["out-of-memory"]), known("o2")]
    assert outcome(decide(URI, LISTED, POLICY, orphans=left)) == ("adopt", [("o2", "adopt")])


def test_of_attempts_that_were_cut_differently_none_is_adopted() -> None:
    left = [known("o1", slots=[(1.0, 0, 2)]), known("o2", slots=[(1.0, 1, 3)])]
    assert decide(URI, LISTED, POLICY, orphans=left).outcome is Outcome.SCORE


def test_a_retry_does_not_adopt_what_a_dead_run_rejected() -> None:
    left = [known("o1", statuses=["rejected", "scored"], slots=[(1.0, 0, 1), (0.5, 0, 1)])]
    two = policy((1.0, 0.5))
    assert decide(URI, LISTED, two, orphans=left).outcome is Outcome.ADOPT
    assert decide(URI, LISTED, dataclasses.replace(two, retry_rejected=True), orphans=left).outcome is Outcome.SCORE
