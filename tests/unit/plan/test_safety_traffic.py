"""Deliberate defects of the way by which traffic comes to a candidate, each noticed by the simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.reasons import HASTY
from tests.support.settings import rollout_settings
from tests.unit.plan import world
from tests.unit.plan.simulate import Plan, caught
from tests.unit.plan.world import Behaviour, Broken, World

from baton.domain import Gate, Model, ModelState, Outcome, Phase, Rollout, Route, Step, Verdict
from baton.plan import (
    Advance,
    Ask,
    Decision,
    Progress,
    Renew,
    RolloutSettings,
    SetAlias,
    SetSplitter,
    View,
    converge,
    cutover,
    gates,
    no_rollout,
    phases,
    plan,
    rollback,
    traffic,
)
from baton.plan.converge import converge_alias
from baton.plan.steps import position
from baton.reasons import Reason

STEPS = (Step(10.0, hold=10.0), Step(50.0, over=10.0))


def split_world(of: Plan = plan, **settings: object) -> World:
    """Two servers on which version 2 has 10 % of the traffic of version 1."""
    told = World(of, 2, rollout_settings(settle=0.0, keep_previous=0.0, load_timeout=60.0, steps=STEPS, **settings))
    for version in (1, 2):
        told.files.put(version, told.now)
        for _ in range(3):
            told.run()
            told.now += 1.0
    assert {told.weight(s) for s in told.servers.values()} == {10.0}
    return told


def test_the_splitter_unloaded_under_the_alias_is_caught(monkeypatch):
    def hasty(view: View, phase: Phase) -> Decision | None:
        for server in view.live():
            if server.splitter is ModelState.READY and not view.split:
                if view.splitter is not None:
                    return Decision(phase, HASTY, SetSplitter(None))
                return converge.sync(view, phase, server, Model.SPLITTER, HASTY)
        return real(view, phase)

    real = converge_alias
    for module in (no_rollout, phases, rollback):
        monkeypatch.setattr(module, "converge_alias", hasty)
    assert "under the alias" in caught(plan)


def test_files_of_the_splitter_that_change_under_the_alias_are_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        return Decision(Phase.SHIFTING, HASTY, SetSplitter(None)) if view.split else plan(view, settings)

    assert "the splitter's files change" in caught(mutant)


def test_a_token_that_was_lost_in_mid_split_is_made_anew():
    told = split_world()
    told.restart_control(token_lost=True)
    told.now += 1.0
    told.run()
    for _ in range(5):
        told.now += 1.0
        told.run()
    assert told.rollout is not None
    assert told.rollout.stop is None
    assert {told.weight(s) for s in told.servers.values()} == {10.0}
    assert {s.loads[world.SPLITTER, 1] for s in told.servers.values()} == {2}, (
        "loaded once more, and not again and again"
    )


def test_a_splitter_that_takes_no_token_at_all_ends_the_split(monkeypatch):
    told = split_world()
    monkeypatch.setattr(world, "key_of", lambda _token: {"token_sha256": "0" * 64})
    told.restart_control(token_lost=True)
    for _ in range(60):
        told.now += 1.0
        told.run()
        if told.history[-1].candidate == 2:
            break
    assert told.history[-1].outcome is Outcome.ROLLED_BACK
    assert not told.files.split


def test_a_name_led_to_a_splitter_that_is_not_ready_is_caught(monkeypatch):
    def stand(view: View, one: Rollout, settings: RolloutSettings) -> Decision | None:
        if view.splitter == one.previous and not view.split:
            return Decision(one.phase, HASTY, SetAlias(one.previous, split=True))
        return real(view, one, settings)

    real = traffic._set_up_split
    monkeypatch.setattr(traffic, "_set_up_split", stand)
    assert "moves to the splitter, not READY on" in caught(plan)


def test_a_name_loaded_where_the_splitter_is_not_ready_is_caught(monkeypatch):
    def stand(view: View, one: Rollout, settings: RolloutSettings) -> Decision | None:
        return (converge.converge_alias(view, one.phase) if view.split else None) or real(view, one, settings)

    real = traffic._set_up_split
    told = split_world()
    monkeypatch.setattr(traffic, "_set_up_split", stand)
    told.servers["b"].splitter = Behaviour(load_error="no such backend")
    told.servers["b"].restart()
    with pytest.raises(Broken, match="without the splitter that it leads to"):
        told.run()


def test_traffic_for_a_version_whose_gates_are_open_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        one = view.rollout
        if decision.effect == Ask(Gate.LATENCY) and one is not None and traffic.stepwise(one, settings):
            return Decision(Phase.VALIDATING, HASTY, Advance(traffic.first_phase(one, settings), HASTY))
        return decision

    assert "gates are open" in caught(mutant)


def test_a_route_that_ignores_a_stop_is_caught(monkeypatch):
    def route(view: View, settings: RolloutSettings) -> Route | None:
        one = view.rollout
        return real(view if one is None else replace(view, rollout=replace(one, stop=None)), settings)

    real = world.route
    told = split_world()
    monkeypatch.setattr(world, "route", route)
    told.abort()
    with pytest.raises(Broken, match="to a stopped candidate"):
        told.run()


def test_a_shadow_that_gives_weight_is_caught(monkeypatch):
    def route(view: View, settings: RolloutSettings) -> Route | None:
        found = real(view, settings)
        return found and replace(found, weight=found.weight or 5.0)

    real = world.route
    monkeypatch.setattr(world, "route", route)
    assert "to a candidate in shadowing" in caught(plan)


@pytest.mark.parametrize("verdict", [Verdict.HOLD, Verdict.FAIL])
def test_progress_against_the_live_analysis_is_caught(verdict):
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        gate = view.live_gate
        return plan(replace(view, live_gate=gate and replace(gate, verdict=Verdict.PASS)), settings)

    told = split_world(mutant)
    told.live = verdict
    told.now += 5.0
    with pytest.raises(Broken, match=f"although live traffic says {verdict}"):
        told.run()


def test_progress_while_paused_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        return plan(replace(view, paused=False), settings)

    told = split_world(mutant)
    told.pause()
    told.now += 5.0
    with pytest.raises(Broken, match="although Baton is paused"):
        told.run()


def test_progress_for_the_time_of_a_hold_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        if isinstance(decision.effect, Progress) and decision.effect.seconds:
            seconds = view.now - view.rollout.progressed_at
            return replace(decision, effect=replace(decision.effect, seconds=seconds))
        return decision

    assert "at once" in caught(mutant) or "jumps over" in caught(mutant)


def test_a_step_that_is_jumped_over_is_caught(monkeypatch):
    monkeypatch.setattr(traffic, "further", lambda _steps, progress, _approvals, seconds: progress + seconds)
    assert "jumps over the end of a step" in caught(plan)


def test_a_person_s_time_to_decide_that_counts_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        one = view.rollout
        hasty = one is not None and one.phase is Phase.SHIFTING
        return plan(replace(view, rollout=replace(one, phase_since=0.0)) if hasty else view, settings)

    assert "a person's time to decide counts" in caught(mutant)


def test_a_pause_step_that_nobody_let_past_is_caught(monkeypatch):
    monkeypatch.setattr(traffic, "position", lambda steps, progress, _: position(steps, progress, 99))
    assert "all traffic moves in step 1" in caught(plan)


def test_all_traffic_before_the_steps_are_done_is_caught(monkeypatch):
    def hasty(view: View, one: Rollout, settings: RolloutSettings) -> Decision | None:
        begun = one.phase is Phase.SHIFTING and one.progress > 0
        return None if begun else traffic.progress_traffic(view, one, settings)

    monkeypatch.setattr(cutover, "progress_traffic", hasty)
    assert "all traffic moves in step" in caught(plan)


def test_all_traffic_before_any_is_caught(monkeypatch):
    def hasty(view: View, one: Rollout, settings: RolloutSettings) -> Decision | None:
        return None if one.phase is Phase.SHIFTING else traffic.progress_traffic(view, one, settings)

    monkeypatch.setattr(cutover, "progress_traffic", hasty)
    assert "all traffic moves before any" in caught(plan)


def test_a_shadow_that_is_left_out_is_caught(monkeypatch):
    monkeypatch.setattr(gates, "first_phase", lambda *_: Phase.SHIFTING)
    assert "after 0.0 s of shadow" in caught(plan)


def test_a_lease_renewed_for_a_stopped_candidate_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        one = view.rollout
        if one is not None and one.stop is not None and one.progressed_at is not None and one.renewed_at != view.now:
            return Decision(one.phase, HASTY, Renew())
        return plan(view, settings)

    assert "the lease of a stopped candidate is renewed" in caught(mutant)


# Corners that stories seldom reach


def calm(told: World) -> None:
    """Time passes until nothing is left to do."""
    for _ in range(12):
        told.now += 5.0
        told.run()
    told.settled()


def test_a_candidate_that_is_changed_while_it_has_traffic_goes_back():
    """What a restart of Triton would load met no gate."""
    told = split_world()
    told.files.put(2, told.now)
    told.servers["a"].restart()
    told.run()
    calm(told)
    assert told.files.alias == 1
    assert told.history[-1].outcome == "rolled_back"
    assert told.history[-1].ended_why.reason is Reason.FOLDER_CHANGED_MEANWHILE


def test_a_candidate_that_is_removed_while_it_has_traffic_goes_back():
    told = split_world()
    del told.files.folders[2]
    calm(told)
    assert told.files.alias == 1
    assert told.history[-1].ended_why.reason is Reason.FOLDER_REMOVED_MEANWHILE


def test_a_splitter_left_on_a_server_that_was_away_is_no_obstacle_to_the_next_split():
    """It knows the token of the split before, and refuses every route of this one."""
    told = split_world()
    told.servers["b"].reachable = False
    told.abort()
    told.run()
    assert told.files.splitter is None
    told.files.put(3, told.now)
    told.promote(3)
    told.run()
    told.servers["b"].reachable = True
    for _ in range(3):
        told.now += 1.0
        told.run()
    assert {told.weight(s) for s in told.servers.values()} == {10.0}
    calm(told)
    assert told.files.alias == 3


def test_full_skips_steps_and_no_verdict_of_live_traffic():
    told = split_world()
    told.live = Verdict.FAIL
    told.promote(None, full=True)
    calm(told)
    assert told.files.alias == 1
    assert told.history[-1].stop.gate is Gate.LIVE


def test_a_candidate_that_fails_while_all_traffic_waits_for_a_server_goes_back():
    """The way is behind it, but the alias can't move yet, and it has the share of the last step."""
    told = split_world()
    told.servers["b"].reachable = False
    for _ in range(5):
        told.now += 5.0
        told.run()
    assert told.decision.why.reason is Reason.MOVES_ONCE_ALL_ANSWER
    told.live = Verdict.FAIL
    told.run()
    told.servers["b"].reachable = True
    calm(told)
    assert told.files.alias == 1
    assert told.history[-1].stop.gate is Gate.LIVE


@pytest.mark.parametrize("resume", [True, False])
def test_a_server_that_takes_long_to_come_back_ends_no_lease(resume):
    """The control plane is there all the time, and the other servers lose nothing by it."""
    told = split_world(resume=resume)
    for version in (1, 2):
        told.servers["b"].versions[version] = Behaviour(load_s=60.0)
    told.servers["b"].restart()
    for _ in range(20):
        told.now += 3.0
        told.run()
        assert told.weight(told.servers["a"]) == 10.0
    calm(told)
    assert told.files.alias == 2


def test_the_last_share_stays_while_all_traffic_waits_for_a_server():
    told = split_world()
    told.servers["b"].reachable = False
    for _ in range(20):
        told.now += 5.0
        told.run()
    assert told.decision.why.reason is Reason.MOVES_ONCE_ALL_ANSWER
    assert told.weight(told.servers["a"]) == 50.0
    told.servers["b"].reachable = True
    calm(told)
    assert told.files.alias == 2
