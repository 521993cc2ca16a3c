"""The journal keeps what it was told: through kills, threads, damage and other versions of itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.reasons import plain

from baton.domain import (
    Gate,
    GateResult,
    Kind,
    Model,
    Outcome,
    Phase,
    Pruning,
    Release,
    ReleaseStatus,
    Removed,
    Rollout,
    Stop,
    Verdict,
    VersionRecord,
)
from baton.errors import Refused
from baton.evidence import LiveEvidence, LiveSamples, OutputEvidence
from baton.journal import EVERY_SERVICE, Journal, database, events
from baton.journal.notes import Notes, Salt
from baton.reasons import Reason, because
from baton.samples import CaseScores, GoldenScores, Noise
from baton.schema import BROKEN, SCHEMA_VERSION, JournalDamaged, JournalError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def journal(path):
    made = Journal(path)
    yield made
    made.close()


def asked(service: str = "ranker", candidate: int = 2, phase: Phase = Phase.VERIFYING) -> Rollout:
    return Rollout(
        id=0,
        service=service,
        kind=Kind.ROLLOUT,
        candidate=candidate,
        previous=1,
        phase=phase,
        who="ann",
        why=because(Reason.PROMOTED),
        release=Release.RETRAINED,
        label="v2",
        fingerprint="abc",
        started_at=10.0,
        phase_since=10.0,
    )


def test_a_rollout_from_its_beginning_to_its_end(journal):
    rollout = journal.rollouts.begin(asked())
    assert journal.rollouts.current("ranker") == rollout
    assert journal.rollouts.current("other") is None
    result = GateResult(Gate.OUTPUT, Verdict.PASS, "same", observed=0.0, limit=0.001, evidence=OutputEvidence(cases=12))
    journal.rollouts.record(rollout, GateResult(Gate.OUTPUT, Verdict.HOLD, "few"), 11.0)
    journal.rollouts.record(rollout, result, 12.0)
    for phase, at in ((Phase.LOADING, 13.0), (Phase.VALIDATING, 14.0), (Phase.SHIFTING, 15.0), (Phase.BAKING, 16.0)):
        now = journal.rollouts.current("ranker")
        journal.rollouts.advance(now, phase, plain("on"), at)
    journal.rollouts.promote(rollout, "bob", 16.5)
    journal.rollouts.halt(rollout, Stop(Outcome.ROLLED_BACK, "ann", plain("worse"), Gate.LATENCY), 17.0)
    journal.rollouts.halt(rollout, Stop(Outcome.ABORTED, "bob", plain("later")), 17.5)
    now = journal.rollouts.current("ranker")
    assert now.gates == {Gate.OUTPUT: result}
    assert now.gate_times == {Gate.OUTPUT: 12.0}
    assert (now.phase, now.phase_since, now.moved_at, now.promoted) == (Phase.BAKING, 16.0, 16.0, True)
    assert now.stop == Stop(Outcome.ROLLED_BACK, "ann", plain("worse"), Gate.LATENCY), "the first reason stands"
    journal.rollouts.advance(now, Phase.ROLLING_BACK, plain("worse"), 18.0)
    now = journal.rollouts.current("ranker")
    record = VersionRecord(2, ReleaseStatus.WITHDRAWN, plain("worse"), "abc", loaded=True, at=19.0)
    journal.rollouts.end(now, Outcome.ROLLED_BACK, plain("worse"), 19.0, [record])
    assert journal.rollouts.current("ranker") is None
    ended = journal.rollouts.get(rollout.id)
    assert (ended.outcome, ended.ended_at, ended.moved_at) == (Outcome.ROLLED_BACK, 19.0, 16.0)
    assert str(ended.ended_why) == "worse"
    assert journal.versions.records("ranker") == {2: record}
    assert journal.rollouts.counts() == {("ranker", Outcome.ROLLED_BACK): 1}
    kinds = [e["kind"] for e in journal.events.newest(rollout=rollout.id)]
    assert kinds == ["begin", "verdict", "verdict", *["phase"] * 4, "promote", "halt", "halt", "phase", "end"]


def test_what_is_not_in_the_lifecycle_is_refused(journal):
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.rollouts.begin(asked(phase=Phase.SHIFTING))
    rollout = journal.rollouts.begin(asked())
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.rollouts.advance(rollout, Phase.SHIFTING, plain("hasty"), 11.0)
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.rollouts.end(rollout, Outcome.LIVE, plain("hasty"), 11.0, [])
    with pytest.raises(Refused) as caught:
        journal.rollouts.begin(asked(candidate=3))
    assert caught.value.reason is Reason.UNDER_WAY
    assert journal.rollouts.current("ranker") == rollout
    journal.rollouts.begin(asked(service="other"))


def test_versions(journal):
    record = VersionRecord(7, ReleaseStatus.REJECTED, plain("bad"), "f", loaded=False, at=1.0)
    journal.versions.put("ranker", record)
    journal.versions.put("ranker", VersionRecord(3, ReleaseStatus.RELEASED, plain("good"), "f", loaded=True, at=2.0))
    assert set(journal.versions.records("ranker")) == {3, 7}
    assert journal.versions.highest("ranker") == 7
    journal.rollouts.begin(asked(candidate=9))
    assert journal.versions.highest("ranker") == 9
    assert journal.versions.highest("other") == 0
    journal.versions.forget("ranker", 7, "ann", 3.0)
    assert set(journal.versions.records("ranker")) == {3}


NOTES = [
    (lambda notes: notes.paused(), EVERY_SERVICE, True, "paused", "true"),
    (lambda notes: notes.loaded(), "ranker", {1: "f", 12: "g"}, "loaded_fingerprints", '{"1": "f", "12": "g"}'),
    (lambda notes: notes.unexpected(), "ranker", {"2a": "f"}, "known_strays", '{"2a": "f"}'),
    (lambda notes: notes.manifest(3), "ranker", {"a.json": "00ff"}, "manifest:3", '{"a.json": "00ff"}'),
    (lambda notes: notes.release(3), "ranker", Release.RETRAINED, "release:3", '"retrained"'),
    (lambda notes: notes.config_text(Model.ALIAS), "ranker", "name: 1", "file:alias", '"name: 1"'),
    (
        lambda notes: notes.pruning(),
        "ranker",
        Pruning((1, 2), 5, "ann", {1: "f1", 2: "f2"}),
        "pruning",
        '{"versions": [1, 2], "keep": 5, "who": "ann", "folders": {"1": "f1", "2": "f2"}}',
    ),
    (lambda notes: notes.removed(), "ranker", {3: Removed(1.5, 9)}, "removed", '{"3": {"at": 1.5, "bytes": 9}}'),
    (
        lambda notes: notes.golden_scores(),
        "ranker",
        {3: GoldenScores("ab", "bf16 on cpu", (CaseScores("one", "text", (0.5, 0.25)),))},
        "golden_scores",
        (
            '{"3": {"golden": "ab", "runs": "bf16 on cpu", "scores": '
            '[{"case": "one", "kind": "text", "scores": [0.5, 0.25]}]}}'
        ),
    ),
    (
        lambda notes: notes.noise(),
        "ranker",
        Noise("ab", None, 3, 0.5, 16),
        "noise",
        '{"golden": "ab", "runs": null, "version": 3, "furthest": 0.5, "documents": 16}',
    ),
    (lambda notes: notes.salt(), "ranker", Salt(4, "00"), "salt", '{"rollout": 4, "salt": "00"}'),
]


@pytest.mark.parametrize(("note", "service", "value", "key", "text"), NOTES, ids=[key for *_, key, _ in NOTES])
def test_a_note_stands_on_disk_as_it_always_did(journal, note, service, value, key, text):
    assert note(journal.notes).get(service) is None
    note(journal.notes).put(service, value)
    found = journal.database.connection.execute("SELECT service, key, value FROM memo").fetchall()
    assert [tuple(row) for row in found] == [(service, key, text)]
    assert note(journal.notes).get(service) == value
    assert note(journal.notes).get("other") is None
    note(journal.notes).put(service, None)
    assert note(journal.notes).get(service) is None


def test_what_was_to_go_before_fingerprints_were_noted_is_read(journal):
    text = '{"versions": [1, 2], "keep": 5, "who": "ann"}'
    journal.database.connection.execute("INSERT INTO memo VALUES ('ranker', 'pruning', ?)", (text,))
    assert journal.notes.pruning().get("ranker") == Pruning((1, 2), 5, "ann")


def test_every_kind_of_note_is_tried():
    assert len(NOTES) == len([name for name in vars(Notes) if not name.startswith("_")])


def test_the_errors_of_a_journal_say_what_they_mean_for_clients():
    for error in (BROKEN, str(because(Reason.JOURNAL_GONE, path="journal.db"))):
        assert "Clients are not affected" in error


def test_a_note_that_is_not_of_its_kind_is_damage(journal):
    journal.database.connection.execute("INSERT INTO memo VALUES ('ranker', 'loaded_fingerprints', '{\"one\": \"f\"}')")
    with pytest.raises(JournalDamaged):
        journal.notes.loaded().get("ranker")


def test_the_order_in_which_versions_served(journal):
    for candidate, outcome in ((2, Outcome.LIVE), (3, Outcome.REJECTED), (4, Outcome.LIVE)):
        rollout = journal.rollouts.begin(asked(candidate=candidate))
        journal.rollouts.advance(rollout, Phase.ROLLING_BACK, plain("short"), 11.0)
        journal.rollouts.end(journal.rollouts.current("ranker"), outcome, plain("end"), float(candidate), [])
    assert journal.rollouts.served("ranker") == [4, 1, 2, 1], "the latest first, and version 1, which was found serving"
    assert [r.candidate for r in journal.rollouts.newest(service="ranker", limit=2)] == [4, 3]


def test_the_newest_events_oldest_first(journal):
    for number in range(5):
        journal.events.append(float(number), "note", plain(f"event {number}"), service="ranker", data={"n": number})
    journal.events.append(9.0, "note", plain("of all"))
    events = journal.events.newest(service="ranker", limit=3)
    assert [e["data"]["n"] for e in events] == [2, 3, 4]
    assert journal.events.newest(limit=1)[0]["message"] == "of all"


def under_way(journal: Journal, phase: Phase = Phase.SHIFTING) -> Rollout:
    """A rollout that got as far as its traffic."""
    journal.rollouts.begin(asked())
    for step in (Phase.LOADING, Phase.VALIDATING, phase):
        journal.rollouts.advance(journal.rollouts.current("ranker"), step, plain("on"), 11.0)
    return journal.rollouts.current("ranker")


LIVE = LiveEvidence(checks=(), samples=LiveSamples(80, 40, 0), worst=())


def test_the_way_of_traffic(journal, path):
    rollout = under_way(journal)
    assert (rollout.progress, rollout.progressed_at, rollout.renewed_at, rollout.approvals) == (0.0, None, None, 0)
    result = GateResult(Gate.LIVE, Verdict.PASS, "as good", observed=1.0, limit=1.5, evidence=LIVE)
    journal.rollouts.progress(rollout, 0.0, 20.0, plain("begins"), None)
    journal.rollouts.renew(rollout, 21.0)
    journal.rollouts.progress(journal.rollouts.current("ranker"), 5.0, 25.0, plain("goes on"), result)
    journal.rollouts.progress(journal.rollouts.current("ranker"), 2.5, 30.0, plain("goes on"), result)
    journal.rollouts.renew(rollout, 31.0)
    now = journal.rollouts.current("ranker")
    assert (now.progress, now.progressed_at, now.renewed_at) == (7.5, 30.0, 31.0)
    assert now.gates == {Gate.LIVE: result}
    assert now.gate_times == {Gate.LIVE: 30.0}
    told = [e["data"] for e in journal.events.newest(rollout=rollout.id) if e["kind"] == "progress"]
    assert told == [{"progress": 0.0}, {"progress": 5.0}, {"progress": 7.5}]
    other = Journal(path)
    assert other.rollouts.current("ranker") == now
    other.close()


def test_no_time_of_an_open_rollout_lies_in_the_future(journal):
    rollout = under_way(journal)
    result = GateResult(Gate.LIVE, Verdict.PASS, "as good")
    journal.rollouts.progress(rollout, 5.0, 5000.0, plain("goes on"), result)
    journal.rollouts.renew(rollout, 5001.0)
    now = journal.rollouts.cap_times(journal.rollouts.current("ranker"), 1400.0)
    assert now == journal.rollouts.current("ranker")
    assert (now.progress, now.progressed_at, now.renewed_at) == (5.0, 1400.0, 1400.0)
    assert now.gate_times[Gate.LIVE] == 1400.0
    assert now.phase_since == rollout.phase_since, "what lies in the past stays"


def test_a_take_over_is_for_good_and_told(journal):
    rollout = under_way(journal)
    journal.rollouts.take_over(rollout, plain("version 1 is dead"), 20.0)
    now = journal.rollouts.current("ranker")
    assert (now.full, now.promoted) == (True, False)
    assert [e["message"] for e in journal.events.newest(rollout=rollout.id) if e["kind"] == "take_over"] == [
        "version 1 is dead"
    ]


def test_approvals_add_up_and_full_stays(journal):
    rollout = under_way(journal)
    journal.rollouts.promote(rollout, "ann", 20.0)
    assert journal.rollouts.current("ranker").approvals == 0, "promoted, but past no pause"
    journal.rollouts.promote(rollout, "ann", 21.0, approve=True)
    journal.rollouts.promote(rollout, "bob", 22.0, approve=True, full=True)
    journal.rollouts.promote(rollout, "ann", 23.0)
    now = journal.rollouts.current("ranker")
    assert (now.approvals, now.full, now.promoted) == (2, True, True)
    told = [(e["who"], e["message"]) for e in journal.events.newest(rollout=rollout.id) if e["kind"] == "promote"]
    assert told[1] == ("ann", "version 2 promoted")
    assert told[2] == ("bob", "version 2 promoted past its remaining traffic steps")


def test_a_freeze_takes_back_that_it_goes_on_although_paused(journal):
    rollout = under_way(journal)
    journal.rollouts.promote(rollout, "ann", 20.0, approve=True, full=True)
    journal.rollouts.freeze(rollout)
    now = journal.rollouts.current("ranker")
    assert not now.promoted
    assert (now.approvals, now.full) == (1, True), "what a person let past stays past"


def test_begun_in_full(journal):
    opened = journal.rollouts.begin(replace(asked(), promoted=True, full=True))
    assert opened == journal.rollouts.current("ranker")
    assert opened.full


def test_what_the_shadow_took_is_no_part_of_the_steps(journal):
    rollout = under_way(journal, Phase.SHADOWING)
    journal.rollouts.progress(rollout, 0.0, 20.0, plain("begins"), None)
    journal.rollouts.renew(rollout, 21.0)
    journal.rollouts.progress(journal.rollouts.current("ranker"), 30.0, 50.0, plain("goes on"), None)
    journal.rollouts.advance(journal.rollouts.current("ranker"), Phase.SHIFTING, plain("good"), 51.0)
    now = journal.rollouts.current("ranker")
    assert (now.progress, now.progressed_at, now.renewed_at) == (0.0, None, 21.0)
    journal.rollouts.progress(now, 5.0, 60.0, plain("goes on"), None)
    journal.rollouts.advance(journal.rollouts.current("ranker"), Phase.WAITING, plain("a pause"), 61.0)
    journal.rollouts.advance(journal.rollouts.current("ranker"), Phase.SHIFTING, plain("promoted"), 70.0)
    now = journal.rollouts.current("ranker")
    assert (now.progress, now.progressed_at, now.phase_since) == (5.0, 60.0, 70.0), "a pause takes nothing away"


FORMAT_1 = """
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, service TEXT, rollout INTEGER, kind TEXT NOT NULL,
  who TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}');
