"""Links inside the documentation lead somewhere: files and headings. Links to the web are not looked at."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.markdown import NAMES, PAGES, ROOT, anchors, links

OTHERS = ("CHANGELOG.md", "SECURITY.md", "infra/README.md")


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_links_lead_to_files_and_headings(name: str):
    page = ROOT / name
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_relative_to(ROOT), f"{name}: {link} leads out of the repository"
        assert target.exists(), f"{name}: {link} leads nowhere"
        if parts.fragment:
            assert parts.fragment in anchors(target), f"{name}: {link}: there is no such heading"


def test_every_page_is_linked_from_the_index():
    """The site's navigation is made from the links of the index."""
    index = ROOT / "docs" / "index.md"
    linked = {link for link in links(index) if link.endswith(".md")}
    assert linked == {page.name for page in PAGES if page.parent == index.parent and page != index}


def test_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
