"""docs/reference/glossary.md defines each term once, in order, and says where it is explained."""

from __future__ import annotations

import re
from pathlib import Path

ENTRIES = (Path(__file__).parents[3] / "docs" / "reference" / "glossary.md").read_text().split("\n### ")[1:]
TERMS = [entry.partition("\n")[0] for entry in ENTRIES]


def test_terms_stand_once_and_in_order() -> None:
    assert sorted(set(TERMS), key=str.casefold) == TERMS


def test_each_is_one_paragraph_that_ends_with_its_page() -> None:
    meanings = {entry.partition("\n")[0]: entry.partition("\n")[2].strip() for entry in ENTRIES}
    assert [
        t for t, text in meanings.items() if "\n\n" in text or not re.search(r"\(\[[^]]+\]\([^)]+\)\)$", text)
    ] == []
