"""A journal that is damaged, at the start or in use: it is put aside, and what serves is adopted."""

from __future__ import annotations

import sqlite3

import pytest
from tests.unit.controller.plane import NAME, Plane
from tests.unit.controller.test_loop import serving

from baton.domain import Outcome, Phase
from baton.journal import Journal, database, open_journal
from baton.reasons import Reason


def spoil(plane):
    """Overwrite the journal while it is in use."""
    path = plane.place.root / "state" / "journal.db"
    for file in (path, path.with_name("journal.db-wal")):
        with file.open("r+b") as damaged:
            damaged.write(b"\xff" * file.stat().st_size)
    plane.journal.database.connection.execute("PRAGMA shrink_memory")  # else SQLite goes on with what it remembers
    return path


def test_in_the_middle_of_a_bake(place):
    plane = Plane(place, keep_previous=600.0)
    try:
        place.drop(1)
        plane.live(1)
        place.drop(2)
        plane.run(lambda: plane.phase() is Phase.BAKING, "version 2 bakes")
        path = spoil(plane)
        plane.turn()
        plane.run(lambda: plane.rests_at(2) and place.files.policy() == {2}, "version 2 is adopted")
        serving(place, 2)
        assert plane.journal.rollouts.newest(service=NAME) == []
        assert plane.journal.events.newest()[0]["kind"] == "damaged"
        assert [p.name for p in path.parent.glob("*.damaged-*Z")]
        place.drop(3)
        plane.run(lambda: plane.phase() is Phase.BAKING, "the next one goes its way")
        assert plane.ended(2) is None
    finally:
        plane.close()


def test_while_the_disk_is_full(place, monkeypatch, caplog):
    """Bytes flip, and are met when there is no room for another journal: nobody is needed once there is."""
    plane = Plane(place)

    def full(_path):
        raise sqlite3.OperationalError("database or disk is full")

    try:
        place.drop(1)
        plane.live(1)
        spoil(plane)
        with monkeypatch.context() as filled:
            filled.setattr(database, "create", full)
            for _ in range(5):
                plane.turn()
                serving(place, 1)
            why = plane.service.decision.why
            assert why.reason is Reason.JOURNAL_DAMAGED
            assert "disk is full" in why.figures["then"]
            assert [r.levelname for r in caplog.records if r.name == "baton.controller.loop"].count("ERROR") == 1
        plane.turn()
        plane.run(lambda: plane.rests_at(1), "version 1 is adopted")
        serving(place, 1)
        place.drop(2)
        plane.run(lambda: plane.ended(2) is Outcome.LIVE, "the next one goes its way")
    finally:
        plane.close()


@pytest.mark.parametrize("damage", [lambda whole: b"\xff" * len(whole), lambda whole: whole[:5000]])
def test_at_the_start(tmp_path, damage):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(100):
        journal.notes.manifest(number).put("ranker", {"x" * 200: ""})
    journal.close()
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    journal = open_journal(path, lambda: 0.0)
    try:
        assert journal.notes.manifest(1).get("ranker") is None
        assert [e["kind"] for e in journal.events.newest()] == ["damaged"]
        assert (tmp_path / "journal.db.damaged-19700101T000000Z").read_bytes() == broken
    finally:
        journal.close()


def test_a_sound_one_is_left_alone(tmp_path):
    path = tmp_path / "journal.db"
    for _ in range(2):
        journal = open_journal(path, lambda: 0.0)
        journal.notes.loaded().put("ranker", {1: "f"})
        journal.close()
    assert [p.name for p in tmp_path.iterdir()] == ["journal.db"]
