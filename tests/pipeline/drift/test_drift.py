"""Drift: what moved, and by which images; equal sets differ by exactly nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from pipeline.drift.measure import (
    GROUPS,
    NoEarlierRunError,
    _add_cells,
    _Labels,
    choose_runs,
    measure_drift,
    tally_groups,
)
from pipeline.drift.statistics import BINS, Change, Tally, Thresholds, compare, jensen_shannon, judge
from pipeline.errors import TableError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Recipe
from pipeline.rejection import Reason
from pipeline.table.commit import Changes, commit
from pipeline.table.log import active_parts, open_delta
from pipeline.table.reader import MapTable
from pipeline.table.rows import MapRow, rows_to_arrow
from tests.support.stored_rows import MODEL, MODEL_JSON, rejected, scored, write

LABELS = ("ant", "bee", "cat")

cells = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1, width=32)), max_size=30)
counts = st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any)


def tally_of(found: list[tuple[int, float]], maps: int = 1, **reasons: int) -> Tally:
    tally = Tally(maps=maps)
    tally.reasons.update(reasons)
    best, scores = np.array([c for c, _ in found], np.int32), np.array([s for _, s in found], np.float32)
    tally.add_cells(LABELS, best, scores)
    return tally


class TestTallies:
    """Pure sums."""

    @given(cells, cells, cells)
    def test_sums_do_not_depend_on_the_order(self, a, b, c):
        x, y, z = map(tally_of, (a, b, c))
        assert x + y == y + x
        assert (x + y) + z == x + (y + z)
        together = tally_of(a + b + c, maps=3)
        assert x + y + z == together
        assert x + Tally() == x

    def test_another_tally_is_another(self):
        assert tally_of([(0, 0.5)]) != tally_of([(1, 0.5)])
        assert tally_of([(0, 0.5)]) != tally_of([(0, 0.25)])
        assert tally_of([], corrupt=1) != tally_of([])
        assert tally_of([]) != "a tally"

    @given(cells.filter(bool))
    def test_means_and_quantiles_are_numpys(self, found):
        tally = tally_of(found)
        scores = np.array([score for _, score in found])
        assert tally.confidence == pytest.approx(scores.mean(), abs=1e-6)
        for share in (0.05, 0.5, 0.95):
            expected = np.quantile(scores, share, method="inverted_cdf")
            assert tally.quantile(share) == pytest.approx(expected, abs=0.5 / BINS + 1e-6)

    def test_classes_without_a_name_are_called_by_their_number(self):
        assert set(tally_of([(0, 1), (4, 1)]).cells) == {"ant", "class 4"}

    def test_nothing_has_no_mean(self):
        empty = Tally()
        assert (empty.confidence, empty.rejection_rate, empty.quantile(0.5)) == (None, None, None)


class TestComparing:
    """Pure differences."""

    @given(counts, counts)
    def test_the_distance_is_scipys_and_a_metric(self, p, q):
        size = max(len(p), len(q))
        x, y = (np.pad(np.array(v, float), (0, size - len(v))) for v in (p, q))
        found = jensen_shannon(x, y)
        # scipy leaves NaN, or a root of rounding errors, where they are all but equal.
        assert found == pytest.approx(float(np.nan_to_num(jensenshannon(x, y, base=2))), abs=1e-7)
        assert found == jensen_shannon(y, x)
        assert 0 <= found <= 1
        assert jensen_shannon(x, x) == 0

    @given(cells, cells)
    def test_the_other_way_about_is_the_same_with_other_signs(self, a, b):
        x, y = tally_of(a, corrupt=1), tally_of(b, maps=3)
        there, back = compare(x, y), compare(y, x)
        assert (there.distance, there.before, there.after) == (back.distance, back.after, back.before)
        assert {c.name: c.change for c in there.classes} == {c.name: -c.change for c in back.classes}
        if there.confidence is not None and back.confidence is not None:
            assert there.confidence == -back.confidence
        assert there.rejection_rate == -0.5

    @given(cells)
    def test_a_set_does_not_differ_from_itself(self, found):
        change = compare(tally_of(found), tally_of(found))
        assert change.distance in (0, None)
        assert change.confidence in (0, None)
        assert change.rejection_rate == 0
        assert all(c.change == 0 for c in change.classes)

    def test_by_hand(self):
        change = compare(
            tally_of([(0, 0.5), (0, 1.0), (1, 0.5), (1, 0.5)]), tally_of([(0, 0.75), (2, 0.25)], 3, gone=1)
        )
        assert change.largest is not None
        assert (change.largest.name, change.largest.change) == ("bee", -0.5)
        ant = next(c for c in change.classes if c.name == "ant")
        assert (ant.before, ant.after, ant.probability_before, ant.probability_after) == (0.5, 0.5, 0.75, 0.75)
        assert change.classes[0].probability_after is None
        assert (change.confidence, change.rejection_rate) == (-0.125, 0.25)
        assert change.distance == pytest.approx(np.sqrt(0.5))

    def test_of_nothing_no_area_can_be_told(self):
        change = compare(Tally(), tally_of([(0, 1)]))
        assert (change.distance, change.confidence, change.largest, change.classes) == (None, None, None, ())


class TestJudging:
    """Thresholds."""

    STILL = compare(tally_of([(0, 0.5)] * 4), tally_of([(0, 0.5)] * 4))
    MOVED = compare(tally_of([(0, 0.5)] * 4, 100), tally_of([(0, 0.5)] * 3 + [(1, 1.0)], 100, corrupt=100))

    def groups(self, **changes: Change) -> dict[str, Change]:
        return {**dict.fromkeys(GROUPS, self.STILL), **changes}

    @pytest.mark.parametrize(
        ("limit", "measure", "value"),
        [
            ("max_area", "area", 0.25),
            ("max_confidence", "confidence", 0.125),
            ("max_rejections", "rejections", 0.5),
            ("max_distance", "distance", MOVED.distance),
        ],
    )
    def test_each_limit_is_of_its_measure_and_may_be_reached(self, limit: str, measure: str, value: Any):
        groups = self.groups(all=self.MOVED)
        assert not judge(groups, Thresholds(**{limit: value}))
        (found,) = judge(groups, Thresholds(**{limit: value - 0.001}))
        assert (found.group, found.measure, found.value) == ("all", measure, value)
        assert measure in str(found)

    def test_without_limits_nothing_is_too_much(self):
        assert not Thresholds().any
        assert not judge(self.groups(all=self.MOVED, new=self.MOVED), Thresholds())
        assert Thresholds(max_area=0).any

    def test_few_maps_are_judged_only_as_part_of_all(self):
        limits: Any = {"max_area": 0.1, "min_maps": 101}
        assert not judge(self.groups(new=self.MOVED, model=self.MOVED), Thresholds(**limits))
        assert judge(self.groups(all=self.MOVED), Thresholds(**limits))
        found = judge(self.groups(new=self.MOVED, model=self.MOVED), Thresholds(max_area=0.1, min_maps=100))
        assert {(each.group, each.detail) for each in found} == {("new", "ant"), ("model", "ant")}

    def test_images_that_were_edited_or_have_left_may_differ(self):
        groups = self.groups(edited=self.MOVED, deleted=self.MOVED, same=self.MOVED)
        assert not judge(groups, Thresholds(max_area=0, min_maps=0))

    def test_fewer_rejections_are_no_drift(self):
        better = compare(tally_of([(0, 0.5)], 1, corrupt=1), tally_of([(0, 0.5)], 2))
        assert better.rejection_rate == -0.5
        assert not judge(self.groups(all=better), Thresholds(max_rejections=0.0))


class Nights:
    """A table that each night replaces as a whole, or grows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def publish(self, *rows: MapRow, keep: bool = True) -> int:
        """Publishes rows of the next run, each in a part of its own; returns the version."""
        self._count += 1
        run_id = f"r{self._count}"
        table = open_delta(str(self.root))
        removed = tuple(sorted(active_parts(table))) if table is not None and not keep else ()
        receipts = [receipt for row in rows for receipt in write(self.root, row, run_id=run_id)]
        changes = Changes(table.version() if table is not None else -1, receipts, removed)
        summary = {"images": {"listed": len(rows)}}
        return commit(str(self.root), changes, run_id=run_id, model_json=MODEL_JSON, summary=summary).version

    def tallies(self, before: int, after: int) -> dict[str, tuple[int, int]]:
        """Maps and rejections by group."""
        groups = tally_groups(str(self.root), before, after)
        return {
            name: tuple(t.maps + t.reasons.total() for t in pair)  # type: ignore[misc]  # two of them
            for name, pair in groups.items()
        }


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path / "maps")


