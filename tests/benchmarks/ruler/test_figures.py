import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.benchmarks.ruler.figures import Contestant, Outcome, order, play_rounds, seconds_of
from tests.benchmarks.ruler.plot import plot, ticks
from tests.benchmarks.ruler.report import as_json
from tests.benchmarks.ruler.serve import timed
from tests.benchmarks.ruler.table import cell_table, summary


def contestant(label: str, kind: str, *turns: float, difference: float | None = None) -> Contestant:
    return Contestant(label, kind, f"{label} 1.0", 2.0, 200.0, 300.0, list(turns), difference)


def outcome(*contestants: Contestant) -> Outcome:
    return Outcome(
        cell="Net, 8 x 8, batch 1",
        net="net",
        side=8,
        batch=1,
        gflop=1.5,
        product_gflop=10.0,
        contestants=list(contestants),
        left_out={},
    )


OURS = contestant("densecast x", "ours", 0.02, 0.03, 0.08, difference=1e-6)
FAST = contestant("Fast", "peer", 0.01, 0.02, 0.03)
SLOW = contestant("Slow", "peer", 0.04, 0.05, 0.06)
PEAK = contestant("matrix product", "peak", 0.2, 0.1, 0.3)
MEASURED = outcome(OURS, SLOW, FAST, PEAK)
ALONE = outcome(OURS)


@given(st.integers(1, 9), st.integers(0, 40))
def test_each_has_one_turn_a_round(count: int, round_: int):
    assert sorted(order(range(count), round_)) == list(range(count))


@given(st.integers(1, 9))
def test_each_begins_equally_often_and_follows_each_neighbour_equally_often(count: int):
    rounds = [order(range(count), round_) for round_ in range(2 * count)]
    assert sorted(names[0] for names in rounds) == sorted([*range(count), *range(count)])
    pairs = [pair for names in rounds for pair in itertools.pairwise(names)]
    assert all(pairs.count((a, b)) == pairs.count((b, a)) for a, b in pairs)


@pytest.mark.parametrize(("runs", "seconds"), [([3.0], 3.0), ([9.0, 2.0], 2.0), ([9.0, 2.0, 1.0, 4.0], 2.0)])
def test_the_first_of_several_runs_does_not_count(runs: list[float], seconds: float):
    assert seconds_of(runs) == seconds


@pytest.mark.parametrize(("each", "runs"), [(1.0, 1), (0.06, 2), (0.03, 4)])
def test_a_turn_lasts_so_long_and_has_at_least_one_run(each: float, runs: int):
    now = 0.0

    def run() -> None:
        nonlocal now
        now += each

    assert timed(run, 0.1, clock=lambda: now) == pytest.approx([each] * runs)


@pytest.mark.parametrize(
    ("each", "rounds", "budget", "played", "first_counts"),
    [
        (1.0, 5, 25.0, 6, False),
        (1.0, 5, 4.0, 4, False),  # at least two count
        (1.0, 5, 0.0, 3, False),
        (6.0, 5, 25.0, 4, True),
        (40.0, 5, 25.0, 2, True),
        (40.0, 1, 25.0, 1, True),
        (1.0, 1, 0.0, 2, False),
        (40.0, 3, math.inf, 3, True),
    ],
)
def test_a_budget_ends_the_rounds(each, rounds, budget, played, first_counts):
    now, numbers = 0.0, []

    def play(number: int) -> None:
        nonlocal now
        now += each
        numbers.append(number)

    assert play_rounds(play, rounds, budget, clock=lambda: now) == first_counts
    assert numbers == list(range(played))


def test_ratios_are_taken_round_by_round_against_the_fastest_peer():
    assert MEASURED.fastest is FAST
    assert MEASURED.ratio(OURS) == pytest.approx(2.0)  # 2, 1.5, 2.67
    assert MEASURED.ratio(FAST) == 1.0


def test_the_peak_is_the_best_turn_of_the_matrix_product():
    assert MEASURED.peak == pytest.approx(100.0)
    assert MEASURED.gflops(OURS) == pytest.approx(50.0)


def test_without_peers_and_product_there_are_times_alone():
    assert (ALONE.fastest, ALONE.ratio(OURS), ALONE.peak) == (None, None, None)
    assert _text(cell_table(ALONE))[-2].split() == ["│", "densecast", "x", "1.0", *_cells("30.0 - - 2.0 300 1.0e-06")]


def test_table_of_a_cell():
    lines = _text(cell_table(MEASURED))
    assert lines[0] == "Net, 8 x 8, batch 1; matrix product 100 GFLOP/s"
    rows = [line.strip("│ ").split("│") for line in lines if " 1.0 " in line]
    assert [[text.strip() for text in row] for row in rows] == [
        ["Fast 1.0", "20.0", "1.00", "75%", "2.0", "300", "-"],
        ["densecast x 1.0", "30.0", "2.00", "50%", "2.0", "300", "1.0e-06"],
        ["Slow 1.0", "50.0", "2.50", "30%", "2.0", "300", "-"],
    ]


def test_summary_has_a_row_for_each_cell():
    rows = [line.strip("│ ").split("│") for line in _text(summary([MEASURED, ALONE])) if "batch 1" in line]
    assert [[text.strip() for text in row] for row in rows] == [
        ["Net, 8 x 8, batch 1", "30.0", "50.0", "20.0", "2.00"],
        ["Net, 8 x 8, batch 1", "30.0", "-", "-", "-"],
    ]


def test_json_holds_each_turn_and_what_follows():
    found = json.loads(json.dumps(as_json(MEASURED)))
    ours = next(each for each in found["contestants"] if each["kind"] == "ours")
    assert ours["turns"] == OURS.turns
    assert (ours["median_ms"], ours["ratio"], ours["share_of_peak"]) == pytest.approx((30.0, 2.0, 0.5))
    assert found["peak_gflops"] == pytest.approx(100.0)


def test_picture_names_cells_and_engines(tmp_path):
    plot([MEASURED, ALONE], tmp_path / "figures.svg", "a machine")
    text = (tmp_path / "figures.svg").read_text()
    assert all(
        f"<!-- {word} -->" in text for word in ("a machine", "Net, 8 x 8, batch 1", "densecast x", "Fast", "Slow")
    )


def test_picture_has_ticks_also_where_no_time_is_twice_another(tmp_path):
    plot([outcome(OURS, FAST, contestant("Near", "peer", 0.014, 0.028, 0.042))], tmp_path / "figures.svg", "a machine")
    text = (tmp_path / "figures.svg").read_text()
    assert all(f"<!-- {tick} -->" in text for tick in ("1", "1.25", "1.5"))


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(0.9, 1.9, [1, 1.25, 1.5, 1.75]), (0.75, 11, [0.75, 1, 1.5, 2, 3, 4, 6, 8]), (0.8, 70, [1, 2, 4, 8, 16, 32, 64])],
)
def test_labels_of_ticks_do_not_meet(least, most, expected):
    assert ticks(least, most) == expected


def _text(table) -> list[str]:
    console = Console(width=160, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def _cells(row: str) -> list[str]:
    return [word for text in row.split() for word in ("│", text)] + ["│"]
