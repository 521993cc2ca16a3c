"""What earlier Batons left is gone on with: each recorded journal is opened, and its rollout comes to its end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.engine_loop.plane import ENGINE, NAME
from tests.journal.recorded import HERE, STAGES, Yard, opened, until

from baton.domain import ModelState, Outcome, Standing

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
    before = plane.journal.open_rollout(NAME)
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
        after = plane.journal.rollout(before.id)
        assert (after.outcome, after.who, after.started_at) == (stage.outcome, before.who, before.started_at)
    plane.close()


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem == "adopting"], ids=lambda p: p.parent.name)
def test_a_version_that_served_without_a_public_name_stays_loaded_when_it_is_turned_back(path: Path, tmp_path: Path):
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
    assert plane.journal.standings(NAME)[1].standing is Standing.ADOPTED
    assert [e["kind"] for e in plane.journal.events(service=NAME)].count("adopt") == 1, "once"
    plane.close()


@pytest.mark.parametrize("path", [p for p in RECORDED if p.stem == "at_rest"], ids=lambda p: p.parent.name)
def test_the_history_of_an_earlier_baton_is_whole(path: Path, tmp_path: Path):
    yard = opened(path, tmp_path)
    plane = STAGES["at_rest"].plane(yard)
    history = plane.app.history()
    assert {r["outcome"] for r in history} == set(Outcome)
    assert all(r["why"] and r["message"] for r in history)
    standings = plane.journal.standings(NAME)
    assert Counter(r.standing for r in standings.values()) == {
        Standing.RELEASED: 2, Standing.WITHDRAWN: 4, Standing.REJECTED: 1
    }  # fmt: skip
    assert all(str(r.reason) for r in standings.values())
    assert all(e["message"] for r in history for e in plane.app.rollout(r["id"])["events"])
    plane.close()