CREATE INDEX event_rollout ON event (rollout);
CREATE TABLE rollout (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, kind TEXT NOT NULL, candidate INTEGER NOT NULL, previous INTEGER,
  phase TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, release TEXT NOT NULL, label TEXT NOT NULL,
  fingerprint TEXT NOT NULL, started_at REAL NOT NULL, phase_since REAL NOT NULL, promoted INTEGER NOT NULL DEFAULT 0,
  stop TEXT, moved_at REAL, ended_at REAL, outcome TEXT, message TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX rollout_open ON rollout (service) WHERE ended_at IS NULL;
CREATE TABLE verdict (
  rollout INTEGER NOT NULL, gate TEXT NOT NULL, at REAL NOT NULL, result TEXT NOT NULL, PRIMARY KEY (rollout, gate));
CREATE TABLE version (
  service TEXT NOT NULL, version INTEGER NOT NULL, standing TEXT NOT NULL, reason TEXT NOT NULL,
  fingerprint TEXT NOT NULL, loaded INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (service, version));
CREATE TABLE memo (service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service, key));
INSERT INTO rollout (id, service, kind, candidate, previous, phase, who, why, release, label, fingerprint, started_at,
  phase_since, promoted, ended_at, outcome, message)
  VALUES (1, 'ranker', 'rollout', 1, NULL, 'retiring', 'watcher', 'new', 'equivalent', 'v1', 'f1', 1, 2, 0, 3, 'live',
    'Version 1 serves.'),
  (2, 'ranker', 'rollout', 2, 1, 'baking', 'ann', 'promoted', 'retrained', 'v2', 'f2', 4, 5, 1, NULL, NULL, '');
