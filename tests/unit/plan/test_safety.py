"""What must hold after every step of the plan, whatever fails, and that this harness notices when it does not.

``BATON_EXAMPLES`` sets how many stories are told (default 200). A failing one is told again with as few events as
it needs, and its seed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from tests.support.reasons import HASTY, within
from tests.support.settings import rollout_settings
from tests.unit.plan.simulate import Plan, caught, failing, made, play
from tests.unit.plan.world import ALIAS, Behaviour, Broken, World

from baton.domain import Gate, Model, Phase, Rollout
from baton.errors import Unreachable
from baton.plan import (
    Advance,
    Decision,
    RolloutSettings,
    SetAlias,
    SetPolicy,
    View,
    converge,
    loading,
    no_rollout,
    phases,
    plan,
    retire,
    rollback,
)
from baton.reasons import Reason, because

EXAMPLES = int(os.environ.get("BATON_EXAMPLES", "200"))


def test_safety():
    outcomes: Counter[str] = Counter()
    for seed in range(EXAMPLES):
        world, events = made(plan, seed)
        try:
            play(world, events)
        except Broken:
            broken, world, events = failing(plan, seed)
            told = "\n".join(world.trace)
            pytest.fail(f"seed {seed}, {len(world.servers)} servers, {world.settings}: {broken}\n{told}", pytrace=False)
        outcomes.update(str(r.outcome) for r in world.history)
    missing = {"live", "verified", "rolled_back", "rejected", "aborted", "superseded"} - set(outcomes)
    assert not missing or EXAMPLES < 100, f"no story ended {missing}: the stories are too tame"


def test_a_drop_before_the_alias_moved_is_caught(monkeypatch):
    def retiring(view: View, one: Rollout, settings: RolloutSettings) -> Decision:
        return shifting(view, one, settings) if view.alias == one.candidate else real(view, one, settings)

    def shifting(view: View, one: Rollout, settings: RolloutSettings) -> Decision:
        first = converge.unload_all_but(view, Phase.SHIFTING, frozenset({one.candidate}), one.phase_since, settings)
        return first or real(view, one, settings)

    real = phases.PHASES[Phase.SHIFTING]
    monkeypatch.setitem(phases.PHASES, Phase.SHIFTING, retiring)
    assert "which the alias on" in caught(plan) or "its alias leads to" in caught(plan)


def test_an_alias_before_ready_is_caught(monkeypatch):
    def hasty(view: View, one: Rollout, settings: RolloutSettings) -> Decision:
        if one.candidate in view.version_policy and view.alias != one.candidate:
            return Decision(Phase.LOADING, HASTY, SetAlias(one.candidate))
        return real(view, one, settings)

    real = phases.PHASES[Phase.LOADING]
    monkeypatch.setitem(phases.PHASES, Phase.LOADING, hasty)
    assert "not READY on" in caught(plan)


def test_an_alias_loaded_where_its_version_is_not_ready_is_caught(monkeypatch):
    def hasty(view: View, phase: Phase) -> Decision | None:
        for server in view.live():
            if view.alias is not None and not view.alias_matches(server):
                return converge.sync(view, phase, server, Model.ALIAS, HASTY)
        return None

    for module in (no_rollout, phases, rollback):
        monkeypatch.setattr(module, "converge_alias", hasty)
    assert "without version" in caught(plan)


def test_ignoring_an_abort_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        one = view.rollout
        if one is not None and one.stop is not None and one.phase is not Phase.ROLLING_BACK:
            return phases.PHASES[one.phase](view, one, settings)
        return plan(view, settings)

    assert "stopped" in caught(mutant)


def test_skipping_a_gate_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        looks = because(Reason.GATE_LOOKS, gate=Gate.LATENCY, version=getattr(view.rollout, "candidate", 0))
        if decision.why == looks:
            return Decision(Phase.VALIDATING, HASTY, Advance(Phase.SHIFTING, HASTY))
        return decision

    assert "live without" in caught(mutant)


def test_a_third_version_in_memory_is_caught(monkeypatch):
    world = serving_world()
    world.files.put(2, world.now)
    while not (world.rollout is not None and world.rollout.phase is Phase.VALIDATING):
        world.step()
        world.poll()
    world.servers["b"].reachable = False  # and keeps version 2
    world.abort()
    world.run()
    world.files.put(3, world.now)
    world.promote(3)
    world.run()
    monkeypatch.setattr(loading, "_free_memory", lambda *_: None)
    world.servers["b"].reachable = True
    world.servers["b"].versions[3] = Behaviour(load_s=10.0)
    world.now += 5.0
    with pytest.raises(Broken, match="server b holds"):
        world.run()


def test_a_reload_of_what_serves_is_caught(monkeypatch):
    monkeypatch.setattr(View, "loads_blocked", lambda _: None)
    assert "reload" in caught(plan)


def test_dropping_under_requests_is_caught(monkeypatch):
    monkeypatch.setattr(retire, "_queued_requests", lambda *_: None)
    world = serving_world()
    world.files.put(2, world.now)
    with world.servers["b"].request(ALIAS), pytest.raises(Broken, match="while requests are under way"):
        world.run()


def test_an_alias_outside_of_the_policy_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        if view.rollout is not None and decision.why.reason is Reason.KEEPING_GOAL:
            return Decision(decision.phase, HASTY, SetAlias(view.rollout.previous))
        return decision

    with pytest.raises(Broken, match="which the policy does not name"):
        go_back_late(mutant)


def test_running_in_circles_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        if decision.effect is None and view.alias is not None:
            other = frozenset({view.alias}) if len(view.version_policy) > 1 else frozenset({view.alias, 99})
            return Decision(decision.phase, HASTY, SetPolicy(other))
        return decision

    assert "no rest" in caught(mutant) or "leads to" in caught(mutant)


# Corners that stories seldom reach


def serving_world(versions: int = 1, servers: int = 2, of: Plan = plan, **settings: object) -> World:
    world = World(
        of, servers, rollout_settings(settle=0.0, keep_previous=0.0, load_timeout=60.0, drain_timeout=20.0, **settings)
    )
    for version in range(1, versions + 1):
        world.files.put(version, world.now)
        world.run()
    return world


def go_back_late(of: Plan) -> World:
    """Abort after the policy on disk dropped the old version, and before any server did."""
    world = serving_world(of=of)
    world.files.put(2, world.now)
    while not (world.rollout is not None and world.rollout.phase is Phase.RETIRING and world.files.policy == {2}):
        world.step()
        world.poll()
    world.abort()
    world.run()
    return world


def test_a_rollback_whose_previous_version_left_the_policy_names_it_there_first():
    world = go_back_late(plan)
    assert world.files.alias == 1
    world.settled()


def test_a_server_that_returns_at_a_withdrawn_version_keeps_it_until_its_alias_moved():
    world = serving_world()
    world.files.put(2, world.now)
    world.run()
    assert world.files.alias == 2
    world.rollback(1)
    while world.files.alias == 2:
        world.step()
        world.poll()
    world.servers["b"].reachable = False
    for _ in range(8):
        world.now += 30.0
        world.run()
    assert world.files.alias == 1
    world.servers["b"].reachable = True
    for _ in range(4):
        world.now += 30.0
        world.run()
    world.settled()


def test_content_that_was_changed_before_traffic_moved_never_serves():
    world = serving_world()
    world.files.put(2, world.now)
    while not (world.rollout is not None and world.rollout.phase is Phase.SHIFTING):
        world.step()
        world.poll()
    world.files.put(2, world.now)
    world.servers["a"].restart()
    world.run()
    assert world.history[-1].candidate == 2
    assert world.history[-1].outcome == "rejected"
    world.settled()


def test_a_rollback_ends_although_the_withdrawn_folder_was_changed():
    world = serving_world()
    world.files.put(2, world.now)
    while not (world.rollout is not None and world.rollout.phase is Phase.BAKING):
        world.step()
        world.poll()
    world.files.put(2, world.now)
    world.rollback(None)
    world.run()
    assert world.files.alias == 1
    world.settled()


def test_a_hanging_load_ends_with_the_server():
    world = serving_world()
    world.files.put(2, world.now)
    world.servers["a"].versions[2] = Behaviour(load_s=float("inf"))
    world.run()
    world.abort()
    world.run()
    assert world.rollout is not None
    assert Reason.STILL_LOADING in within(world.decision.why)
    for _ in range(4):
        world.now += 30.0
        world.run()
    assert world.history[-1].outcome == "aborted"
    assert Reason.STILL_LOADING in within(world.history[-1].ended_why), "it says what it leaves behind"
    world.files.put(3, world.now)
    world.now += 30.0
    world.run()
    assert world.rollout is None
    assert Reason.STILL_LOADING in within(world.decision.why), "and why the next one does not begin"
    world.servers["a"].restart()
    world.run()
    assert world.files.alias == 3
    world.settled()


def test_a_rollback_from_a_version_that_no_longer_loads():
    world = serving_world(versions=2)
    for server in world.servers.values():
        server.versions[2] = Behaviour(load_error="broken")
        server.restart()
    world.run()
    assert world.decision.phase is Phase.DEGRADED
    world.rollback(1)
    world.run()
    assert world.files.alias == 1
    world.settled()


def test_a_server_without_answers_is_no_reason_to_fall():
    world = serving_world(servers=1)
    world.servers["a"].reachable = False
    world.run()
    assert world.decision.phase is Phase.DEGRADED
    with pytest.raises(Unreachable):
        world.servers["a"].index()
    world.servers["a"].reachable = True
    world.run()
    assert world.decision.phase is Phase.STEADY


def test_the_same_view_gives_the_same_decision():
    world = serving_world(servers=3)
    world.files.put(2, world.now)
    while world.rollout is None or world.rollout.phase is not Phase.RETIRING:
        view = world.view()
        assert plan(view, world.settings) == plan(view, world.settings)
        world.step()
        world.poll()
