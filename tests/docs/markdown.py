"""The Markdown of README and docs/: its code blocks with their markers, its tables, links and anchors.

A marker is an HTML comment directly before a block, so that a code host shows nothing of it:

- `<!-- not run: needs a GPU -->`: the block is not run, for this reason.
- `<!-- file: photos.toml -->`: the block is the content of that file.
- `<!-- exit code: 3 -->`: the last command of the block ends with this code.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]

_MARKER = re.compile(r"<!-- (not run|file|exit code): (.+?) -->\Z")
_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file.
        line: Its line of the opening fence, counted from 1.
        language: What stands after the fence.
        text: The content.
        marker: `not run`, `file` or `exit code`; empty where there is no marker.
        value: What the marker says.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yields the fenced blocks of a page, in order."""
    before: Token | None = None
    for token in _tokens(page):
        if token.type == "fence":
            match = _MARKER.match(before.content.strip()) if before is not None else None
            marker, value = match.groups() if match else ("", "")
            line = token.map[0] + 1 if token.map else 0
            yield Block(page, line, token.info.strip(), token.content, marker, value)
        before = token if token.type == "html_block" else None


def table(page: Path, first_column: str) -> list[list[str]]:
    """Returns the cells of all tables of a page whose first column has this title, without the title rows."""
    rows: list[list[str]] = []
    for one in _tables(page):
        if one[0][0] == first_column:
            rows += one[1:]
    return rows


def _tables(page: Path) -> Iterator[list[list[str]]]:
    rows: list[list[str]] = []
    in_table = False
    for token in _tokens(page):
        if token.type == "table_open":
            rows, in_table = [], True
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and in_table:
            rows[-1].append(token.content)
        elif token.type == "table_close":
            in_table = False
            yield rows


def code_spans(page: Path) -> Iterator[str]:
    """Yields the inline code of a page."""
    for token in _tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page: Path) -> Iterator[str]:
    """Yields the targets of the links and pictures of a page."""
    for token in _tokens(page):
        for child in token.children or ():
            for name in ("href", "src"):
                if name in child.attrs:
                    yield str(child.attrs[name])
        if token.type == "html_block":
            yield from re.findall(r'(?:src|href)="([^"]+)"', token.content)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts and MyST make them."""
    seen: Counter[str] = Counter()
    result = set()
    tokens = _tokens(page)
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in following.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            result.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return result


def _tokens(page: Path) -> list[Token]:
    return _PARSER.parse(page.read_text(encoding="utf-8"))