OTHER = Recipe(MODEL, scales=(1.0, 2.0))


def test_a_table_does_not_differ_from_itself_nor_from_its_copy(nights: Nights):
    rows = [scored("a", size=2), scored("b"), rejected("c"), scored("d", tile=(0, 2)), scored("d", tile=(1, 2))]
    nights.publish(*rows)
    nights.publish(*(row_of(row, "r2") for row in rows), keep=False)
    for pair in ((0, 0), (1, 1), (0, 1), (1, 0)):
        groups = tally_groups(str(nights.root), *pair)
        assert groups["all"][0] == groups["all"][1] == groups["same"][0]
        assert groups["all"][0].area == 4 + 9 + 18
        assert (groups["all"][0].maps, groups["all"][0].reasons) == (3, {"corrupt": 1})
        for name in ("model", "edited"):
            assert groups[name] == (Tally(), Tally())
        assert groups["new"][1] == groups["deleted"][0] == Tally()


def row_of(row: MapRow, run_id: str) -> MapRow:
    return replace(row, run_id=run_id)


def test_images_are_told_apart_by_what_became_of_them(nights: Nights):
    first = [scored("same"), scored("edited", content="1"), scored("remade"), scored("left"), rejected("bad")]
    second = [
        scored("same", "r2"),
        scored("edited", "r2", content="2"),
        scored("remade", "r2", recipe=OTHER),
        scored("came", "r2"),
        rejected("bad", "r2", Reason.TRUNCATED),
    ]
    nights.publish(*first)
    nights.publish(*second, keep=False)
    assert nights.tallies(0, 1) == {
        "all": (5, 5),
        "same": (2, 2),
        "edited": (1, 1),
        "model": (1, 1),
        "new": (5, 1),
        "deleted": (1, 5),
    }
    assert tuple(tally_groups(str(nights.root), 0, 1)) == GROUPS
    there, back = (tally_groups(str(nights.root), *pair) for pair in ((0, 1), (1, 0)))
    mirrored = {"new": "deleted", "deleted": "new"}
    for name in GROUPS:
        assert there[name] == back[mirrored.get(name, name)][::-1], name


