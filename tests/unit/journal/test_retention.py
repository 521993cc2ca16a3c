"""The journal loses the events of old rollouts, and nothing else: in small steps, through kills and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.reasons import plain
from tests.unit.controller.plane import Full

from baton.domain import Gate, GateResult, Kind, Outcome, Phase, Release, ReleaseStatus, Rollout, Verdict, VersionRecord
from baton.journal import Journal, retention
from baton.journal.retention import EVERY_S, FOLD, Retention
from baton.reasons import Reason, because
from baton.schema import JournalDamaged

DAY = 86_400.0
NOW = 1_000 * DAY
EVENTS = 4
"""Of each rollout here: its beginning, a verdict, a phase, its end."""


def passed(
    journal: Journal, candidate: int, *, days_ago: float, outcome: Outcome = Outcome.LIVE, kind: Kind = Kind.ROLLOUT,
    previous: int | None = None, service: str = "ranker",
) -> int:  # fmt: skip
    """A rollout that ended so many days ago."""
    at, why = NOW - days_ago * DAY, because(Reason.PROMOTED)
    first = Phase.LOADING if kind is Kind.ROLLBACK else Phase.VERIFYING
    asked = Rollout(0, service, kind, candidate, previous, first, "ann", why, Release.RETRAINED, "v", "f", at, at)
    rollout = journal.rollouts.begin(asked)
    journal.rollouts.record(rollout, GateResult(Gate.OUTPUT, Verdict.PASS, "same"), at)
    journal.rollouts.advance(rollout, Phase.ROLLING_BACK, why, at)
    status = ReleaseStatus.RELEASED if outcome is Outcome.LIVE else ReleaseStatus.WITHDRAWN
    records = [VersionRecord(candidate, status, plain("end"), "f", loaded=True, at=at)]
    if kind is Kind.ROLLBACK:
        records.append(VersionRecord(previous or 0, ReleaseStatus.WITHDRAWN, plain("back"), "", loaded=True, at=at))
    current = journal.rollouts.current(service)
    assert current is not None
    journal.rollouts.end(current, outcome, plain("end"), at, records)
    return rollout.id


@pytest.fixture
def journal(tmp_path: Path):
    with closing(Journal(tmp_path / "journal.db")) as made:
        yield made


def apply(journal: Journal, *, serving: int | None = None, days: float = 90.0, keep: int = 2, now: float = NOW) -> None:
    """All that there is to remove now."""
    one = Retention(journal.database, days * DAY, keep)
    for _ in range(1_000):
        before = journal.database.connection.total_changes
        one.apply("ranker", serving, now)
        if journal.database.connection.total_changes == before:
            return
    raise AssertionError("it has no end")


def folded(journal: Journal) -> dict[int, int]:
    """By rollout: how many of its events were removed. The others have all of theirs."""
    found = {}
    for rollout in journal.rollouts.newest(limit=10_000):
        events = journal.events.newest(rollout=rollout.id)
        fold = [e for e in events if e["kind"] == FOLD]
        assert len(fold) <= 1
        removed = fold[0]["data"]["removed"] if fold else 0
        assert len(events) - len(fold) + removed == EVENTS, "none is lost, none is counted twice"
        if fold:
            assert fold[0]["why"] == because(Reason.EVENTS_REMOVED, count=removed)
            found[rollout.id] = removed
    return found


def test_what_is_old_and_not_among_the_newest_loses_its_events_and_nothing_else(journal):
    ids = [passed(journal, n, days_ago=200.0 - n, outcome=Outcome.REJECTED) for n in range(1, 8)]
    ids += [passed(journal, 8, days_ago=89.0, outcome=Outcome.REJECTED)]
    before = journal.rollouts.newest()
    versions = journal.versions.records("ranker")
    apply(journal)
    assert folded(journal) == dict.fromkeys(ids[:-2], EVENTS)
    assert journal.rollouts.newest() == before, "who, when, why, verdicts, outcome"
    assert journal.versions.records("ranker") == versions
    assert journal.rollouts.counts() == {("ranker", Outcome.REJECTED): 8}


def test_all_of_the_last_days_stays_however_much_it_is(journal):
    for n in range(1, 10):
        passed(journal, n, days_ago=89.0, outcome=Outcome.REJECTED)
    apply(journal, keep=1)
    assert folded(journal) == {}


def test_the_newest_stay_however_old_they_are(journal):
    ids = [passed(journal, n, days_ago=900.0, outcome=Outcome.REJECTED) for n in range(1, 6)]
    apply(journal, keep=3)
    assert set(folded(journal)) == set(ids[:2])
    apply(journal, keep=1)
    assert set(folded(journal)) == set(ids[:4]), "the newest one always"


def test_nothing_is_removed_where_all_is_kept(journal):
    for n in range(1, 6):
        passed(journal, n, days_ago=900.0)
    apply(journal, days=float("inf"), keep=1)
    assert folded(journal) == {}


def test_what_serves_and_what_a_rollback_goes_to_keep_their_events(journal):
    ids = {n: passed(journal, n, days_ago=400.0 - n, previous=n - 1 or None) for n in range(1, 6)}
    ids[0] = passed(journal, 4, days_ago=390.0, previous=5, kind=Kind.ROLLBACK)
    for n in range(6, 9):
        ids[n] = passed(journal, n, days_ago=300.0, outcome=Outcome.REJECTED)
    apply(journal, serving=4, keep=1)
    # 4 serves since the rollback; 5 was taken back, so a rollback goes to 3.
    assert set(ids.values()) - set(folded(journal)) == {ids[0], ids[3], ids[8]}
    apply(journal, serving=3, keep=1)
    assert ids[3] not in folded(journal)


def test_the_files_tell_what_serves(journal):
    ids = [passed(journal, n, days_ago=400.0 - n) for n in range(1, 7)]
    apply(journal, serving=2, keep=1)
    assert set(ids) - set(folded(journal)) == {ids[1], ids[4], ids[5]}


def test_nothing_is_removed_while_a_rollout_is_under_way(journal):
    ids = [passed(journal, n, days_ago=400.0, outcome=Outcome.REJECTED) for n in range(1, 5)]
    why = because(Reason.PROMOTED)
    at = NOW - 300 * DAY
    asked = Rollout(0, "ranker", Kind.ROLLOUT, 9, 1, Phase.VERIFYING, "a", why, Release.RETRAINED, "v", "f", at, at)
    opened = journal.rollouts.begin(asked)
    one = Retention(journal.database, 90 * DAY, 1)
    before = journal.events.newest(limit=1_000)
    one.apply("ranker", None, NOW)
    assert journal.events.newest(limit=1_000) == before
    journal.rollouts.advance(opened, Phase.ROLLING_BACK, why, at)
    current = journal.rollouts.current("ranker")
    journal.rollouts.record(current, GateResult(Gate.OUTPUT, Verdict.PASS, "same"), at)
    journal.rollouts.end(current, Outcome.ABORTED, why, at, [])
    one.apply("ranker", None, NOW)
    assert set(folded(journal)) == set(ids), "it does not wait an hour then"


def test_another_service_is_left_alone(journal):
    for n in range(1, 5):
        passed(journal, n, days_ago=400.0, service="other", outcome=Outcome.REJECTED)
    apply(journal, keep=1)
    assert folded(journal) == {}


def test_it_goes_in_small_steps_and_then_waits_an_hour(journal, monkeypatch):
    monkeypatch.setattr(retention, "MOST_EVENTS", 3)
    ids = [passed(journal, n, days_ago=400.0, outcome=Outcome.REJECTED) for n in range(1, 4)]
    one = Retention(journal.database, 90 * DAY, 1)
    left = []
    for _ in range(4):
        one.apply("ranker", None, NOW)
        left.append(2 * EVENTS - sum(folded(journal).values()))
    assert left == [5, 2, 0, 0]
    assert folded(journal) == dict.fromkeys(ids[:2], EVENTS)
    passed(journal, 9, days_ago=300.0, outcome=Outcome.REJECTED)
    one.apply("ranker", None, NOW + EVERY_S - 1)
    assert ids[2] not in folded(journal)
    one.apply("ranker", None, NOW + EVERY_S)
    assert ids[2] in folded(journal)


def test_old_events_between_rollouts_become_one(journal):
    for days in (300.0, 200.0, 100.0, 80.0):
        journal.events.append(NOW - days * DAY, "health", plain("silent"), service="ranker")
    journal.events.append(NOW - 300 * DAY, "restore", plain("of all services"))
    apply(journal)
    apply(journal, now=NOW + 15 * DAY)
    told = [(e["kind"], e["data"].get("removed")) for e in journal.events.newest()]
    assert told == [("restore", None), (FOLD, 4)]


def test_a_full_disk_is_told_and_loses_nothing(journal, caplog):
    ids = [passed(journal, n, days_ago=400.0, outcome=Outcome.REJECTED) for n in range(1, 4)]
    before = journal.events.newest(limit=1_000)
    one = Retention(journal.database, 90 * DAY, 1)

    class FullAtTheEnd(Full):
        def execute(self, statement, *values):
            if self.full and statement.startswith("INSERT INTO event"):
                raise sqlite3.OperationalError("database or disk is full")
            return self.real.execute(statement, *values)

    disk = journal.database.connection = FullAtTheEnd(journal.database.connection)
    disk.full = True
    one.apply("ranker", None, NOW)
    one.apply("ranker", None, NOW + 1)
    assert len(caplog.records) == 1, "once an hour"
    assert "is full" in caplog.records[0].getMessage()
    assert journal.events.newest(limit=1_000) == before
    disk.full = False
    one.apply("ranker", None, NOW + EVERY_S)
    assert set(folded(journal)) == set(ids[:2])


def test_damage_that_it_meets_is_damage(journal):
    passed(journal, 1, days_ago=400.0, outcome=Outcome.REJECTED)
    passed(journal, 2, days_ago=400.0, outcome=Outcome.REJECTED)
    db = journal.database.connection
    db.execute(
        "INSERT INTO event (at, service, rollout, kind, who, message, data) VALUES (1,'ranker',1,'fold','','','{')"
    )
    before = db.execute("SELECT count(*) FROM event").fetchone()[0]
    with pytest.raises(JournalDamaged):
        Retention(journal.database, 90 * DAY, 1).apply("ranker", None, NOW)
    assert db.execute("SELECT count(*) FROM event").fetchone()[0] == before


def test_what_is_freed_is_used_again(journal, tmp_path):
    for n in range(1, 200):
        passed(journal, n, days_ago=400.0, outcome=Outcome.REJECTED)
    apply(journal)
    pages = journal.database.connection.execute("PRAGMA page_count").fetchone()[0]
    for n in range(200, 260):
        passed(journal, n, days_ago=1.0, outcome=Outcome.REJECTED)
    assert journal.database.connection.execute("PRAGMA page_count").fetchone()[0] == pages


FOLDER = """
import sys
from pathlib import Path
from baton.journal import Journal, retention
retention.MOST_EVENTS, retention.MOST_ROLLOUTS = 7, 3
journal = Journal(Path(sys.argv[1]))
one = retention.Retention(journal.database, 90 * 86400.0, 2)
while True:
    one.apply("ranker", None, float(sys.argv[2]))
    print(flush=True)
