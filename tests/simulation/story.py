"""Seeded stories: what happens to a control plane, its servers and its files, move by move; then quiet.

A move is one turn of the loop, one stretch of a background task between two calls to servers, or one event. The rules
are checked after each. When the events are over everything is mended, time passes, and all must have come to rest by
itself: fully the old version or fully the new one.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.simulation.disk import told_files
from tests.simulation.events import HAPPENS, Move, heal, make, restore, settle, start
from tests.simulation.yard import Yard
from tests.support.reasons import within
from tests.support.rules import ALIAS, ENGINE, Broken

from baton.config import GateConfig, HealthConfig, RolloutConfig, ServiceConfig, TrafficConfig
from baton.domain import Kind, Outcome, Phase, Step, Verdict
from baton.errors import Refused, RepositoryError, Unreachable
from baton.plan import Ask, Reload, Sync
from baton.reasons import Reason

LENGTH = 160
"""Moves of a story before it comes to rest."""
WEIGHTS = {
    "loop": 60, "task": 90, "time": 40, "calm": 4, "arrive": 8, "arriving": 1, "change": 2, "remove": 1,
    "unexpected": 1, "tidy": 3, "behave": 5, "heal": 5,
    "away": 3, "back": 6, "restart": 3, "lose": 2, "late": 2, "twice": 2,
    "gate": 4, "full": 2, "kill": 3, "fuse": 4, "start": 12, "second": 1, "forget": 1, "keyless": 2, "clock": 2,
    "die": 2, "live": 5, "splitter": 1, "abort": 4, "rollback": 4, "promote": 4, "skip": 1, "pause": 1, "resume": 2,
    "retry": 3, "verify": 2, "edit": 4, "freeze": 3, "refuse": 3, "stand": 3, "wake": 5,
}  # fmt: skip
RESTED = 4
"""So often in a row nothing was left to do: then the story is over."""
MOST_ROUNDS = 600
"""Of waiting for that: a dozen versions, one after the other, each with a person to promote it, took over 200."""
CALM = ("loop", "task", "time", "start", "arrive", "back", "heal", "tidy", "resume")
STEPS = (
    (),
    (Step(5.0, hold=10.0), Step(50.0, over=20.0)),
    (Step(5.0, hold=5.0), Step(pause=True), Step(50.0, hold=5.0)),
    (Step(pause=True),),
)


@dataclass(frozen=True)
class Story:
    seed: int
    servers: int
    config: ServiceConfig
    moves: tuple[Move, ...]

    @classmethod
    def of(cls, seed: int, length: int = LENGTH) -> Story:
        draw = random.Random(seed)
        config = ServiceConfig(
            ALIAS,
            ENGINE,
            rollout=RolloutConfig(
                promotion="automatic" if draw.random() < 0.8 else "manual",
                on_newer="supersede" if draw.random() < 0.3 else "queue",
                keep_previous=draw.choice((0.0, 5.0, 600.0)),
                settle=draw.choice((0.0, 2.0)),
                load_timeout=60.0,
                drain_timeout=20.0,
            ),
            traffic=TrafficConfig(
                steps=draw.choice(STEPS),
                shadow_share=draw.choice((0.0, 25.0)),
                shadow_for=10.0,
                on_lapse="resume" if draw.random() < 0.7 else "rollback",
            ),
            gates=GateConfig(hold_retry=5.0, hold_attempts=3, request_timeout=10.0),
            health=HealthConfig(every=5.0, timeout=5.0, failures=2),
        )
        # Some faults stay out of some stories: else hardly a rollout would get anywhere.
        weights = {w: n for w, n in WEIGHTS.items() if w in CALM or draw.random() < 0.5}
        whats = draw.choices(list(weights), list(weights.values()), k=length)
        first = [Move("start", 0, 0, 0), Move("arrive", 0, 0, 0)] + [Move("calm", 0, 0, 0)] * draw.choice((0, 0, 1, 8))
        moves = [Move(w, draw.randrange(1000), draw.randrange(1000), draw.randrange(1000)) for w in whats]
        return cls(seed, draw.choice((1, 2, 2, 3)), *_with_retention(config, (*first, *moves), seed))


def _with_retention(
    config: ServiceConfig, moves: tuple[Move, ...], seed: int
) -> tuple[ServiceConfig, tuple[Move, ...]]:
    """In two of three stories old versions are removed, by themselves or by persons. Drawn apart from all the rest."""
    draw = random.Random(f"retention {seed}")
    keep = draw.choice((None, None, 0, 0, 1, 3))
    told = list(moves)
    for _ in range(draw.choice((0, 0, 2, 6)) if keep is None else draw.choice((0, 2))):
        told.insert(draw.randrange(len(moves)), Move("prune", *(draw.randrange(1000) for _ in range(3))))
    return replace(config, rollout=replace(config.rollout, keep_versions=keep)), tuple(told)


@contextlib.contextmanager
def yard_of(story: Story) -> Iterator[Yard]:
    """The place where the story happens, on a file system in memory where there is one."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="baton-simulation-", dir=memory if memory.is_dir() else None))
    log = logging.getLogger("baton")
    level, log.propagate = log.level, False
    log.setLevel(logging.ERROR)
    seed = story.seed
    flags = {"adopted": seed % 8 == 7, "boot_engine": seed % 2 == 0, "near": seed % 3 > 0}
    yard = Yard(root, story.config, story.servers, **flags)
    log.addHandler(yard.defects)
    try:
        with told_files(yard.act, yard.look):
            yield yard
    finally:
        if yard.plane is not None:
            yard.plane.close()
        log.removeHandler(yard.defects)
        log.setLevel(level)
        log.propagate = True
        shutil.rmtree(root)


