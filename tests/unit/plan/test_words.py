"""What the plan says is so, by whatever way it was reached."""

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
    ("rollout", "settings", "words"),
    [
        ({"full": True}, SHADOW, "Version 2 is promoted in full: what was left of the shadow is skipped."),
        ({"full": True, "progress": 5.0, "progressed_at": 90.0, "renewed_at": 99.0}, SHADOW, "promoted in full"),
        ({}, replace(SHADOW, shadow_for=0.0, steps=()), "No requests are mirrored to version 2 any more"),
        ({"progress": 30.0, "progressed_at": 90.0, "renewed_at": 99.0, "gates": live()}, SHADOW,
         "Version 2 answered mirrored requests well."),
        ({"progress": 30.0, "progressed_at": 90.0, "renewed_at": 99.0, "gates": live(synthetic=21)}, SHADOW,
         "Version 2 answered mirrored requests well, in the end 21 golden ones for want of live ones."),
    ],
)  # fmt: skip
def test_nothing_answered_well_that_was_not_asked(rollout, settings, words):
    decision = plan(view(replace(ROLLOUT, phase=Phase.SHADOWING, **rollout)), settings)
    assert words in decision.message
    assert decision.effect.phase is Phase.SHIFTING
    assert decision.effect.why == decision.why


@pytest.mark.parametrize(
    ("rollout", "settings", "words"),
    [
        ({"full": True}, PAUSE, "The rest of its way is skipped."),
        ({"full": True, "promoted": True}, PAUSE, "The rest of its way is skipped."),
        ({"approvals": 1}, PAUSE, "A person let it go past the pause."),
        ({}, replace(PAUSE, steps=PAUSE.steps[:1]), "Its way has no pause here any more: so it is configured now."),
    ],
)
def test_who_let_it_past_a_pause(rollout, settings, words):
    at_pause = replace(ROLLOUT, phase=Phase.WAITING, progress=10.0, progressed_at=90.0, renewed_at=99.0)
    assert plan(view(replace(at_pause, **rollout)), settings).message == words


@pytest.mark.parametrize(
    ("given", "settings", "words"),
    [
        ({}, rollout_settings(keep_previous=40.0), "Version 1 was kept for its time."),
        ({}, rollout_settings(keep_previous=0.0), "Version 1 is not kept: keep_previous is 0."),
        ({"loaded": (2,), "folders": {2: Folder("2", 2, "f2")}}, rollout_settings(keep_previous=40.0),
         "Version 1, which was to be kept for an instant way back, is not loaded any more."),
        ({"folders": {v: Folder(str(v), v, f"f{v}", quiet_since=0.0) for v in (1, 2, 3)}},
         rollout_settings(keep_previous=90.0, supersede=True), "Version 1 is kept no longer: a newer version arrived"),
    ],
)  # fmt: skip
def test_what_was_kept(given, settings, words):
    decision = plan(view(replace(ROLLOUT, phase=Phase.BAKING), at=2, **given), settings)
    assert words in decision.message
    assert decision.effect.phase is Phase.RETIRING


def test_a_way_back_that_is_not_loaded_is_not_instant():
    baking = replace(ROLLOUT, phase=Phase.BAKING)
    there = plan(view(baking, at=2), rollout_settings(keep_previous=90.0))
    assert there.message == "Version 2 serves; version 1 stays loaded for an instant way back for 40 s more."
    gone = plan(
        view(baking, at=2, loaded=(2,), folders={2: Folder("2", 2, "f2")}), rollout_settings(keep_previous=90.0)
    )
    assert "version 1 is not loaded, so the way back takes as long as a load." in gone.message