INSERT INTO event (at, service, rollout, kind, who, message) VALUES (4, 'ranker', 2, 'begin', 'ann', 'rollout of 2');
INSERT INTO verdict VALUES (2, 'load', 4.5, '{"name": "load", "verdict": "pass", "observed": 1.0, "limit": 60.0,
  "message": "READY.", "skipped": false, "evidence": {}}');
INSERT INTO version VALUES ('ranker', 1, 'released', 'Version 1 serves.', 'f1', 1, 3);
INSERT INTO memo VALUES ('ranker', 'loaded_fingerprints', '{"1": "f1"}');
PRAGMA user_version = 1;
"""
"""A journal as it was before there were traffic steps, in the middle of a rollout."""


def test_a_journal_without_traffic_steps_is_taken_over(path):
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript(FORMAT_1)
    old.close()
    journal = Journal(path)
    rollout = journal.rollouts.current("ranker")
    assert (rollout.id, rollout.candidate, rollout.phase, rollout.promoted) == (2, 2, Phase.BAKING, True)
    assert (rollout.full, rollout.progress, rollout.progressed_at, rollout.renewed_at) == (False, 0.0, None, None)
    assert rollout.approvals == 0
    assert rollout.gates[Gate.LOAD].verdict is Verdict.PASS
    assert journal.rollouts.served("ranker") == [1]
    assert journal.versions.records("ranker")[1].status is ReleaseStatus.RELEASED
    assert journal.notes.loaded().get("ranker") == {1: "f1"}
    assert [e["kind"] for e in journal.events.newest(rollout=2)] == ["begin"]
    journal.rollouts.advance(rollout, Phase.RETIRING, plain("kept for its time"), 6.0)
    journal.rollouts.end(journal.rollouts.current("ranker"), Outcome.LIVE, plain("Version 2 serves."), 7.0, [])
    split = under_way(journal)
    journal.rollouts.progress(split, 5.0, 20.0, plain("goes on"), None)
    journal.close()
    again = Journal(path)
    assert again.rollouts.current("ranker").progress == 5.0, "it is taken over once"
    columns = [r["name"] for r in again.database.connection.execute("PRAGMA table_info(rollout)")]
    again.close()
    fresh = Journal(path.with_name("fresh.db"))
    assert [r["name"] for r in fresh.database.connection.execute("PRAGMA table_info(rollout)")] == columns
    fresh.close()


def test_a_take_over_that_fails_leaves_the_old_journal(path):
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript(FORMAT_1)
    old.executescript("ALTER TABLE rollout ADD COLUMN renewed_at REAL;")  # the last one that the take-over adds
    old.close()
    with pytest.raises(JournalError, match="duplicate column"):
        Journal(path)
    left = sqlite3.connect(path)
    assert left.execute("PRAGMA user_version").fetchone()[0] == 1
    assert "progress" not in [r[1] for r in left.execute("PRAGMA table_info(rollout)")], "not by halves"
    left.close()


def test_it_is_written_durably(journal, path):
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert other.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    other.close()
    assert journal.database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2, (
        "FULL: on disk when a method returns"
    )


WRITER = """
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from baton.domain import *
from baton.journal import Journal
from baton.reasons import Reason, because
journal = Journal(Path(sys.argv[1]))
number, why = 0, because(Reason.PROMOTED)
while True:
    number += 1
    rollout = journal.rollouts.begin(Rollout(0, "ranker", Kind.ROLLOUT, number, None, Phase.VERIFYING, "a", why,
                            Release.EQUIVALENT, "l", "f", 1.0, 1.0))
    journal.notes.loaded().put("ranker", {number: "f"})
    journal.rollouts.advance(rollout, Phase.ROLLING_BACK, why, 2.0)
    journal.rollouts.end(journal.rollouts.current("ranker"), Outcome.LIVE, why, 3.0,
                [VersionRecord(number, ReleaseStatus.RELEASED, why, "f", True, 3.0)])
    print(number, flush=True)
