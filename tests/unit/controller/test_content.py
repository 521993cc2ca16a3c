"""A live version's folder that looks otherwise than when it was loaded: proved by its content, or refused."""

from __future__ import annotations

import pytest

from baton.controller.content import ContentVerifier
from baton.domain import Folder
from baton.errors import Refused
from baton.journal import Journal
from baton.reasons import Reason


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def folder(fingerprint: str) -> Folder:
    return Folder("3", 3, fingerprint, quiet_since=0.0)


def test_the_same_content_is_accepted_as_it_looked_before_it_was_hashed(journal):
    proof = ContentVerifier("ranker", journal, lambda _version: {"a": "1"}, lambda: 5.0)
    assert not proof.known(3)
    with pytest.raises(Refused) as refused:
        proof.accept(3, folder("new"), "baton")
    assert refused.value.reason is Reason.NOT_RECORDED
    proof.learn(3)
    assert proof.known(3)
    journal.notes.loaded().put("ranker", {2: "old", 3: "old"})
    proof.accept(3, folder("new"), "baton")
    assert journal.notes.loaded().get("ranker") == {2: "old", 3: "new"}


@pytest.mark.parametrize("now", [{"a": "2", "b": "1"}, {"b": "1"}])
def test_other_content_is_refused_and_named(journal, now):
    contents = [{"a": "1", "b": "1"}, now]
    proof = ContentVerifier("ranker", journal, lambda _version: contents.pop(0), lambda: 5.0)
    proof.learn(3)
    journal.notes.loaded().put("ranker", {3: "old"})
    with pytest.raises(Refused, match="Version 3: a ") as refused:
        proof.accept(3, folder("new"), "baton")
    assert refused.value.reason is Reason.DIFFERS
    assert journal.notes.loaded().get("ranker") == {3: "old"}


def test_a_file_that_was_added_counts_and_a_person_s_words_do_not(journal):
    contents = [{"a": "1"}, {"a": "1", "version.toml": "9"}, {"a": "1", "chat_template.jinja": "2"}]
    proof = ContentVerifier("ranker", journal, lambda _version: contents.pop(0), lambda: 5.0)
    proof.learn(3)
    proof.accept(3, folder("noted"), "baton")
    with pytest.raises(Refused, match=r"Version 3: chat_template\.jinja differs"):
        proof.accept(3, folder("added"), "baton")
    assert journal.notes.loaded().get("ranker") == {3: "noted"}