def test_after_a_rollback_nothing_was_kept_for_its_time():
    back = replace(ROLLOUT, kind=Kind.ROLLBACK, phase=Phase.BAKING, candidate=1, previous=2)
    decision = plan(view(back, at=1), rollout_settings(keep_previous=90.0))
    assert str(decision.effect.why) == "Version 2 is not kept: a person went back from it."


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        ({"phase": Phase.VALIDATING}, "Every gate passed but those that were skipped (warmup, latency)."),
        ({"phase": Phase.VALIDATING, "kind": Kind.CHECK, "promoted": True},
         "Every gate passed but those that were skipped (warmup, latency); it is taken out again."),
        ({"phase": Phase.WAITING},
         "Version 2 waits for `ctl promote 2`: every gate passed but those that were skipped (warmup, latency)."),
        ({"phase": Phase.RETIRING, "kind": Kind.CHECK},
         "Version 2: every gate passed but those that were skipped (warmup, latency); nothing was promoted."),
    ],
)  # fmt: skip
def test_a_gate_that_was_skipped_has_not_passed(rollout, words):
    settings = rollout_settings(automatic=False)

    def said(gates: dict[Gate, GateResult]) -> str:
        check = rollout["phase"] is Phase.RETIRING
        seen = view(replace(ROLLOUT, gates=gates, **rollout), loaded=(1,) if check else (1, 2))
        decision: Decision = plan(seen, settings)
        return str(decision.effect.why) if isinstance(decision.effect, End) else decision.message

    assert said(skipped(Gate.WARMUP, Gate.LATENCY)) == words
    assert said(PASSED) == words.replace(" but those that were skipped (warmup, latency)", "")


def test_room_that_nobody_measured():
    gates = {g: r for g, r in skipped(Gate.CAPACITY).items() if g in FILE_GATES}
    decision = plan(view(replace(ROLLOUT, phase=Phase.VERIFYING, gates=gates), loaded=(1,)), rollout_settings())
    assert decision.message == "The files are whole and fit; whether there is room for them could not be told."


def test_a_gate_that_could_not_be_asked_does_not_look_at_anything():
    rollout = replace(ROLLOUT, phase=Phase.VALIDATING, gates={})
    failed = {Ask(Gate.WARMUP): Failure(99.9, 1, "Triton, server s0, does not answer.", refused=False)}
    decision = plan(view(rollout, failed=failed), rollout_settings())
    assert decision.message.startswith("Gate warmup could not look at version 2")
    assert "Triton, server s0, does not answer." in decision.message
    assert plan(view(rollout), rollout_settings()).message == "Gate warmup looks at version 2."
    running = plan(view(rollout, failed=failed, running=frozenset({Ask(Gate.WARMUP)})), rollout_settings())
    assert running.message == "Gate warmup looks at version 2."


def test_what_serves_where_a_server_is_silent():
    silent = ServerView("s1", live=False, reason="It is away.")
    empty = view(None, at=None, loaded=())
    assert plan(replace(empty, servers=(*empty.servers, silent)), rollout_settings()).message.endswith(
        "No version serves."
    )
    one = view(None, loaded=(1,))
    decision = plan(replace(one, servers=(*one.servers, silent)), rollout_settings())
    assert decision.message.endswith("Version 1 serves on the others.")


def test_a_folder_that_is_cut_off_is_not_called_complete():
    cut = Folder("2", 2, "f2", missing=("the end of model.safetensors",), cut=True)
    folders = {1: Folder("1", 1, "f1"), 2: cut}
    decision = plan(view(None, loaded=(1,), folders=folders, version_policy=frozenset({1})), rollout_settings())
    assert str(decision.effect.why) == "a new version folder is there, cut off, and nothing more of it arrives"


def test_what_came_in_place_of_a_lost_version_is_not_the_first():
    """Also of a first version it is true."""
    rollout = replace(
        ROLLOUT,
        phase=Phase.ROLLING_BACK,
        previous=None,
        stop=Stop(Outcome.ABORTED, "ann", because(Reason.ABORTED, who="ann")),
    )
    decision = plan(view(rollout, at=2, loaded=(2,)), rollout_settings())
    assert decision.message == "Version 2 goes; there is none to go back to."


def test_golden_requests_are_named_while_they_stand_in():
    rollout = replace(ROLLOUT, phase=Phase.SHIFTING, progressed_at=90.0, renewed_at=99.0)
    seen = view(rollout)
    server = replace(seen.servers[0], split=True, splitter=READY.state, steered=99.9)
    seen = replace(seen, split=True, splitter=1, servers=(server,))
    settings = rollout_settings(steps=(Step(weight=50.0, hold=60.0),))
    for gate, more in ((live(synthetic=21)[Gate.LIVE], True), (live()[Gate.LIVE], False)):
        message = plan(replace(seen, live_gate=gate), settings).message
        assert message.startswith("Version 2 has 50 % of traffic.")
        assert ("No live requests come; it is judged by 21 golden ones in their place." in message) is more