"""


def test_killed_in_the_middle_of_writes(path):
    """What a method returned from is there after ``kill -9``, and what it did at once is there as a whole."""
    told = 0
    for lines in (1, 7, 30):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        try:
            for _ in range(lines):
                told = int(writer.stdout.readline())
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read()
            writer.wait()
            writer.stdout.close()
        told = max([told, *map(int, rest.split())])
        journal = Journal(path)
        assert journal.database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        served = set(journal.rollouts.served("ranker"))
        assert set(range(1, told + 1)) <= set(served), "what was told is there"
        assert served == set(journal.versions.records("ranker")), "an end and what it decided are one"
        assert max(journal.notes.loaded().get("ranker")) >= told
        # The next writer counts from one again.
        left = journal.rollouts.current("ranker")
        journal.close()
        path.unlink()
        for more in ("-wal", "-shm"):
            path.with_name(path.name + more).unlink(missing_ok=True)
        assert left is None or left.candidate == told + 1


def test_a_damaged_file(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"this was a journal once\n" * 200)
    with pytest.raises(JournalDamaged) as caught:
        Journal(path)
    assert (caught.value.reason, caught.value.mend) == (Reason.JOURNAL_FAILS, BROKEN)


def test_damage_in_the_middle(tmp_path):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(300):
        journal.notes.manifest(number).put("ranker", {"x" * 200: ""})
    journal.close()
    whole = path.read_bytes()
    assert len(whole) > 50_000
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(JournalDamaged) as caught:
        Journal(path)
    assert (caught.value.reason, caught.value.mend) == (Reason.JOURNAL_FAILS, BROKEN)


def test_damage_while_it_is_in_use(tmp_path):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(300):
        journal.notes.manifest(number).put("ranker", {"x" * 200: ""})
    journal.close()
    journal = Journal(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(JournalDamaged) as caught:
        journal.rollouts.newest()
    assert caught.value.reason is Reason.JOURNAL_FAILS
    journal.close()


@pytest.mark.parametrize("left", [0, 100, 4096, 30_000, 40_960])
def test_a_file_that_was_cut_short_is_left_as_it_is(tmp_path, left):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(300):
        journal.notes.manifest(number).put("ranker", {"x" * 200: ""})
    journal.close()
    os.truncate(path, left)
    before = path.read_bytes()
    with pytest.raises(JournalDamaged) as caught:
        Journal(path)
    assert caught.value.reason is (Reason.JOURNAL_EMPTY if left == 0 else Reason.JOURNAL_FAILS)
    assert caught.value.mend == BROKEN
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(("-shm", "-wal"))] == ["journal.db"]


def test_a_lost_log_of_writes_leaves_an_older_state(path):
    """Its -wal file is gone: what had not come into the file itself is forgotten, and what is there is sound."""
    journal = Journal(path)
    journal.rollouts.begin(asked(candidate=2))
    journal.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.rollouts.advance(journal.rollouts.current("ranker"), Phase.LOADING, plain("on"), 11.0)
    whole = path.read_bytes()
    journal.close()
    path.write_bytes(whole)
    older = Journal(path)
    assert older.rollouts.current("ranker").phase is Phase.VERIFYING
    older.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_goes_away_under_it(path, how):
    journal = Journal(path)
    journal.rollouts.begin(asked())
    path.rename(path.with_name("elsewhere.db"))
    if how == "replaced":
        Journal(path).close()
    for use in (journal.rollouts.newest, lambda: journal.events.append(1.0, "note", plain("unheard"))):
        with pytest.raises(JournalError) as caught:
            use()
        assert caught.value.reason is Reason.JOURNAL_GONE
    if how == "removed":
        path.with_name("elsewhere.db").rename(path)
        assert journal.rollouts.current("ranker") is not None, "it is the same file again"
    journal.close()


def test_closing_a_lost_one_does_not_harm_its_successor(path):
    """SQLite removes the -wal file by its name when it closes; under the name lies another journal's by then."""
    lost = Journal(path)
    lost.rollouts.begin(asked())
    path.parent.rename(path.parent.with_name("moved"))
    next_one = Journal(path)
    next_one.rollouts.begin(asked(candidate=9))
    wal = path.with_name(f"{path.name}-wal")
    inode = wal.stat().st_ino
    lost.close()
    assert wal.stat().st_ino == inode
    next_one.close()
    again = Journal(path)
    assert again.rollouts.current("ranker").candidate == 9
    again.close()


