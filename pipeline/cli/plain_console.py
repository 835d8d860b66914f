"""Rich's console, which takes strings as text; in a module of its own, because Rich takes time to import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from conversion.errors import one_line, printable


class PlainConsole(Console):
    """A console that knows no markup and no emoji codes, and whose texts hold no control characters.

    Args:
        file: Where it prints to.
        width: Its width in characters; by default the terminal's.
    """

    def __init__(self, file: TextIO, *, width: int | None = None) -> None:
        super().__init__(file=file, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a string as text in one line; it is escaped before its width is measured."""
        return super().render_str(one_line(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields what is printed; texts that were not made of strings are escaped too."""
        return _escaped(super().render(renderable, options))


def _escaped(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        safe = segment.text if segment.control else printable(segment.text)
        yield segment if safe == segment.text else Segment(safe, segment.style)
