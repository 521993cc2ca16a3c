"""The journal keeps what it was told: through kills, threads, damage and other versions of itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from baton.domain import (
    Gate,
    GateResult,
    Kind,
    Outcome,
    Phase,
    Release,
    Rollout,
    Standing,
    Stop,
    Verdict,
    VersionRecord,
)
from baton.errors import Refused
from baton.journal import SCHEMA_VERSION, Journal, JournalError


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
        why="it is better",
        release=Release.RETRAINED,
        label="v2",
        fingerprint="abc",
        started_at=10.0,
        phase_since=10.0,
    )


def test_a_rollout_from_its_beginning_to_its_end(journal):
    rollout = journal.begin(asked())
    assert journal.open_rollout("ranker") == rollout
    assert journal.open_rollout("other") is None
    result = GateResult(Gate.OUTPUT, Verdict.PASS, "same", observed=0.0, limit=0.001, evidence={"cases": 12})
    journal.record(rollout, GateResult(Gate.OUTPUT, Verdict.HOLD, "few"), 11.0)
    journal.record(rollout, result, 12.0)
    for phase, at in ((Phase.LOADING, 13.0), (Phase.VALIDATING, 14.0), (Phase.SHIFTING, 15.0), (Phase.BAKING, 16.0)):
        now = journal.open_rollout("ranker")
        journal.advance(now, phase, "on", at)
    journal.promote(rollout, "bob", 16.5)
    journal.halt(rollout, Stop(Outcome.ROLLED_BACK, "ann", "worse", Gate.LATENCY), 17.0)
    journal.halt(rollout, Stop(Outcome.ABORTED, "bob", "later"), 17.5)
    now = journal.open_rollout("ranker")
    assert now.gates == {Gate.OUTPUT: result}
    assert now.gate_times == {Gate.OUTPUT: 12.0}
    assert (now.phase, now.phase_since, now.moved_at, now.promoted) == (Phase.BAKING, 16.0, 16.0, True)
    assert now.stop == Stop(Outcome.ROLLED_BACK, "ann", "worse", Gate.LATENCY), "the first reason stands"
    journal.advance(now, Phase.ROLLING_BACK, "worse", 18.0)
    now = journal.open_rollout("ranker")
    record = VersionRecord(2, Standing.WITHDRAWN, "worse", "abc", loaded=True, at=19.0)
    journal.end(now, Outcome.ROLLED_BACK, "worse", 19.0, [record])
    assert journal.open_rollout("ranker") is None
    ended = journal.rollout(rollout.id)
    assert (ended.outcome, ended.ended_at, ended.message, ended.moved_at) == (Outcome.ROLLED_BACK, 19.0, "worse", 16.0)
    assert journal.standings("ranker") == {2: record}
    assert journal.counts() == {("ranker", Outcome.ROLLED_BACK): 1}
    kinds = [e["kind"] for e in journal.events(rollout=rollout.id)]
    assert kinds == ["begin", "verdict", "verdict", *["phase"] * 4, "promote", "halt", "halt", "phase", "end"]


def test_what_is_not_in_the_lifecycle_is_refused(journal):
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.begin(asked(phase=Phase.SHIFTING))
    rollout = journal.begin(asked())
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.advance(rollout, Phase.SHIFTING, "hasty", 11.0)
    with pytest.raises(AssertionError, match="not in the lifecycle"):
        journal.end(rollout, Outcome.LIVE, "hasty", 11.0, [])
    with pytest.raises(Refused, match="under way"):
        journal.begin(asked(candidate=3))
    assert journal.open_rollout("ranker") == rollout
    journal.begin(asked(service="other"))


def test_versions_and_memos(journal):
    record = VersionRecord(7, Standing.REJECTED, "bad", "f", loaded=False, at=1.0)
    journal.stand("ranker", record)
    journal.stand("ranker", VersionRecord(3, Standing.RELEASED, "good", "f", loaded=True, at=2.0))
    assert set(journal.standings("ranker")) == {3, 7}
    assert journal.highest("ranker") == 7
    journal.begin(asked(candidate=9))
    assert journal.highest("ranker") == 9
    assert journal.highest("other") == 0
    journal.forget("ranker", 7, "ann", 3.0)
    assert set(journal.standings("ranker")) == {3}
    assert journal.memo("ranker", "loaded", {}) == {}
    journal.set_memo("ranker", "loaded", {"1": "f"})
    journal.set_memo("ranker", "loaded", {"2": "g"})
    assert journal.memo("ranker", "loaded") == {"2": "g"}


def test_the_order_in_which_versions_served(journal):
    for candidate, outcome in ((2, Outcome.LIVE), (3, Outcome.REJECTED), (4, Outcome.LIVE)):
        rollout = journal.begin(asked(candidate=candidate))
        journal.advance(rollout, Phase.ROLLING_BACK, "short", 11.0)
        journal.end(journal.open_rollout("ranker"), outcome, "end", float(candidate), [])
    assert journal.served("ranker") == [4, 1, 2, 1], "the latest first, and version 1, which was found serving"
    assert [r.candidate for r in journal.rollouts(service="ranker", limit=2)] == [4, 3]


def test_the_newest_events_oldest_first(journal):
    for number in range(5):
        journal.log(float(number), "note", f"event {number}", service="ranker", data={"n": number})
    journal.log(9.0, "note", "of all")
    events = journal.events(service="ranker", limit=3)
    assert [e["data"]["n"] for e in events] == [2, 3, 4]
    assert journal.events(limit=1)[0]["message"] == "of all"


def test_it_is_written_durably(journal, path):
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert other.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    other.close()
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL: on disk when a method returns"


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from baton.domain import *
from baton.journal import Journal
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    rollout = journal.begin(Rollout(0, "ranker", Kind.ROLLOUT, number, None, Phase.VERIFYING, "a", "b",
                            Release.EQUIVALENT, "l", "f", 1.0, 1.0))
    journal.set_memo("ranker", "last", number)
    journal.advance(rollout, Phase.ROLLING_BACK, "on", 2.0)
    journal.end(journal.open_rollout("ranker"), Outcome.LIVE, "end", 3.0,
                [VersionRecord(number, Standing.RELEASED, "r", "f", True, 3.0)])
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
        assert journal._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        served = set(journal.served("ranker"))
        assert set(range(1, told + 1)) <= set(served), "what was told is there"
        assert served == set(journal.standings("ranker")), "an end and what it decided are one"
        assert journal.memo("ranker", "last") >= told
        # The next writer counts from one again.
        left = journal.open_rollout("ranker")
        journal.close()
        path.unlink()
        for more in ("-wal", "-shm"):
            path.with_name(path.name + more).unlink(missing_ok=True)
        assert left is None or left.candidate == told + 1


def test_a_damaged_file(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"this was a journal once\n" * 200)
    with pytest.raises(JournalError, match=r"journal\.db fails: file is not a database") as caught:
        Journal(path)
    assert "Move the file away and start again" in str(caught.value)


def test_damage_in_the_middle(tmp_path):
    path = tmp_path / "journal.db"
    journal = Journal(path)
    for number in range(300):
        journal.set_memo("ranker", f"key {number}", "x" * 200)
    journal.close()
    whole = path.read_bytes()
    assert len(whole) > 50_000
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    damaged = Journal(path)
    with pytest.raises(JournalError, match="malformed") as caught:
        damaged.rollouts()
    damaged.close()
    assert "Move the file away" in str(caught.value)


def test_a_file_of_another_baton(path):
    Journal(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(JournalError, match="another Baton: its format is 99, not 2") as caught:
        Journal(path)
    assert "--state" in str(caught.value)


def test_a_full_disk_changes_nothing_and_passes(journal):
    rollout = journal.begin(asked())
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for _ in range(1000):
            journal.log(1.0, "note", "x" * 500)

    with pytest.raises(JournalError, match="full") as caught:
        fill()
    assert "goes on by itself" in str(caught.value)
    assert journal.open_rollout("ranker") == rollout
    journal._db.execute("PRAGMA max_page_count = 1000000")
    journal.advance(rollout, Phase.LOADING, "room again", 12.0)
    assert journal.open_rollout("ranker").phase is Phase.LOADING


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
            journal.begin(asked(service=service, candidate=number))
            journal.advance(journal.open_rollout(service), Phase.ROLLING_BACK, "on", 11.0)
            record = VersionRecord(number, Standing.RELEASED, "r", "f", loaded=True, at=1.0)
            journal.end(journal.open_rollout(service), Outcome.LIVE, "end", float(number), [record])

    def read(service: str) -> None:
        while not all(w.done() for w in writers):
            assert set(journal.served(service)) - {1} <= set(journal.standings(service))

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, f"service {n}") for n in range(4)]
        readers = [pool.submit(read, f"service {n}") for n in range(2)]
        for future in writers + readers:
            future.result()
    for number in range(4):
        assert set(journal.served(f"service {number}")) == set(range(1, 16))