def test_who_may_not_act_writes_and_reads_nothing(path):
    answers: list[BaseException] = []

    def held() -> None:
        if answers:
            raise answers[0]

    journal = Journal(path, held)
    journal.rollouts.begin(asked())
    answers.append(Refused("The state directory is another's."))
    for use in (journal.rollouts.newest, lambda: journal.events.append(1.0, "note", plain("unheard")), journal.check):
        with pytest.raises(Refused, match="another's"):
            use()
    journal.close()


def test_rows_that_make_no_sense(path):
    with closing(Journal(path)) as journal:
        journal.versions.put(
            "ranker", VersionRecord(1, ReleaseStatus.RELEASED, plain("served"), "", loaded=True, at=1.0)
        )
        journal.read_all()
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE version SET standing = ?", ("rele\0sed",))
            other.commit()
        with pytest.raises(JournalDamaged) as caught:
            journal.read_all()
        assert caught.value.reason is Reason.JOURNAL_ROW


def test_a_damaged_journal_is_put_aside_and_never_written_to_again(path):
    with closing(Journal(path)) as journal:
        journal.notes.unexpected().put("ranker", {"before": "f"})
        journal.start_over(0.0, "It was damaged.")
        assert journal.notes.unexpected().get("ranker") is None
        journal.notes.unexpected().put("ranker", {"after": "f"})
        assert [e["kind"] for e in journal.events.newest()] == ["damaged"]
    with closing(Journal(path.with_name(f"{path.name}.damaged-19700101T000000Z"))) as aside:
        assert aside.notes.unexpected().get("ranker") == {"before": "f"}


