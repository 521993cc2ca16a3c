"""No rollout stands for ever, and none stands in silence: one fault that stays, in every phase.

The time of a phase is bounded by the configured limits of what it waits for. What is waited for without a limit (a
person, live traffic, a server that is away) is told with what ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.reasons import within
from tests.support.settings import rollout_settings
from tests.unit.plan.world import ENGINE, Behaviour, World

from baton.domain import Gate, Outcome, Phase, Step
from baton.plan import plan
from baton.plan.phases import PHASES as HANDLERS
from baton.plan.view import Failure, backoff
from baton.reasons import Reason

LOAD_S, DRAIN_S, KEEP_S, WAY_S = 60.0, 20.0, 30.0, 40.0
SETTINGS = rollout_settings(
    keep_previous=KEEP_S,
    settle=0.0,
    load_timeout=LOAD_S,
    drain_timeout=DRAIN_S,
    hold_retry=5.0,
    hold_attempts=3,
    steps=(Step(5.0, hold=10.0), Step(50.0, over=10.0)),
    shadow_share=25.0,
    shadow_for=10.0,
)
LONGEST_S = 4 * (2 * LOAD_S + 2 * DRAIN_S) + KEEP_S + WAY_S
"""Four phases at most wait for the fault: for a call that fails at its deadline, once more, and for requests."""
ENDS_IT = {
    Reason.ALL_SILENT,
    Reason.AWAY,
    Reason.BACK_ONCE_ALL_ANSWER,
    Reason.FOLDER_CHANGED,
    Reason.LOADED_WHERE_ANSWERED,
    Reason.LOADS_ONCE_ALL_ANSWER,
    Reason.MOVES_ONCE_ALL_ANSWER,
    Reason.NOTHING_UNSEEN,
    Reason.PAUSE_STEP,
    Reason.SERVES_WHERE_ANSWERED,
    Reason.SPLIT_ONCE_ALL_ANSWER,
    Reason.STILL_LOADING,
    Reason.UNJUDGED,
}
"""Of a wait without a limit: those that say what a person can do."""


def away(world: World) -> None:
    world.servers["b"].reachable = False


def all_away(world: World) -> None:
    for server in world.servers.values():
        server.reachable = False


def loads_hang(world: World) -> None:
    for server in world.servers.values():
        for version in (1, 2):
            server.versions[version] = Behaviour(load_s=math.inf)


def loads_are_refused(world: World) -> None:
    for version in range(1, 4):
        world.servers["b"].versions[version] = Behaviour(load_error="the weights do not fit")


def machine_at_fault(world: World) -> None:
    for version in range(1, 4):
        world.servers["b"].versions[version] = Behaviour(load_error="No space left on device")


def restarts_and_does_not_load(world: World) -> None:
    loads_hang(world)
    world.servers["b"].versions[1] = Behaviour()
    world.servers["b"].restart()


def splitter_hangs(world: World) -> None:
    for server in world.servers.values():
        server.splitter = Behaviour(load_s=math.inf)


def splitter_is_refused(world: World) -> None:
    world.servers["b"].splitter = Behaviour(load_error="unable to find backend library for backend 'splitter'")


def answers_are_lost(world: World) -> None:
    """Calls are carried out, and nobody hears of it."""
    world.servers["b"].lost_answers = 10**9


def never_leaves(world: World) -> None:
    for server in world.servers.values():
        for version in range(1, 4):
            server.versions[version] = Behaviour(leave_s=math.inf)


def passes_over(world: World) -> None:
    """Triton sees no change in the files any more, as an NFS mount or a file from the future make it."""

    def read(model: str) -> object:
        files = real(model)
        known = world.servers["a"].models.files.get(model)
        return known if files is not None and known is not None and model == ENGINE else files

    real = world.servers["b"].models.repository.read
    for server in world.servers.values():
        server.models.repository = type("Stale", (), {"read": staticmethod(read)})()


def dies(world: World) -> None:
    for version, slot in world.servers["b"].models.slots.get(ENGINE, {}).items():
        if version == max(world.files.folders):
            slot.dead = True


def folder_changes(world: World) -> None:
    world.files.put(1, world.now)


def gates_can_t_be_asked(world: World) -> None:
    world.gates = {gate: [None] * 10_000 for gate in Gate}


FAULTS: tuple[Callable[[World], None], ...] = (
    away,
    all_away,
    loads_hang,
    loads_are_refused,
    machine_at_fault,
    restarts_and_does_not_load,
    splitter_hangs,
    splitter_is_refused,
    answers_are_lost,
    never_leaves,
    passes_over,
    dies,
    folder_changes,
    gates_can_t_be_asked,
)
PHASES = tuple(HANDLERS)


def under_way(until: Phase) -> World:
    """A world in which the rollout of version 2 has just come to the phase."""
    manual = until is Phase.WAITING
    steps = (Step(5.0, hold=5.0), Step(pause=True), *SETTINGS.steps) if manual else SETTINGS.steps
    world = World(plan, 2, replace(SETTINGS, steps=steps))
    world.files.put(1, world.now)
    world.run()
    world.files.put(2, world.now)
    for _ in range(2000):
        if world.rollout is not None and world.rollout.phase is until:
            return world
        if not (world.step() | world.poll()):
            world.now += 1.0
    raise AssertionError(f"it never came to {until}: {world.decision}")


def stands(world: World, seconds: float) -> bool:
    """Whether the rollout of version 2 is still under way after so many seconds."""
    until = world.now + seconds
    while world.now < until and world.rollout is not None:
        world.now += 2.5
        for server in world.servers.values():
            server.advance()
        world.run()
    return world.rollout is not None


def stood(world: World) -> str:
    """Where and why, and how it came there."""
    one = world.rollout
    return "\n".join([f"{None if one is None else one.phase}: {world.decision.message}", *world.trace[-20:]])


def told(world: World) -> bool:
    """Whether it is said what ends the wait: by the plan, or by what the effect failed with."""
    by_failure = any(failure.machine for failure in world.view().failed.values())
    return by_failure or bool(within(world.decision.why) & ENDS_IT)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_it_ends_or_says_what_ends_it(fault, phase):
    world = under_way(phase)
    fault(world)
    if stands(world, LONGEST_S):
        assert told(world), stood(world)
        assert world.view().unreachable() or phase is Phase.WAITING or fault is folder_changes, stood(world)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_an_abort_ends_it_or_says_what_is_waited_for(fault, phase):
    world = under_way(phase)
    fault(world)
    world.run()
    if world.rollout is None:
        return
    world.abort()
    if stands(world, LONGEST_S):
        assert told(world), stood(world)
        assert world.view().unreachable(), stood(world)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.VALIDATING, Phase.SHIFTING, Phase.BAKING, Phase.RETIRING])
@pytest.mark.parametrize("fault", [loads_hang, passes_over, splitter_hangs], ids=lambda f: f.__name__)
def test_the_next_rollout_is_not_held_up_in_silence(fault, phase):
    world = under_way(phase)
    fault(world)
    stands(world, LONGEST_S)
    world.files.put(3, world.now)
    world.now += 30.0
    world.run()
    if world.rollout is not None:
        assert world.rollout.candidate == 3
        stands(world, LONGEST_S)
    assert world.rollout is None
    done = [r for r in world.history if r.candidate == 3]
    assert done or told(world), world.decision.message
    assert not any(r.outcome is Outcome.REJECTED for r in done), "no fault of the version's"


def test_an_effect_that_has_failed_for_days_is_tried_every_30_s():
    failure = Failure(at=100.0, count=5000, message="refused", refused=True)
    assert backoff(failure, 129.0)
    assert not backoff(failure, 130.0)