"""


def test_killed_in_the_middle(tmp_path):
    """After ``kill -9`` each event is there or counted, and the next one goes on to the end."""
    path = tmp_path / "journal.db"
    with closing(Journal(path)) as journal:
        ids = [passed(journal, n, days_ago=400.0, outcome=Outcome.REJECTED) for n in range(1, 102)]
        expected = journal.rollouts.newest(limit=1_000)
    done = 0
    for lines in (1, 3, 8, 15):
        writer = subprocess.Popen(
            [sys.executable, "-c", FOLDER, str(path), str(NOW)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            for _ in range(lines):
                writer.stdout.readline()
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        with closing(Journal(path)) as journal:
            assert journal.database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            removed = sum(folded(journal).values())
            assert removed >= min(done + 7 * lines, 99 * EVENTS)
            done = removed
            assert journal.rollouts.newest(limit=1_000) == expected
    with closing(Journal(path)) as journal:
        apply(journal)
        assert folded(journal) == dict.fromkeys(ids[:-2], EVENTS)


def decided(journal: Journal, version: int, status: ReleaseStatus) -> None:
    journal.versions.put("ranker", VersionRecord(version, status, because(Reason.DONE), "f", loaded=True, at=1.0))
    journal.notes.manifest(version).put("ranker", {"weights": "00"})
    journal.notes.release(version).put("ranker", Release.RETRAINED)


def noted(journal: Journal) -> set[str]:
    rows = journal.database.connection.execute("SELECT key FROM memo WHERE service = 'ranker'").fetchall()
    return {row["key"] for row in rows}


def test_what_nothing_needs_of_versions_that_are_gone_is_forgotten(journal):
    for version in (1, 2, 4, 6):
        decided(journal, version, ReleaseStatus.RELEASED)
    decided(journal, 3, ReleaseStatus.WITHDRAWN)
    decided(journal, 7, ReleaseStatus.REJECTED)
    journal.notes.loaded().put("ranker", {6: "f"})
    Retention(journal.database, 90 * DAY, 1).apply("ranker", 6, NOW, frozenset({4, 6}))
    assert set(journal.versions.records("ranker")) == {3, 4, 6, 7}, "3 was taken back; 7 would count as new"
    assert noted(journal) == {"manifest:4", "manifest:6", "release:4", "release:6", "loaded_fingerprints"}
    assert journal.versions.highest("ranker") == 7, "no number is used twice"


def test_where_it_is_not_known_what_is_there_nothing_is_forgotten(journal):
    decided(journal, 1, ReleaseStatus.RELEASED)
    Retention(journal.database, 90 * DAY, 1).apply("ranker", 6, NOW, None)
    assert set(journal.versions.records("ranker")) == {1}
    assert noted(journal) == {"manifest:1", "release:1"}


def test_another_service_keeps_what_it_knows(journal):
    decided(journal, 1, ReleaseStatus.RELEASED)
    Retention(journal.database, 90 * DAY, 1).apply("other", 6, NOW, frozenset())
    assert set(journal.versions.records("ranker")) == {1}


def test_during_a_rollout_nothing_is_forgotten(journal):
    decided(journal, 1, ReleaseStatus.RELEASED)
    why = because(Reason.PROMOTED)
    journal.rollouts.begin(
        Rollout(0, "ranker", Kind.ROLLOUT, 7, 6, Phase.VERIFYING, "ann", why, Release.RETRAINED, "v", "f", 1.0, 1.0)
    )
    Retention(journal.database, 90 * DAY, 1).apply("ranker", 6, NOW, frozenset({6, 7}))
    assert set(journal.versions.records("ranker")) == {1}
    assert noted(journal) > {"manifest:1"}
