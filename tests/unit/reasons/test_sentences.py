"""What Baton says: every reason with its figures, and the sentence for a person. No other test asserts wording.

``sentences.txt`` is the table. ``BATON_REWRITE=1`` writes it anew after a change that is meant; read the difference
before it is committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.unit.reasons.cases import CASES

from baton.reasons import Reason, Why

TABLE = Path(__file__).parent / "sentences.txt"
MOST_WORDS = 25
TWO_NEGATIONS = re.compile(
    r"\b(?:not|can't|no|nobody|nothing)\b[^.:;,()]*\b(?:not|without|unless|unable|unknown)\b", re.IGNORECASE
)


def table() -> str:
    return "".join(f"{why.reason}: {why}\n{f'    → {why.mend}{chr(10)}' if why.mend else ''}" for why in CASES)


def test_the_table_holds():
    if os.environ.get("BATON_REWRITE"):
        TABLE.write_text(table())
    assert table() == TABLE.read_text()


def test_every_reason_is_in_the_table():
    assert {why.reason for why in CASES} == set(Reason)


def sentences(text: str) -> list[str]:
    return re.split(r"[.:;!?](?:\s|$)", text)


@pytest.mark.parametrize("why", CASES, ids=lambda why: why.reason)
def test_a_sentence_is_plain(why: Why) -> None:
    said = f"{why} {why.mend or ''}"
    assert "None" not in said
    assert [one for one in sentences(said) if len(one.split()) > MOST_WORDS] == []
    assert [hit.group() for hit in TWO_NEGATIONS.finditer(said)] == []


def test_one_that_is_not_plain_is_found() -> None:
    assert TWO_NEGATIONS.search("It does not start unless it is asked.")
    assert TWO_NEGATIONS.search("Nothing is loaded without a proof.")
    assert not TWO_NEGATIONS.search("It does not answer, without an alias.")
    assert [len(one.split()) for one in sentences("One two. Three: four")] == [2, 1, 1]
