"""The page tells every fault as the code has it."""

from __future__ import annotations

from harness.places import ROOT
from tests.chaos.page import catalogue


def test_the_page_holds_the_table_of_faults():
    assert catalogue() in (ROOT / "docs" / "reference" / "faults.md").read_text()
