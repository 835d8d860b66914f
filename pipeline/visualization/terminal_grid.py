"""Shows a map as a coloured table in a terminal."""

from collections.abc import Mapping
from string import ascii_lowercase

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.table import Table
from rich.text import Text

from conversion.errors import one_line
from pipeline.maps.classification_map import ClassificationMap, Integers
from pipeline.maps.labels import Share, is_background, shares
from pipeline.units import format_share
from pipeline.visualization.palette import Color, distinct_colors, ink_on

_OTHER = "*"
_EMPTY = "·"
_SHORTEST_NAME = 7  # letters; if names have to be cut shorter, single letters and the legend are clearer
_FAINT = Style(dim=True)


def grid(map_: ClassificationMap, *, width: int = 100, height: int | None = None) -> Table:
    """Returns the map as a table of the short names of its best classes, on their colours, with a legend below.

    If names do not fit, a cell shows a letter that the legend explains (a name of one character is kept). If letters do
    not fit either, one letter stands for a block of cells: the class with the most probability in the block. Background
    has no colour.

    Args:
        map_: The map.
        width: Columns of the terminal, about 30 at least; the table is no wider.
        height: Lines of the terminal, about 12 at least; title, map and legend take fewer. By default the map has all
            lines that it needs.
    """
    rows, columns = map_.size
    classes = shares(map_)
    margin = len(str(rows - 1)) + 1
    room = max(width - margin, 1)
    most_rows, most_lines = rows + 1, None
    if height is not None:
        most_lines = max(height // 3 - 2, 1)
        legend = _legend(classes, _letters(classes), named=False, block=2, width=width, most_lines=most_lines)
        most_rows = max(height - legend.plain.count("\n") - 5, 4)
    best, block = map_.classes[..., 0], 1
    texts = {item.number: _EMPTY if is_background(item.name) else item.name for item in classes}
    longest = max(map(cell_len, texts.values()))
    named = room // columns - 2 >= min(longest, _SHORTEST_NAME) and rows + 1 <= most_rows
    if named:
        cell = min(longest, room // columns - 2) + 2
        texts = {number: _cut(text, cell - 2) for number, text in texts.items()}
    else:
        texts = _letters(classes)
        block = max(-(-columns // room), -(-rows // most_rows))
        best = _blocks(map_, block) if block > 1 else best
        # A character is about twice as high as wide, so two of them make a square cell.
        cell = 2 if 2 * best.shape[1] <= room else 1
    colors = distinct_colors(tuple(item.number for item in classes))
    table = Table(
        title=Text(one_line(map_.uri), overflow="fold", style="bold"),
        title_justify="left",
        caption=_legend(classes, texts, named=named, block=block, width=width, most_lines=most_lines),
        caption_style="",
        caption_justify="left",
        box=None,
        padding=0,
        pad_edge=False,
        show_header=False,
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    # An empty column gives title and legend the full width.
    table.add_column(min_width=max(width - margin - cell * best.shape[1], 0))
    if named:
        table.add_row("", Text("".join(f"{x:^{cell}}" for x in range(columns)), style=_FAINT), "")
    for y, row in enumerate(best):
        line = Text()
        for number in map(int, row):
            line.append(_center(texts[number], cell), style=_style(colors[number], texts[number]))
        table.add_row(Text(f"{y * block:>{margin - 1}} ", style=_FAINT), line, "")
    return table


def _cut(name: str, length: int) -> str:
    """Returns `name` in at most `length` columns; letters of some scripts take two columns."""
    return name if cell_len(name) <= length else f"{set_cell_size(name, length - 1).rstrip()}…"


def _center(text: str, columns: int) -> str:
    space = max(columns - cell_len(text), 0)
    return " " * (space // 2) + text + " " * (space - space // 2)


def _letters(classes: list[Share]) -> dict[int, str]:
    """Returns one character per class: its name, or a letter in the order of the shares while there are letters."""
    texts = {item.number: item.name for item in classes if cell_len(item.name) == 1}
    free = iter(sorted(set(ascii_lowercase) - set(texts.values())))
    for item in classes:
        if is_background(item.name):
            texts[item.number] = _EMPTY
        elif item.number not in texts:
            texts[item.number] = next(free, _OTHER)
    return texts


def _blocks(map_: ClassificationMap, block: int) -> Integers:
    """Returns, for every block of cells, the class with the most probability: int32 [ceil(h/block), ceil(w/block)]."""
    rows, columns = map_.size
    best = np.empty((-(-rows // block), -(-columns // block)), np.int32)
    for y, x in np.ndindex(best.shape):
        cells = np.s_[y * block : (y + 1) * block, x * block : (x + 1) * block, 0]
        numbers, index = np.unique(map_.classes[cells], return_inverse=True)
        best[y, x] = numbers[np.bincount(index.reshape(-1), weights=map_.scores[cells].reshape(-1)).argmax()]
    return best


def _style(color: Color, text: str) -> Style:
    if text in (_EMPTY, _OTHER):
        return _FAINT
    paper, ink = (f"rgb({c[0]},{c[1]},{c[2]})" for c in (color, ink_on(color)))
    return Style.parse(f"{ink} on {paper}")


def _legend(
    classes: list[Share],
    texts: Mapping[int, str],
    *,
    named: bool,
    block: int,
    width: int,
    most_lines: int | None = None,
) -> Text:
    """Returns the meaning of the colours and letters, with line breaks only between entries.

    Where there is no room for all entries in `most_lines` lines, the first ones are listed.
    """
    entries, colors = [], distinct_colors(tuple(item.number for item in classes))
    for item in classes:
        text = texts[item.number]
        if text != _OTHER:
            mark = "  " if named and text != _EMPTY else f" {text} "
            name = " " if text == item.name and not named else f" {item.name} "
            style = _style(colors[item.number], text)
            entries.append(Text.assemble((mark, style), name, (format_share(item.share), _FAINT)))
    rest = [item.share for item in classes if texts[item.number] == _OTHER]
    if rest:
        more = f" {_OTHER}  {len(rest)} more {'class' if len(rest) == 1 else 'classes'} {format_share(sum(rest))}"
        entries.append(Text(more, style=_FAINT))
    if block > 1:
        entries.insert(0, Text(f"a letter for {block} x {block} cells", style=_FAINT))
    legend, used, lines = Text("\n"), 0, 1
    for number, entry in enumerate(entries):
        entry.truncate(width, overflow="ellipsis")
        if used and used + 2 + entry.cell_len > width:
            if lines == most_lines:
                legend.append(f"\n... and {len(entries) - number} more", style=_FAINT)
                break
            legend.append("\n")
            lines += 1
            used = 0
        elif used:
            legend.append("  ")
            used += 2
        legend.append_text(entry)
        used += entry.cell_len
    return legend
