"""Every link of the pages to a file or a heading of the repository leads there; the architecture page names what is."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docker").glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
"""Links with a scheme leave the repository."""


@cache
def inline(page: Path) -> list[tuple[bool, Token]]:
    """Each text of a page, and whether it is a heading."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    pairs = zip([None, *tokens], tokens, strict=False)
    return [(before is not None and before.type == "heading_open", t) for before, t in pairs if t.type == "inline"]


def links(page: Path) -> list[str]:
    """What a page links to: text, images and their addresses."""
    parts = [part for _, text in inline(page) for part in text.children or ()]
    found = [part.attrGet("href" if part.type == "link_open" else "src") for part in parts]
    return [str(target) for target in found if target is not None]


@cache
def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading, text in inline(page):
        if heading:
            words = "".join(part.content for part in text.children or ()).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            again = (f"{slug}-{n}" for n in range(1, 1000))
            found.add(slug if slug not in found else next(name for name in again if name not in found))
    return found


def wrong(page: Path, target: str) -> str | None:
    """Why a link of a page leads nowhere; None where it leads somewhere."""
    path, _, anchor = unquote(target).partition("#")
    # By its text and not through links of the file system, as a web page is found.
    there = Path(os.path.normpath(page.parent / path)) if path else page
    if not there.is_relative_to(ROOT):
        return "it leads out of the repository"
    if not there.exists():
        return "there is no such file"
    if anchor and (there.suffix != ".md" or anchor not in anchors(there)):
        return "there is no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    inside = [target for target in links(page) if not ELSEWHERE.match(target)]
    assert {target: why for target in inside if (why := wrong(page, target)) is not None} == {}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("README.md", None),
        ("docs/explanation/security.md#ctl-up", None),
        ("#read-on", None),
        ("docs/nowhere.md", "there is no such file"),
        ("docs/explanation/security.md#nothing-of-the-kind", "there is no such heading"),
        ("Makefile#setup", "there is no such heading"),
        ("../elsewhere.md", "it leads out of the repository"),
    ],
)
def test_a_link_to_nowhere_is_found(target: str, why: str | None) -> None:
    assert wrong(ROOT / "README.md", target) == why
