"""Seeded stories for the world of ``world.py``: many random events, then quiet, then rest."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable
from typing import NamedTuple

from tests.support.reasons import within
from tests.support.rules import ASKED
from tests.support.settings import rollout_settings
from tests.unit.plan.world import ALIAS, ENGINE, Behaviour, Broken, World, held, serving

from baton.domain import Kind, ModelState, Phase, Step, Verdict
from baton.errors import BatonError
from baton.plan import Decision, RolloutSettings, View
from baton.reasons import Reason

READY = ModelState.READY
Plan = Callable[[View, RolloutSettings], Decision]
CATCH_WITHIN = 400
"""Stories within which each deliberate defect must be noticed. Seeds are fixed: it either is, or it is not."""


class Event(NamedTuple):
    """One event: what happens, and three numbers that choose among what is there."""

    what: str
    a: int
    b: int
    c: int


WEIGHTS = {
    "run": 10,
    "step": 30,
    "poll": 10,
    "time": 25,
    "arrive": 7,
    "arriving": 1,
    "change": 2,
    "remove": 1,
    "unexpected": 1,
    "tidy": 2,
    "behave": 4,
    "heal": 4,
    "away": 4,
    "back": 5,
    "restart": 3,
    "lose": 2,
    "gate": 4,
    "disk": 1,
    "request": 2,
    "answered": 2,
    "abort": 4,
    "rollback": 4,
    "promote": 3,
    "full": 1,
    "live": 5,
    "splitter": 1,
    "pause": 1,
    "resume": 2,
    "retry": 2,
    "verify": 2,
    "crash": 3,
    "die": 2,
}


STEPS = (
    (),
    (Step(5.0, hold=10.0), Step(50.0, over=20.0)),
    (Step(5.0, hold=5.0), Step(pause=True), Step(50.0, hold=5.0)),
    (Step(pause=True),),
)


def story(seed: int, length: int = 90) -> tuple[int, RolloutSettings, list[Event]]:
    """Servers, policy and events of one story."""
    draw = random.Random(seed)
    settings = rollout_settings(
        keep_previous=draw.choice((0.0, 5.0, 600.0)),
        automatic=draw.random() < 0.8,
        supersede=draw.random() < 0.3,
        settle=draw.choice((0.0, 2.0)),
        load_timeout=60.0,
        drain_timeout=20.0,
        hold_retry=5.0,
        hold_attempts=3,
        steps=draw.choice(STEPS),
        shadow_share=draw.choice((0.0, 25.0)),
        shadow_for=10.0,
        resume=draw.random() < 0.7,
    )
    # Some faults stay out of some stories: else hardly a rollout would get anywhere.
    weights = {w: n for w, n in WEIGHTS.items() if n > 5 or draw.random() < 0.6}
    whats = draw.choices(list(weights), list(weights.values()), k=length)
    events = [Event("arrive", 0, 0, 0), Event("time", 2, 0, 0), Event("run", 0, 0, 0)]
    events += [Event(w, draw.randrange(1000), draw.randrange(1000), draw.randrange(1000)) for w in whats]
    return draw.choice((1, 2, 2, 3)), settings, events


def made(plan: Plan, seed: int) -> tuple[World, list[Event]]:
    """The world in which a story happens, and its events. In one of eight an engine is in use already."""
    servers, settings, events = story(seed)
    return World(plan, servers, settings, adopted=seed % 8 == 7), events


def happen(world: World, event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - one line an event
    """Let one event happen."""
    files, (what, a, b, c) = world.files, event
    versions = sorted(files.folders)
    server = list(world.servers.values())[a % len(world.servers)]
    version = versions[-1 - min(b % 4, len(versions) - 1)] if versions else 1
    match what:
        case "run":
            world.run()
        case "step":
            world.step()
        case "poll":
            world.poll()
        case "time":
            world.now += (0.3, 1.0, 3.0, 6.0, 35.0, 70.0, 700.0)[min(a % 12, 6)]
            for one in world.servers.values():
                one.advance()
        case "arrive":
            files.put(max(versions, default=0) + 1 + (b % 5 == 0), world.now)
        case "arriving":
            files.put(max(versions, default=0) + 1, world.now, complete=False)
        case "change":
            if versions:
                files.put(version, world.now, complete=c % 4 > 0)
        case "remove":
            files.folders.pop(version, None)
        case "unexpected":
            files.changes += 1
            files.unexpected["junk"] = f"junk-{files.changes}"
        case "tidy":
            files.unexpected.clear()
            restore(world)
        case "behave":
            server.versions[version] = (
                Behaviour(load_error="the weights do not fit"),
                Behaviour(load_s=10.0),
                Behaviour(load_s=math.inf),
                Behaviour(leave_s=5.0),
                Behaviour(leave_s=math.inf),
                Behaviour(load_error="CUDA out of memory"),
            )[c % 6]
        case "heal":
            heal(world)
        case "away":
            server.reachable = False
        case "back":
            server.reachable = True
        case "restart":
            server.restart()
        case "lose":
            server.lost_answers = 1
        case "gate":
            gate = ASKED[a % len(ASKED)]
            verdict = (Verdict.FAIL, Verdict.HOLD, Verdict.HOLD, None)[b % 4]
            often = 3 if verdict is Verdict.HOLD and c % 2 else 1  # three tries are all that the policy gives
            world.gates.setdefault(gate, []).extend([verdict] * often)
        case "disk":
            world.disk_full = 1 + b % 2
        case "request":
            stack = contextlib.ExitStack()
            stack.enter_context(server.request(ALIAS))
            world.requests.append(stack)
        case "answered":
            if world.requests:
                world.requests.pop(0).close()
        case "abort":
            world.abort()
        case "rollback":
            world.rollback(None if a % 2 else version)
        case "promote":
            world.promote(None if a % 2 else version)
        case "full":
            world.promote(None, full=True)
        case "live":
            world.live = (Verdict.PASS, Verdict.PASS, Verdict.HOLD, None, Verdict.FAIL)[a % 5]
        case "splitter":
            server.splitter = Behaviour(load_error="no such backend") if b % 2 else Behaviour(load_s=10.0)
        case "pause":
            world.pause()
        case "resume":
            world.paused = False
        case "retry":
            world.retry(version)
        case "verify":
            world.check_version(version)
        case "die":
            there = sorted(held(server, READY))
            chosen = files.alias if files.alias in there and b % 3 else there[b % len(there)] if there else None
            if chosen is not None:
                server.die(ENGINE, chosen)
        case "crash":
            world.restart_control(token_lost=b % 4 == 0)
        case _:
            raise AssertionError(what)


def restore(world: World) -> None:
    """A person puts the folders of what serves back as they were loaded."""
    led_to = {world.files.alias} | world.direct | {v for s in world.servers.values() for v in serving(s)}
    for version in led_to - {None}:
        loaded = [s.models.slots[ENGINE][version].content for s in world.servers.values() if version in held(s, READY)]
        content = world.loaded.get(version) or next(iter(loaded), "")
        if not content and version not in world.files.folders:
            world.files.put(version, world.now)
        elif content:
            world.files.folders[version] = content
        world.files.since.setdefault(version, world.now)
        world.files.incomplete.discard(version)


def heal(world: World) -> None:
    """Loads go well again; one that hangs still needs a restart, as in life."""
    for server in world.servers.values():
        hung = any(not c.done and c._until == math.inf for c in server._pending)
        server.versions.clear()
        server.splitter = Behaviour()
        if hung:
            server.restart()


def play(world: World, events: list[Event], *, calm: bool = True) -> None:
    """The events; then everything is mended and time passes until nothing happens any more."""
    for event in events:
        world.say(f"{event.what} {event.a} {event.b} {event.c}")
        with contextlib.suppress(BatonError):
            happen(world, event)
        world.verify()
    if calm:
        quiet(world)


def quiet(world: World) -> None:
    world.say("-- everything is mended")
    stop = world.rollout.stop if world.rollout is not None else None
    kept = world.rollout
    world.files.unexpected.clear()
    restore(world)
    heal(world)
    world.gates.clear()
    world.live = Verdict.PASS
    world.disk_full = 0
    world.paused = False
    for server in world.servers.values():
        server.reachable, server.lost_answers = True, 0
        # A version that never leaves goes with the server's next restart; its folder is what the files say.
    while world.requests:
        world.requests.pop().close()
    for turn in range(200):
        world.now += 30.0 if turn < 20 else 200.0
        for _ in range(3):  # the way of traffic goes on by an interval at most at a time
            world.run()
            world.now += 5.0
        restore(world)
        world.run()
        if world.rollout is not None and world.rollout.phase is Phase.WAITING:
            if world.rollout.held() is not None:
                world.retry(world.rollout.candidate)
            else:
                world.promote(None)
        resting = world.rollout is None and not world.jobs and world.decision.effect is None
        if resting and world.decision.phase is not Phase.DEGRADED and not world.view().pending(world.settings):
            break
    world.settled()
    if stop is not None and kept is not None and kept.kind is not Kind.CHECK:
        ended = next(r for r in world.history if r.id == kept.id)
        # Only a version that can't come back leaves the stopped one where it is; the world knows why it could not.
        hopeless = Reason.NO_WAY_BACK in within(ended.ended_why)
        if ended.outcome is not None and ended.outcome.value == "live" and not hopeless:
            raise Broken(f"it was stopped ({stop.why}), and is live: {ended.ended_why}")


def failing(plan: Plan, seed: int) -> tuple[Broken, World, list[Event]] | None:
    """The story's failure with the fewest events that still fail, or None when it holds."""
    _, events = made(plan, seed)

    def tell(some: list[Event]) -> tuple[Broken, World] | None:
        world, _ = made(plan, seed)
        try:
            play(world, some)
        except Broken as broken:
            return broken, world
        return None

    found = tell(events)
    if found is None:
        return None
    size = len(events) // 2
    while size:
        start = 0
        while start < len(events):
            fewer = events[:start] + events[start + size :]
            if (shorter := tell(fewer)) is not None:
                found, events = shorter, fewer
            else:
                start += size
        size //= 2
    return *found, events


def caught(mutant: Plan) -> str:
    """What the harness says of a plan with a defect; nothing when it does not notice."""
    for seed in range(CATCH_WITHIN):
        world, events = made(mutant, seed)
        try:
            play(world, events)
        except Broken as broken:
            return str(broken)
    return ""
