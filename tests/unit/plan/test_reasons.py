"""Which reason the plan gives, by whatever way it was reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.settings import rollout_settings
from tests.unit.plan import rollouts
from tests.unit.plan.rollouts import READY

from baton.domain import FILE_GATES, GATES_OF, Folder, Gate, GateResult, Kind, Outcome, Phase, Step, Stop, Verdict
from baton.evidence import LiveEvidence, LiveSamples
from baton.plan import Ask, Decision, End, Failure, ServerView, View, plan
from baton.reasons import Reason, because

SHADOW = rollout_settings(steps=(Step(weight=50.0, hold=10.0),), shadow_share=25.0, shadow_for=30.0)
PAUSE = rollout_settings(steps=(Step(weight=50.0, hold=10.0), Step(pause=True)))
PASSED = {gate: GateResult(gate, Verdict.PASS, "passed") for gate in GATES_OF[Kind.ROLLOUT]}
ROLLOUT = replace(rollouts.ROLLOUT, gates=PASSED)
SINCE = {"progressed_at": 90.0, "renewed_at": 99.0}


def skipped(*gates: Gate) -> dict[Gate, GateResult]:
    return {**PASSED, **{g: GateResult(g, Verdict.PASS, "nothing to ask", skipped=True) for g in gates}}


def view(rollout: Any, *, at: int | None = 1, loaded: tuple[int, ...] = (1, 2), **given: Any) -> View:
    """Version ``at`` has the alias, and these versions are READY."""
    server = ServerView("s0", live=True, engine=dict.fromkeys(loaded, READY), alias={} if at is None else {at: READY})
    usual: dict[str, Any] = {
        "version_policy": frozenset(loaded),
        "servers": (server,),
        "folders": {v: Folder(str(v), v, f"f{v}") for v in (1, 2)},
        "loaded": {1: "f1", 2: "f2"},
    }
    return View("ranker", now=100.0, alias=at, rollout=rollout, **(usual | given))


def live(synthetic: int | None = None) -> dict[Gate, GateResult]:
    evidence = LiveEvidence(checks=(), samples=LiveSamples(0, 0, 0), worst=(), synthetic=synthetic)
    return {**PASSED, Gate.LIVE: GateResult(Gate.LIVE, Verdict.PASS, "as good as stable", evidence=evidence)}


@pytest.mark.parametrize(
    ("rollout", "settings", "why"),
    [
        ({"full": True}, SHADOW, because(Reason.SHADOW_SKIPPED, version=2)),
        ({"full": True, "progress": 5.0, **SINCE}, SHADOW, because(Reason.SHADOW_SKIPPED, version=2)),
        ({}, replace(SHADOW, shadow_for=0.0, steps=()), because(Reason.SHADOW_OFF, version=2)),
        ({"progress": 30.0, "gates": live(), **SINCE}, SHADOW, because(Reason.SHADOW_GOOD, version=2, golden=0)),
        ({"progress": 30.0, "gates": live(synthetic=21), **SINCE}, SHADOW,
         because(Reason.SHADOW_GOOD, version=2, golden=21)),
    ],
)  # fmt: skip
def test_nothing_answered_well_that_was_not_asked(rollout, settings, why):
    decision = plan(view(replace(ROLLOUT, phase=Phase.SHADOWING, **rollout)), settings)
    assert decision.why == why
    assert decision.effect.phase is Phase.SHIFTING
    assert decision.effect.why == decision.why


@pytest.mark.parametrize(
    ("rollout", "settings", "reason"),
    [
        ({"full": True}, PAUSE, Reason.WAY_SKIPPED),
        ({"full": True, "promoted": True}, PAUSE, Reason.WAY_SKIPPED),
        ({"approvals": 1}, PAUSE, Reason.PAUSE_PASSED),
        ({}, replace(PAUSE, steps=PAUSE.steps[:1]), Reason.PAUSE_GONE),
    ],
)
def test_who_let_it_past_a_pause(rollout, settings, reason):
    at_pause = replace(ROLLOUT, phase=Phase.WAITING, progress=10.0, **SINCE)
    assert plan(view(replace(at_pause, **rollout)), settings).why.reason is reason


@pytest.mark.parametrize(
    ("given", "settings", "reason"),
    [
        ({}, rollout_settings(keep_previous=40.0), Reason.KEPT),
        ({}, rollout_settings(keep_previous=0.0), Reason.NOT_KEPT),
        ({"loaded": (2,), "folders": {2: Folder("2", 2, "f2")}}, rollout_settings(keep_previous=40.0),
         Reason.STANDBY_LOST),
        ({"folders": {v: Folder(str(v), v, f"f{v}", quiet_since=0.0) for v in (1, 2, 3)}},
         rollout_settings(keep_previous=90.0, supersede=True), Reason.STANDBY_SUPERSEDED),
    ],
)  # fmt: skip
def test_what_was_kept(given, settings, reason):
    decision = plan(view(replace(ROLLOUT, phase=Phase.BAKING), at=2, **given), settings)
    assert decision.why == because(reason, version=1)
    assert decision.effect.phase is Phase.RETIRING


def test_a_way_back_that_is_not_loaded_is_not_instant():
    baking = replace(ROLLOUT, phase=Phase.BAKING)
    there = plan(view(baking, at=2), rollout_settings(keep_previous=90.0))
    assert there.why == because(Reason.KEEPING, version=2, previous=1, left_s=40.0, hold=None)
    gone = plan(
        view(baking, at=2, loaded=(2,), folders={2: Folder("2", 2, "f2")}), rollout_settings(keep_previous=90.0)
    )
    assert gone.why == because(Reason.KEEPING_NOTHING, version=2, previous=1, hold=None)


def test_after_a_rollback_nothing_was_kept_for_its_time():
    back = replace(ROLLOUT, kind=Kind.ROLLBACK, phase=Phase.BAKING, candidate=1, previous=2)
    decision = plan(view(back, at=1), rollout_settings(keep_previous=90.0))
    assert decision.effect.why == because(Reason.NOT_KEPT_GONE_BACK, version=2)


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        ({"phase": Phase.VALIDATING}, Reason.GATES_PASSED),
        ({"phase": Phase.VALIDATING, "kind": Kind.CHECK, "promoted": True}, Reason.CHECK_PASSED),
        ({"phase": Phase.WAITING}, Reason.WAITS_FOR_PROMOTION),
        ({"phase": Phase.RETIRING, "kind": Kind.CHECK}, Reason.VERIFIED),
    ],
)
def test_a_gate_that_was_skipped_has_not_passed(rollout, reason):
    settings = rollout_settings(automatic=False)

    def given(gates: dict[Gate, GateResult]) -> tuple[Reason, Any]:
        check = rollout["phase"] is Phase.RETIRING
        seen = view(replace(ROLLOUT, gates=gates, **rollout), loaded=(1,) if check else (1, 2))
        decision: Decision = plan(seen, settings)
        why = decision.effect.why if isinstance(decision.effect, End) else decision.why
        return why.reason, why.figures["skipped"]

    assert given(skipped(Gate.WARMUP, Gate.LATENCY)) == (reason, (Gate.WARMUP, Gate.LATENCY))
    assert given(PASSED) == (reason, ())


def test_room_that_nobody_measured():
    gates = {g: r for g, r in skipped(Gate.CAPACITY).items() if g in FILE_GATES}
    decision = plan(view(replace(ROLLOUT, phase=Phase.VERIFYING, gates=gates), loaded=(1,)), rollout_settings())
    assert decision.why == because(Reason.FILES_PROVED_ROOM_UNKNOWN)


def test_a_gate_that_could_not_be_asked_does_not_look_at_anything():
    rollout = replace(ROLLOUT, phase=Phase.VALIDATING, gates={})
    failed = {Ask(Gate.WARMUP): Failure(99.9, 1, "Triton, server s0, does not answer.", refused=False)}
    decision = plan(view(rollout, failed=failed), rollout_settings())
    figures = {"gate": Gate.WARMUP, "version": 2}
    assert decision.why == because(Reason.GATE_COULD_NOT_LOOK, **figures, error="Triton, server s0, does not answer.")
    assert plan(view(rollout), rollout_settings()).why == because(Reason.GATE_LOOKS, **figures)
    running = plan(view(rollout, failed=failed, running=frozenset({Ask(Gate.WARMUP)})), rollout_settings())
    assert running.why == because(Reason.GATE_LOOKS, **figures)


def test_what_serves_where_a_server_is_silent():
    silent = ServerView("s1", live=False, reason="It is away.")
    empty = view(None, at=None, loaded=())
    decision = plan(replace(empty, servers=(*empty.servers, silent)), rollout_settings())
    assert decision.why == because(Reason.SOME_SILENT, servers=(("s1", "It is away."),), serves=None)
    one = view(None, loaded=(1,))
    decision = plan(replace(one, servers=(*one.servers, silent)), rollout_settings())
    assert decision.why.figures["serves"] == 1


def test_a_folder_that_is_cut_off_is_not_called_complete():
    cut = Folder("2", 2, "f2", missing=("the end of model.safetensors",), cut=True)
    folders = {1: Folder("1", 1, "f1"), 2: cut}
    decision = plan(view(None, loaded=(1,), folders=folders, version_policy=frozenset({1})), rollout_settings())
    assert decision.effect.why == because(Reason.CUT_OFF)


def test_what_came_in_place_of_a_lost_version_is_not_the_first():
    """Also of a first version it is true."""
    rollout = replace(
        ROLLOUT,
        phase=Phase.ROLLING_BACK,
        previous=None,
        stop=Stop(Outcome.ABORTED, "ann", because(Reason.ABORTED, who="ann")),
    )
    decision = plan(view(rollout, at=2, loaded=(2,)), rollout_settings())
    assert decision.why == because(Reason.FIRST_GOES, version=2)


def test_golden_requests_are_named_while_they_stand_in():
    rollout = replace(ROLLOUT, phase=Phase.SHIFTING, progressed_at=90.0, renewed_at=99.0)
    seen = view(rollout)
    server = replace(seen.servers[0], split=True, splitter=READY.state, steered=99.9)
    seen = replace(seen, split=True, splitter=1, servers=(server,))
    settings = rollout_settings(steps=(Step(weight=50.0, hold=60.0),))
    share = because(Reason.SHARE, version=2, weight=50.0)
    for synthetic, why in ((21, because(Reason.JUDGED_BY_GOLDEN, doing=share, count=21)), (None, share)):
        assert plan(replace(seen, live_gate=live(synthetic)[Gate.LIVE]), settings).why == why
