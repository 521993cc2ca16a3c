"""What gates say: the sentence of every verdict that a gate can give. No other test asserts wording.

``messages.txt`` is the table. ``BATON_REWRITE=1`` writes it anew after a change that is meant; read the difference
before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.cli.verdicts import CASES

TABLE = Path(__file__).parent / "messages.txt"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The verdict and the sentence of each case."""
    found = {}
    for name, judge in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        result = judge(folder)
        found[name] = f"{result.verdict}: {result.message.replace(str(folder), '...')}"
    return found


def test_the_table_holds(said: dict[str, str]) -> None:
    table = "".join(f"{name}\n    {text}\n" for name, text in said.items())
    if os.environ.get("BATON_REWRITE"):
        TABLE.write_text(table)
    assert table == TABLE.read_text()
