"""The table of what runtimes cannot do, by layer, from what was measured."""

from __future__ import annotations

import collections
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from tests.runtimes.compare import FORMS, RUNTIMES, TITLES

MEASURED = Path(__file__).with_name("measured.json")
BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"


class Measured(TypedDict):
    """What `python -m tests.runtimes` measured.

    `versions` by runtime; `layers`: for each kind of layer its golden cases; `nets`: the other cases; `wrong` as
    `compare.outcomes` returns it.
    """

    versions: dict[str, str]
    layers: dict[str, list[str]]
    nets: list[str]
    wrong: dict[str, dict[str, str]]


def read() -> Measured:
    measured: Measured = json.loads(MEASURED.read_text())
    return measured


def render(measured: Measured) -> str:
    """The tables in Markdown."""
    titles = [f"{TITLES[runtime]} {measured['versions'][runtime]}" for runtime in RUNTIMES]
    lines = [f"| layer | cases | {' | '.join(titles)} |", f"|---|---|{'---|' * len(RUNTIMES)}"]
    for layer, names in measured["layers"].items():
        cells = [_cell(names, measured["wrong"][runtime]) for runtime in RUNTIMES]
        if any(cell != "ok" for cell in cells):
            lines.append(f"| {layer} | {len(names)} | {' | '.join(cells)} |")
    right = [
        layer
        for layer, names in measured["layers"].items()
        if all(_cell(names, measured["wrong"][runtime]) == "ok" for runtime in RUNTIMES)
    ]
    alone = ", ".join(layer for layer in right if "+" not in layer)
    together = sum(len(measured["layers"][layer]) for layer in right if "+" in layer)
    right_text = f"All runtimes are right on all cases of: {alone}; and on {together} cases of several layers together."
    lines += ["", *textwrap.wrap(right_text, 120), ""]
    lines += [f"| net | {' | '.join(titles)} |", f"|---|{'---|' * len(RUNTIMES)}"]
    for name in measured["nets"]:
        lines.append(f"| {name} | {' | '.join(_cell([name], measured['wrong'][r]) for r in RUNTIMES)} |")
    for runtime, title in zip(RUNTIMES, titles, strict=True):
        found = measured["wrong"][runtime]
        if found:
            lines += ["", f"What {title} gets wrong:", "", "| case | sizes | it |", "|---|---|---|"]
            for case, text in found.items():
                name, form = case.removesuffix(")").split(" (")
                lines.append(f"| `{name}` | {form} | {_plain(text)} |")
    return "\n".join(lines) + "\n"


def _cell(names: list[str], wrong: Mapping[str, str]) -> str:
    """The cases of a layer that a runtime gets right: all, all if sizes are fixed, or how many."""
    bad: dict[str, list[str]] = collections.defaultdict(list)
    for form in FORMS:
        bad[form] = [name for name in names if f"{name} ({form})" in wrong]
    if not bad["free"]:
        return "ok"
    if not bad["fixed"]:
        return "ok with fixed sizes" if len(bad["free"]) == len(names) else f"{len(bad['free'])} need fixed sizes"
    kinds = sorted({wrong[f"{name} (fixed)"].split(":")[0] for name in bad["fixed"]})
    return f"{len(bad['fixed'])} {' or '.join(kinds)}"


def _plain(text: str) -> str:
    for character in "|<>*_`":
        text = text.replace(character, f"\\{character}")
    return text
