"""How Sphinx builds the pages of this folder: `make docs`."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "densecast"
author = "The densecast authors"
version = release = version_of("densecast")

extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"densecast {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
exclude_patterns = ["conf.py"]
nitpicky = True


def _edit_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Makes of a page that reads well on a code host one that reads well on the site.

    Links to files beside `docs` become the names of the files: the site does not have them. The index gets the
    navigation, its sections and links in their order; the directive would be noise on a code host.
    """
    source[0] = re.sub(r"\[([^]]+)\]\(\.\./([^)#]+)[^)]*\)", r"\1 (`\2`)", source[0])
    if docname != "index":
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        caption = section.splitlines()[0]
        pages = re.findall(r"^- \[[^]]+\]\((\w[\w-]*)\.md\)", section, flags=re.MULTILINE)
        source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"])


def setup(app: Sphinx) -> None:
    """Registers what is above."""
    app.connect("source-read", _edit_source)