def play(yard: Yard, moves: tuple[Move, ...]) -> None:
    """The moves; then everything is mended and time passes until nothing happens any more.

    Raises:
        Broken: something that must hold did not.
    """
    for move in moves:
        _told(yard, move)
        make(yard, lambda move=move: HAPPENS[move.what](yard, move))  # type: ignore[misc]
    quiet(yard)


def _told(yard: Yard, move: Move) -> None:
    if move.what not in ("loop", "task", "calm"):
        yard.say(f"{yard.seconds - 1_000_000:8.1f}  {move.what}")


def quiet(yard: Yard) -> None:
    """Everything is mended, and time passes."""
    yard.say("-- everything is mended")
    kept = yard.rollout
    stop = None if kept is None else kept.stop
    yard.fuse = yard.full = yard.frozen = 0
    yard.files.unexpected.clear()
    yard.gates.clear()
    yard.ordered_live = Verdict.PASS
    for server in yard.servers.values():
        server.reachable, server.lost_answers, server.lag, server.twice = True, 0, 0.0, False
        server.refuses_until = 0.0
    heal(yard)
    make(yard, lambda: start(yard))
    rested = 0
    for asked in range(MOST_ROUNDS):
        restore(yard)
        settle(yard)
        if yard.paused:
            yard.plane.app.resume(who="ann")
        rollout = yard.rollout
        if rollout is not None and rollout.phase is Phase.WAITING:
            with contextlib.suppress(Refused, Unreachable, RepositoryError):  # else in the next round
                if rollout.held() is not None:
                    yard.plane.app.retry(None, None, release=None, who="ann")
                else:
                    yard.plane.app.promote(None, None, full=False, who="ann")
        busy = any(isinstance(e, Sync | Ask | Reload) for e in yard.jobs)
        rests = rollout is None and not busy and yard.decision.effect is None
        well = yard.decision.phase in (Phase.STEADY, Phase.EMPTY)
        # What died unseen is found only after a while.
        rested = rested + 1 if rests and well and not yard.plane.service.view.pending(yard.settings) else 0
        if rested == RESTED:
            break
        yard.seconds += 5.0 if asked % 3 else 30.0 if asked < 60 else 200.0
        for server in yard.servers.values():
            server.advance()
    yard.settled()
    if stop is not None and stop.outcome is not Outcome.LIVE and kept is not None and kept.kind is not Kind.CHECK:
        ended = yard.plane.journal.rollouts.get(kept.id)
        # Only a version that can't come back leaves the stopped one where it is.
        hopeless = ended is None or Reason.NO_WAY_BACK in within(ended.ended_why)
        if not hopeless and ended.outcome is Outcome.LIVE:
            raise Broken(f"it was stopped ({stop.why}), and is live: {ended.ended_why}")