def test_new_images_leave_the_other_groups_alone(nights: Nights):
    nights.publish(scored("a"), scored("b"), rejected("c"))
    nights.publish(scored("d", "r2", size=5), rejected("e", "r2", Reason.TRUNCATED))
    groups = tally_groups(str(nights.root), 0, 1)
    assert groups["same"][0] == groups["same"][1] == groups["all"][0] == groups["new"][0]
    assert groups["new"][1].area == 25
    assert groups["all"][1] == groups["all"][0] + groups["new"][1]
    assert groups["model"] == groups["edited"] == (Tally(), Tally())


def test_cells_are_those_of_the_maps_whatever_they_keep(nights: Nights):
    """Rows of several lengths of lists beside each other; the sums are those of the maps read one by one."""
    nights.publish(scored("a"), scored("b", size=2), scored("c", size=4))
    expected = Tally()
    for found in MapTable(nights.root):
        expected.maps += 1
        expected.add_cells(found.labels, found.classes[..., 0].ravel(), found.scores[..., 0].ravel())
    labels = set(expected.cells)
    assert labels <= {"ant", "bee", "cat, feline", "dog"}
    assert tally_groups(str(nights.root), 0, 0)["all"][0] == expected


def test_maps_that_keep_more_classes_are_no_other_area(tmp_path: Path):
    rows = []
    for index, k in enumerate((1, 2, 3, 2)):
        row = scored(f"{index}")
        best = np.arange(9, dtype=np.int32) % 3
        classes = np.stack([(best + step) % 3 for step in range(k)], -1)
        cells_of = CellScores(classes, np.full((9, k), 0.25, np.float32), np.zeros(9, np.float32))
        rows.append(replace(row, classes=cells_of.classes.ravel(), scores=cells_of.scores.ravel()))
    tally = Tally()
    _add_cells(tally, rows_to_arrow(rows), LABELS)
    assert tally.cells == {"ant": 12, "bee": 12, "cat": 12}
    assert tally.confidence == 0.25