@pytest.mark.parametrize("fails", [(database, "create"), (events, "insert_event")], ids=lambda fails: fails[1])
def test_a_damaged_journal_is_put_aside_once_there_is_room_for_another(path, monkeypatch, fails):
    kept = path.with_name(f"{path.name}.damaged-19700101T000000Z")

    def full(*_args, **_options):
        raise sqlite3.OperationalError("database or disk is full")

    with closing(Journal(path)) as journal:
        journal.notes.unexpected().put("ranker", {"before": "f"})
        with monkeypatch.context() as filled:
            filled.setattr(*fails, full)
            for at in range(3):
                with pytest.raises(JournalError, match="full"):
                    journal.start_over(float(at), f"Damage {at}.")
                journal.check()  # it is ours still, and goes on by itself
                with pytest.raises(JournalDamaged, match="Damage 0"):
                    journal.notes.unexpected().get("ranker")
        journal.start_over(4.0, "Damage 4.")
        assert journal.notes.unexpected().get("ranker") is None
        assert [e["message"].split(".")[0] for e in journal.events.newest()] == ["Damage 0"]
    with closing(Journal(kept)) as before:
        assert before.notes.unexpected().get("ranker") == {"before": "f"}


def test_two_damaged_journals_in_one_second(path):
    with closing(Journal(path)) as journal:
        for value in ("first", "second"):
            journal.notes.unexpected().put("ranker", {value: "f"})
            journal.start_over(0.0, "It was damaged.")
    for second, value in enumerate(("first", "second")):
        with closing(Journal(path.with_name(f"{path.name}.damaged-19700101T00000{second}Z"))) as kept:
            assert kept.notes.unexpected().get("ranker") == {value: "f"}


