"""A map as a table in a terminal."""

import numpy as np
import pytest
from rich.console import Console

from pipeline.maps.classification_map import ClassificationMap
from pipeline.visualization.palette import class_color
from pipeline.visualization.terminal_grid import grid
from tests.support.example_maps import make_map


def lines_of(map_: ClassificationMap, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(grid(map_, width=width))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_narrow_map_is_a_table_of_names() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    assert lines_of(make_map([[0, 0], [2, 1]], labels), 60) == [
        "pages/1.png",
        "        0             1",
        "0     tabby         tabby",
        "1       \u00b7        Egyptian cat",
        "",
        "   tabby 50%     Egyptian cat 25%   \u00b7  background 25%",
    ]


def test_names_are_cut_before_they_are_replaced() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    lines = lines_of(make_map([[0, 0, 1], [2, 1, 1]], labels), 40)
    assert lines[2] == "0    tabby       tabby     Egyptian\u2026"


def test_a_wide_map_is_folded_to_letters_with_a_legend() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    assert lines_of(make_map([[0, 0, 0, 1, 2]] * 2, labels), 30) == [
        "pages/1.png",
        "0 a a a b \u00b7",
        "1 a a a b \u00b7",
        "",
        " a  tabby 60%",
        " b  Egyptian cat 20%",
        " \u00b7  background 20%",
    ]


def test_names_of_one_character_are_kept() -> None:
    best = np.full((2, 80), 10)
    best[0, :4] = [7, 7, 0, 3]
    lines = lines_of(make_map(best), 100)
    assert lines[1] == "0 7703" + "\u00b7" * 76
    assert " 7  1.2%" in lines[-1]


def test_a_very_wide_map_is_shown_in_blocks() -> None:
    best = np.full((4, 200), 10)
    best[:, 100:] = 7
    best[0, 0] = 3
    lines = lines_of(make_map(best), 80)
    assert lines[1] == "0 " + "\u00b7" * 33 + "7" * 34
    assert lines[2].startswith("3 ")
    assert any("a letter for 3 x 3 cells" in line for line in lines)


def test_more_classes_than_letters_share_a_star() -> None:
    lines = lines_of(make_map(np.arange(60).reshape(2, 30), labels=()), 80)
    assert lines[1].split()[1:] == list("abcdefghijklmnopqrstuvwxyz") + ["*"] * 4
    assert lines[-1].endswith("*  34 more classes 57%")


@pytest.mark.parametrize("width", [30, 60, 100, 200])
@pytest.mark.parametrize("columns", [1, 8, 44, 200])
def test_the_table_keeps_to_its_width(columns: int, width: int) -> None:
    labels = tuple(f"quite a long name {i} \u6f22\u5b57" for i in range(40))
    best = np.random.default_rng(0).integers(0, 40, (5, columns))
    assert max(map(len, lines_of(make_map(best, labels), width))) <= width


def test_wide_letters_keep_the_columns_straight() -> None:
    labels = ("\u6f22\u5b57", "ab", "background")
    lines = lines_of(make_map([[0, 1], [1, 0]], labels), 40)
    assert lines[2:4] == ["0  \u6f22\u5b57   ab", "1   ab   \u6f22\u5b57"]


def test_colours_of_the_table_are_those_of_the_overlay() -> None:
    console = Console(width=80, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(grid(make_map([[7, 10]]), width=80))
    red, green, blue = class_color(7)
    assert f"48;2;{red};{green};{blue}m" in capture.get()


def test_escape_sequences_reach_no_terminal() -> None:
    lines = lines_of(make_map([[0]], labels=("evil\x1b[2J",), uri="x\x1b[2J\n.png"), 60)
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "x\\x1b[2J\\n.png"
