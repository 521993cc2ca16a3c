"""What earlier Batons left is gone on with: each recorded journal is opened, and its rollout comes to its end."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.controller.plane import ENGINE, NAME, Plane
from tests.unit.journal.recorded import HERE, STAGES, Yard, opened, until

from baton.domain import Gate, ModelState, Outcome, Phase, ReleaseStatus
from baton.journal import Journal
from baton.reasons import Reason, because
from baton.schema import JournalDamaged

RECORDED = sorted(HERE.glob("[0-9]*/*.sql"))


def test_every_stage_is_recorded_in_every_format():
    assert {p.parent.name for p in RECORDED} >= {"2"}
    for folder in {p.parent for p in RECORDED}:
        assert {p.stem for p in folder.glob("*.sql")} == set(STAGES)


def ready(yard: Yard) -> set[int]:
    return {v for v, m in yard.servers["a"].index()[ENGINE].items() if m.state is ModelState.READY}


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_rollout_of_an_earlier_baton_goes_on_to_its_end(path: Path, tmp_path: Path):
    stage = STAGES[path.stem]
    yard = opened(path, tmp_path)
    plane = stage.plane(yard)
    before = plane.journal.rollouts.current(NAME)
    assert (before is None) == (stage.outcome is None)
    if before is not None:
        assert path.stem.startswith(before.phase) or path.stem in ("adopting", "adopted")
    if stage.promotes:
        for _ in range(3):
            plane.turn()
            yard.now += 1.0
        assert plane.phase() is before.phase, "nobody else lets it go on"
        plane.app.promote(None, None, full=False, who="ann")
    until(yard, plane, lambda: plane.rests_at(stage.serves), "its end")
    for _ in range(3):
        plane.turn()
    assert plane.rests_at(stage.serves)
    assert ready(yard) == {stage.serves}
    if before is not None:
        after = plane.journal.rollouts.get(before.id)
        assert (after.outcome, after.who, after.started_at) == (stage.outcome, before.who, before.started_at)
    plane.close()


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem == "adopting"], ids=lambda p: p.parent.name)
def test_a_version_that_served_without_an_alias_stays_loaded_when_it_is_turned_back(path: Path, tmp_path: Path):
    yard = opened(path, tmp_path)
    plane = STAGES["adopting"].plane(yard)
    plane.turn()
    plane.app.abort(None, who="ann")
    plane.run(lambda: plane.rests_at(None), "the end of the abort")
    assert ready(yard) == {1}, "clients ask it as they did before"
    plane.close()


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem == "adopted"], ids=lambda p: p.parent.name)
def test_what_an_earlier_baton_adopted_stays_so(path: Path, tmp_path: Path):
    yard = opened(path, tmp_path)
    plane = STAGES["adopted"].plane(yard)
    plane.turn()
    assert plane.journal.versions.records(NAME)[1].status is ReleaseStatus.ADOPTED
    assert [e["kind"] for e in plane.journal.events.newest(service=NAME)].count("adopt") == 1, "once"
    plane.close()


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem == "at_rest"], ids=lambda p: p.parent.name)
def test_the_history_of_an_earlier_baton_is_whole(path: Path, tmp_path: Path):
    yard = opened(path, tmp_path)
    plane = STAGES["at_rest"].plane(yard)
    history = plane.app.history()
    assert {r.outcome for r in history} == set(Outcome)
    assert all(r.why and r.message for r in history)
    codes = {r.outcome: r.code for r in history}
    assert (codes[Outcome.ABORTED], codes[Outcome.SUPERSEDED]) == (Reason.ABORTED, Reason.SUPERSEDED)
    assert (codes[Outcome.REJECTED], codes[Outcome.LIVE]) == (Reason.GATE_FAILED, Reason.SERVES)
    version_records = plane.journal.versions.records(NAME)
    assert Counter(r.status for r in version_records.values()) == {
        ReleaseStatus.RELEASED: 2, ReleaseStatus.WITHDRAWN: 4, ReleaseStatus.REJECTED: 1
    }  # fmt: skip
    assert all(str(r.reason) for r in version_records.values())
    assert all(e.message for r in history for e in plane.app.rollout(r.id).events)
    plane.close()


def at(stage: str, root: Path) -> Plane:
    return STAGES[stage].plane(opened(HERE / "2" / f"{stage}.sql", root))


def test_what_decides_is_read_out_of_the_sentences_of_format_2(tmp_path: Path):
    plane = at("at_rest", tmp_path)
    history = {r.id: r for r in plane.journal.rollouts.newest(service=NAME)}
    whys = {r.outcome: r for r in history.values()}
    assert {r.why.reason for r in history.values()} == {
        Reason.NEW_VERSION, Reason.ASKED_BACK, Reason.TRIED_AGAIN, Reason.VERIFICATION
    }  # fmt: skip
    assert whys[Outcome.ABORTED].stop.why == because(Reason.ABORTED, who="ann")
    assert whys[Outcome.SUPERSEDED].ended_why == because(Reason.SUPERSEDED, version=6)
    rejected = whys[Outcome.REJECTED]
    assert rejected.stop.gate in (Gate.OUTPUT, Gate.LOAD)
    assert rejected.ended_why == rejected.stop.why
    assert rejected.stop.why.reason is Reason.GATE_FAILED
    assert rejected.stop.why.figures["gate"] == rejected.stop.gate
    version_records = plane.journal.versions.records(NAME)
    assert version_records[2].reason == because(Reason.ASKED_BACK, who="ann")
    assert version_records[3].reason == because(Reason.SERVES, version=3)
    assert version_records[7].reason.reason is Reason.GATE_FAILED
    retried = next(r for r in history.values() if r.why.reason is Reason.TRIED_AGAIN)
    assert retried.why.figures == {"release": "retrained"}
    plane.close()


def test_events_of_format_2_have_reasons_and_their_sentences(tmp_path: Path):
    path = HERE / "2" / "at_rest.sql"
    row = r"INSERT INTO \"event\" VALUES\(\d+,[^,]+,[^,]+,[^,]+,'\w+','\w+','((?:[^']|'')*)'"
    sentences = [s.replace("''", "'") for s in re.findall(row, path.read_text())]
    plane = at("at_rest", tmp_path)
    events = plane.journal.events.newest(limit=10_000)
    kept = [(e["message"], s) for e, s in zip(events, sentences, strict=True) if e["why"].reason is Reason.OTHER]
    assert all(message == sentence for message, sentence in kept), "what has no reason keeps its words"
    reasons = {kind: {e["why"].reason for e in events if e["kind"] == kind} for kind in ("begin", "phase", "verdict")}
    assert reasons == {"begin": {Reason.BEGUN}, "phase": {Reason.MOVED_ON}, "verdict": {Reason.VERDICT}}
    moved = next(e["why"] for e in events if e["kind"] == "phase")
    assert (moved.figures["before"], moved.figures["after"]) == (Phase.VERIFYING, Phase.LOADING)
    assert kept
    plane.close()


def test_a_row_of_format_2_that_makes_no_sense_is_damage(tmp_path: Path):
    yard = opened(HERE / "2" / "rolling_back.sql", tmp_path)
    path = yard.root / "state" / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE rollout SET stop = 'aborted by ann' WHERE stop IS NOT NULL")
        db.commit()
    with pytest.raises(JournalDamaged):
        Journal(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2, "it is left as it was"
