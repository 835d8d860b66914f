"""The table of supported layers, generated from the registry.

`python -m tests.support.layer_table FILE.md` writes it between the markers `<!-- layers -->` and `<!-- /layers -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from conversion.layers import registered

_START, _END = "<!-- layers -->", "<!-- /layers -->"


def support_table() -> str:
    """Returns a Markdown table: each Caffe layer type, and the first sentence of its class's docstring."""
    rows = [f"| `{name}` | {_first_sentence(cls.__doc__ or '')} |" for name, cls in registered().items()]
    return "\n".join(["| layer | what it computes |", "|---|---|", *rows])


def with_table(text: str) -> str:
    """Returns the text with the table between its two markers; raises ValueError unless it has each marker once."""
    if text.count(_START) != 1 or text.count(_END) != 1:
        raise ValueError(f"the text must hold {_START} and {_END}, each once")
    before, rest = text.split(_START)
    return f"{before}{_START}\n{support_table()}\n{_END}{rest.split(_END)[1]}"


def _first_sentence(doc: str) -> str:
    """Returns the text up to the first full stop before a capital, with pipes escaped: they would end a cell."""
    paragraph = " ".join(doc.strip().split("\n\n")[0].split())
    sentence = re.split(r"\. (?=[A-Z])", paragraph)[0].rstrip(".")
    return sentence.replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