def test_deleted_images_are_not_there(nights: Nights):
    nights.publish(scored("a"), scored("b"))
    gone = replace(scored("b", "r2"), status="deleted", classes=None, scores=None, residual=None)
    nights.publish(scored("a", "r2"), gone, keep=False)
    assert nights.tallies(0, 1) == {
        "all": (2, 1),
        "same": (1, 1),
        "edited": (0, 0),
        "model": (0, 0),
        "new": (2, 0),
        "deleted": (1, 1),
    }


class TestReports:
    """`measure_drift`."""

    def test_the_last_run_against_the_one_before_that_added_maps(self, nights: Nights):
        nights.publish(scored("a"))
        nights.publish(scored("b", "r2"))
        nights.publish(rejected("c", "r3"))
        nights.publish()
        report = measure_drift(str(nights.root))
        assert (report.run.run_id, report.against.run_id) == ("r4", "r2")
        assert report.groups["all"].after.reasons == {"corrupt": 1}
        report = measure_drift(str(nights.root), "r2", thresholds=Thresholds(max_area=0.0, min_maps=0))
        assert (report.run.run_id, report.against.run_id, report.against.version) == ("r2", "r1", 0)
        assert {each.group for each in report.exceeded} == {"all", "new"}
        assert type(report).model_validate_json(report.model_dump_json()) == report
        assert report.judged(Thresholds()).exceeded == ()
        assert report.judged(Thresholds()).judged(report.thresholds) == report

    def test_the_first_run_has_nothing_to_be_compared_with(self, nights: Nights):
        nights.publish(scored("a"))
        with pytest.raises(NoEarlierRunError, match="r1"):
            measure_drift(str(nights.root))

    def test_unknown_runs_are_named(self, nights: Nights):
        nights.publish(scored("a"))
        nights.publish(scored("b", "r2"))
        with pytest.raises(TableError, match=r"no run 'r22'(.|\n)*did you mean r2\?"):
            measure_drift(str(nights.root), "r22")
        with pytest.raises(TableError, match="densecast runs"):
            measure_drift(str(nights.root), against="something else")

    def test_a_vacuumed_version_is_said_to_be_one(self, nights: Nights):
        nights.publish(scored("a"))
        before = [Path(path) for path in MapTable(nights.root).files()]
        nights.publish(scored("a", "r2"), keep=False)
        for path in before:
            path.unlink()
        with pytest.raises(TableError, match="vacuumed"):
            measure_drift(str(nights.root))

    def test_no_run_at_all(self):
        with pytest.raises(TableError, match="has no summaries of runs"):
            choose_runs("maps", [], None, None)

    def test_all_classes_are_kept_of_all_and_the_largest_changes_of_others(self, nights: Nights):
        nights.publish(*(scored(f"a{n}") for n in range(3)))
        nights.publish(scored("b", "r2"))
        groups = measure_drift(str(nights.root)).groups
        for group in groups.values():
            changes = [abs(c.change) for c in group.classes]
            assert changes == sorted(changes, reverse=True)
        assert groups["all"].largest == groups["all"].classes[0]


def test_two_classes_of_one_name_are_two(tmp_path: Path):
    labels = _Labels({"m": ("crane", "bee", "crane")})
    assert labels.of("m") == ["crane (class 0)", "bee", "crane (class 2)"]
    assert labels.of("another") == []
