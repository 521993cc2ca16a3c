"""What serves stops to answer although Triton calls it READY; and that the harness notices a plan that fails there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.reasons import HASTY, within
from tests.support.settings import rollout_settings
from tests.unit.plan.rollouts import READY, ROLLOUT
from tests.unit.plan.simulate import caught
from tests.unit.plan.test_safety import serving_world
from tests.unit.plan.world import ENGINE, Behaviour, Broken, World, held

from baton.domain import Model, ModelState, ModelVersion, Outcome, Phase, Route, Step, Stop
from baton.errors import TritonError
from baton.plan import Decision, Reload, RolloutSettings, ServerView, Sync, TakeOver, View, plan
from baton.plan.health import stuck_unloading
from baton.plan.traffic import CALLS_END_S, route
from baton.reasons import Reason, because

# Stories


def found(world: World) -> None:
    """Time passes until the dead are found, and everything that follows happens."""
    world.now += 6.0
    world.run()


def alive(world: World) -> bool:
    return not any(s.models.slots[ENGINE][v].dead for s in world.servers.values() for v in held(s, ModelState.READY))


def on_the_way(world: World, phase: Phase) -> None:
    while world.rollout is None or world.rollout.phase is not phase:
        world.step()
        world.poll()


def reloads(world: World) -> list[str]:
    return [line for line in world.trace if "-> load again" in line]


def test_a_dead_version_is_loaded_again_where_it_died_and_nowhere_else():
    world = serving_world(servers=3)
    world.servers["b"].die(ENGINE, 1)
    found(world)
    assert alive(world)
    assert reloads(world) == ["  -> load again on b"]
    assert world.decision.phase is Phase.STEADY
    silent = because(Reason.RELOADING, version=1, server="b", error="its process is gone")
    assert f"  [degraded] {silent}" in world.trace
    world.settled()


def test_servers_are_mended_one_after_the_other():
    world = serving_world(servers=2)
    for server in world.servers.values():
        server.die(ENGINE, 1)
        server.versions[1] = Behaviour(load_s=20.0)
    found(world)
    assert [e for e in world.jobs if isinstance(e, Reload)] == [Reload("a")]
    assert world.decision.why.reason in (Reason.RELOADING, Reason.RELOADING_ALONE)
    for _ in range(3):
        world.now += 20.0
        world.run()
    assert alive(world)
    assert len(reloads(world)) == 2
    world.settled()


def test_a_rollout_waits_while_what_serves_is_loaded_again_and_then_goes_on():
    world = serving_world(servers=1)
    world.files.put(2, world.now)
    on_the_way(world, Phase.VALIDATING)
    world.servers["a"].die(ENGINE, 1)
    found(world)
    assert alive(world)
    assert world.history[-1].outcome is Outcome.LIVE
    assert world.files.alias == 2
    assert "  -> policy [1]" in world.trace, "the candidate must not keep the version that clients need out"
    world.settled()


def test_a_dead_candidate_in_baking_is_one_flip_away():
    world = serving_world(servers=2)
    world.settings = replace(world.settings, keep_previous=600.0)
    world.files.put(2, world.now)
    on_the_way(world, Phase.BAKING)
    world.servers["b"].die(ENGINE, 2)
    found(world)
    assert world.history[-1].outcome is Outcome.ROLLED_BACK
    assert world.history[-1].ended_why.figures["previous"] == 1
    assert world.files.alias == 1
    assert reloads(world) == []
    world.settled()


def test_a_person_goes_back_to_a_version_that_died_after_it_was_loaded_again():
    world = serving_world(servers=2)
    world.settings = replace(world.settings, keep_previous=600.0)
    world.files.put(2, world.now)
    on_the_way(world, Phase.BAKING)
    world.servers["b"].die(ENGINE, 1)
    found(world)
    world.trace.clear()
    world.halt(Stop(Outcome.ROLLED_BACK, "ann", because(Reason.ASKED_BACK, who="ann")))
    world.run()
    assert world.files.alias == 1
    assert alive(world)
    assert reloads(world) == [], "clients are with version 2 until version 1 answers"
    assert world.trace.index("  -> policy [2]") < world.trace.index("  -> alias 1")
    world.settled()


def test_where_the_way_back_is_dead_too_what_serves_is_loaded_again():
    world = serving_world(servers=1)
    world.settings = replace(world.settings, keep_previous=600.0)
    world.files.put(2, world.now)
    on_the_way(world, Phase.BAKING)
    for version in (1, 2):
        world.servers["a"].die(ENGINE, version)
    found(world)
    assert alive(world)
    assert world.rollout is not None
    assert world.rollout.phase is Phase.BAKING
    assert world.files.policy == {1, 2}, "the way back is there again as well"


def split_world(*steps: Step, servers: int = 2) -> World:
    """Clients have met version 2."""
    world = serving_world(servers=servers, steps=steps or (Step(5.0, hold=600.0),))
    world.settings = replace(world.settings, keep_previous=600.0)
    world.files.put(2, world.now)
    on_the_way(world, Phase.SHIFTING)
    while not world.files.split or world.rollout.progressed_at is None:
        world.run()
        world.now += 1.0
    return world


def test_a_candidate_with_a_share_takes_over_from_a_stable_version_that_dies():
    world = split_world()
    world.servers["a"].die(ENGINE, 1)
    found(world)
    assert world.rollout is not None
    assert world.rollout.phase is Phase.BAKING
    assert world.files.alias == 2
    assert reloads(world) == []
    why = because(Reason.TAKES_OVER, version=1, server="a", error="its process is gone", candidate=2)
    assert any(str(why) in line for line in world.trace)
    world.now += 601.0
    world.run()
    assert world.history[-1].outcome is Outcome.LIVE
    world.settled()


def test_it_does_so_from_a_pause_step_and_while_baton_is_paused():
    world = split_world(Step(5.0, hold=1.0), Step(pause=True))
    for _ in range(20):
        world.now += 5.0
        world.run()
    assert world.rollout is not None
    assert world.rollout.phase is Phase.WAITING
    world.paused = True
    world.servers["b"].die(ENGINE, 1)
    found(world)
    assert world.rollout.phase is Phase.BAKING
    assert world.files.alias == 2


def test_a_candidate_that_is_dead_too_does_not_take_over():
    world = split_world()
    for version in (1, 2):
        world.servers["a"].die(ENGINE, version)
    found(world)
    assert world.history[-1].outcome is Outcome.ROLLED_BACK
    assert world.files.alias == 1
    assert alive(world)
    world.settled()


def test_nor_does_one_that_nobody_but_shadows_met():
    world = serving_world(servers=1, steps=(Step(5.0, hold=600.0),))
    world.settings = replace(world.settings, shadow_share=100.0, shadow_for=600.0)
    world.files.put(2, world.now)
    on_the_way(world, Phase.SHADOWING)
    while not world.files.split:
        world.run()
    world.servers["a"].die(ENGINE, 1)
    found(world)
    assert world.history[-1].outcome is Outcome.ABORTED
    assert world.history[-1].ended_why.figures["candidate"] == 2
    assert alive(world)
    world.settled()


def test_a_person_who_goes_back_from_a_dead_version_does_not_wait_for_it():
    world = serving_world(versions=2, servers=1)
    world.servers["a"].versions[2] = Behaviour(load_s=1000.0)
    world.servers["a"].die(ENGINE, 2)
    world.rollback(1)
    found(world)
    assert world.files.alias == 1
    assert reloads(world) == []
    world.settled()


def test_a_version_that_does_not_come_back_is_tried_again_and_the_sentence_says_what_to_do():
    world = serving_world(servers=1)
    world.servers["a"].die(ENGINE, 1)
    world.servers["a"].versions[1] = Behaviour(load_error="CUDA out of memory")
    found(world)
    assert world.servers["a"].models.slots[ENGINE][1].state is ModelState.UNAVAILABLE
    assert "CUDA out of memory" in world.decision.why.figures["error"]
    world.servers["a"].versions.clear()
    world.now += 60.0
    world.run()
    assert alive(world)
    world.settled()


def test_what_can_not_be_brought_back_to_answer_holds_no_new_version_back():
    world = serving_world(servers=1)
    world.servers["a"].die(ENGINE, 1)
    world.now += 6.0
    view = world.view()
    assert view.stable() == 1
    world._note(Reload("a"), TritonError("Stub process is not healthy."))
    view = world.view()
    assert view.stable() is None
    decision = plan(view, world.settings)
    assert decision.effect is None
    assert decision.why.reason is Reason.RELOAD_FAILED
    assert decision.why.figures["failed"].startswith("Stub process is not healthy.")


def test_a_changed_folder_is_not_loaded_in_place_of_what_served():
    world = serving_world(servers=1)
    world.files.put(1, world.now)
    world.servers["a"].die(ENGINE, 1)
    found(world)
    assert reloads(world) == []
    assert within(world.decision.why) == {Reason.RELOAD_HELD, Reason.FOLDER_CHANGED}


def test_no_reload_while_a_load_is_under_way_on_that_server():
    world = serving_world(servers=1)
    world.files.put(2, world.now)
    world.servers["a"].versions[2] = Behaviour(load_s=30.0)
    on_the_way(world, Phase.LOADING)
    world.run()
    assert Sync("a", Model.ENGINE) in world.jobs
    world.servers["a"].die(ENGINE, 1)
    found(world)
    assert reloads(world) == []
    assert world.decision.why.reason is Reason.RELOAD_WAITS
    world.now += 40.0
    world.run()
    assert reloads(world) == ["  -> load again on a"]


# What never leaves


def test_a_version_that_never_leaves_is_named_and_waited_for_once():
    world = serving_world(servers=1)
    for version in (2, 3, 4):
        world.files.put(version, world.now)
        world.servers["a"].versions[version - 1] = Behaviour(leave_s=float("inf") if version == 2 else 0.0)
        world.run()
        if version == 2:
            assert stuck_unloading(world.view(), world.settings) == []
            world.now += 21.0
            world.run()
        assert world.files.alias == version, "nothing waits for it again"
    assert stuck_unloading(world.view(), world.settings) == [
        because(Reason.STUCK_UNLOADING, version=1, server="a", for_s=21.0, limit_s=20.0, emptied=False)
    ]
    world.servers["a"].restart()
    assert stuck_unloading(world.view(), world.settings) == []


def test_only_what_is_still_leaving_is_named():
    engine = {1: ModelVersion(ModelState.READY), 2: ModelVersion(ModelState.UNLOADING)}
    server = ServerView("a", live=True, engine=engine, leaving_since={1: 0.0, 2: 0.0})
    view = View("public", 100.0, frozenset({1}), 1, (server,))
    assert [why.figures["version"] for why in stuck_unloading(view, rollout_settings(drain_timeout=99.0))] == [2]
    assert stuck_unloading(view, rollout_settings(drain_timeout=101.0)) == []


def test_what_has_no_process_any_more_holds_nothing_up():
    engine = {1: ModelVersion(ModelState.READY), 2: ModelVersion(ModelState.UNLOADING)}
    server = ServerView("a", live=True, engine=engine, leaving_since={2: 80.0}, emptied=frozenset({2}))
    view = View("public", 100.0, frozenset({1}), 1, (server,))
    assert server.stuck_unloading(2, 80.0, 120.0)
    assert stuck_unloading(replace(view, now=85.0), rollout_settings()) == [], "it may leave in a moment"
    (told,) = stuck_unloading(view, rollout_settings())
    assert (told.reason, told.figures["for_s"], told.figures["emptied"]) == (Reason.STUCK_UNLOADING, 20.0, True)


def test_the_splitter_stays_for_the_last_calls_of_the_candidate():
    world = split_world()
    with world.servers["a"].request(ENGINE, 2):
        assert world.rollout is not None
        world.halt(Stop(Outcome.ROLLED_BACK, "ann", because(Reason.ASKED_BACK, who="ann")))
        world.run()
        assert not world.files.split
        assert world.files.policy == {1}, "it is dropped meanwhile"
        assert world.files.splitter == 1
        assert world.decision.why == because(Reason.LAST_CALLS, version=2, server="a")
    world.now += 1.0
    world.run()
    assert world.files.splitter is None
    world.settled()


def test_it_does_not_stay_for_ever():
    world = split_world()
    with world.servers["a"].request(ENGINE, 2):
        world.halt(Stop(Outcome.ROLLED_BACK, "ann", because(Reason.ASKED_BACK, who="ann")))
        world.run()
        world.now += CALLS_END_S + 1
        world.run()
        assert world.files.splitter is None


# Defects that must be noticed


def test_leaving_the_dead_alone_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        return plan(replace(view, unhealthy={}), settings)

    assert "its process is gone" in caught(mutant)


def test_a_reload_of_what_answers_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        well = [s.name for s in view.live() if view.alias in s.serving() and (s.name, view.alias) not in view.unhealthy]
        if decision.effect is None and view.unhealthy and well and view.version_policy == {view.alias}:
            return Decision(Phase.DEGRADED, HASTY, Reload(well[0]))
        return decision

    assert "answers" in caught(mutant)


def test_reloads_on_all_servers_at_once_are_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        running = frozenset(e for e in view.running if not isinstance(e, Reload))
        unhealthy = {key: unhealthy for key, unhealthy in view.unhealthy.items() if Reload(key[0]) not in view.running}
        return plan(replace(view, running=running, unhealthy=unhealthy), settings)

    world = serving_world(servers=2, of=mutant)
    for server in world.servers.values():
        server.die(ENGINE, 1)
        server.versions[1] = Behaviour(load_s=20.0)
    found(world)
    with pytest.raises(Broken, match="the engine is unloaded on b during"):
        world.run()


def test_a_take_over_from_a_version_that_answers_is_caught():
    def mutant(view: View, settings: RolloutSettings) -> Decision:
        decision = plan(view, settings)
        if decision.effect is None and view.split and decision.phase is Phase.SHIFTING and not view.rollout.full:
            return Decision(decision.phase, HASTY, TakeOver(HASTY))
        return decision

    assert "takes over" in caught(mutant)


@pytest.mark.parametrize("splitter", [1, None])
def test_the_route_stays_until_the_splitter_goes(splitter):
    """What comes to it after the alias has left must not find a dead stable version alone."""
    settings = rollout_settings(steps=(Step(50.0, hold=10.0),))
    one = replace(ROLLOUT, phase=Phase.BAKING, progressed_at=50.0, promoted=True, full=True)
    server = ServerView("a", live=True, engine={1: READY, 2: READY}, alias={2: READY}, splitter=ModelState.READY)
    view = View("ranker", 60.0, frozenset({1, 2}), 2, (server,), splitter=splitter, rollout=one)
    assert route(view, settings) == (None if splitter is None else Route(2, 50.0, settings.shadow_share))