def test_a_file_of_another_baton(path):
    Journal(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(JournalError) as caught:
        Journal(path)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.JOURNAL_FORMAT, 1)


def test_a_full_disk_changes_nothing_and_passes(journal):
    rollout = journal.rollouts.begin(asked())
    pages = journal.database.connection.execute("PRAGMA page_count").fetchone()[0]
    journal.database.connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for _ in range(1000):
            journal.events.append(1.0, "note", plain("x" * 500))

    with pytest.raises(JournalError, match="database or disk is full") as caught:  # SQLite's own words
        fill()
    assert caught.value.reason is Reason.JOURNAL_FAILS
    assert journal.rollouts.current("ranker") == rollout
    journal.database.connection.execute("PRAGMA max_page_count = 1000000")
    journal.rollouts.advance(rollout, Phase.LOADING, plain("room again"), 12.0)
    assert journal.rollouts.current("ranker").phase is Phase.LOADING


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written(tmp_path):
    closed = tmp_path / "state"
    closed.mkdir(mode=0o500)
    with pytest.raises(JournalError, match="unable to open"):
        Journal(closed / "journal.db")
    shutil.rmtree(closed)


def test_threads(journal):
    """Writers and readers at once: nothing is lost, nothing is seen by halves."""

    def write(service: str) -> None:
        for number in range(1, 16):
            journal.rollouts.begin(asked(service=service, candidate=number))
            journal.rollouts.advance(journal.rollouts.current(service), Phase.ROLLING_BACK, plain("on"), 11.0)
            record = VersionRecord(number, ReleaseStatus.RELEASED, plain("r"), "f", loaded=True, at=1.0)
            journal.rollouts.end(journal.rollouts.current(service), Outcome.LIVE, plain("end"), float(number), [record])

    def read(service: str) -> None:
        while not all(w.done() for w in writers):
            assert set(journal.rollouts.served(service)) - {1} <= set(journal.versions.records(service))

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, f"service {n}") for n in range(4)]
        readers = [pool.submit(read, f"service {n}") for n in range(2)]
        for future in writers + readers:
            future.result()
    for number in range(4):
        assert set(journal.rollouts.served(f"service {number}")) == set(range(1, 16))


def test_each_rollout_has_a_salt_of_its_own_that_outlives_the_process(journal, path):
    first = journal.rollouts.begin(asked())
    assert len(bytes.fromhex(first.salt)) >= 16
    assert journal.rollouts.begin(asked("other")).salt != first.salt
    journal.close()
    again = Journal(path)
    found = again.rollouts.current("ranker")
    assert found is not None
    assert found.salt == first.salt
    again.close()


def test_a_rollout_that_an_older_baton_began_keeps_the_salt_that_it_had(journal):
    rollout = journal.rollouts.begin(asked())
    journal.database.connection.execute("DELETE FROM memo")  # as before rollouts had a salt of their own
    found = journal.rollouts.current("ranker")
    assert found is not None
    assert found.salt == str(rollout.id)


def test_nothing_that_is_shown_of_a_rollout_holds_its_salt(journal):
    rollout = journal.rollouts.begin(asked())
    assert rollout.salt not in repr(rollout)
    assert rollout.salt not in repr(journal.events.newest())
