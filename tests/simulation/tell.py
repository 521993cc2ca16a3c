"""Plays stories and tells of the one that failed: as short as it can be, and with the command that plays it again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.story import Move, Story, play, yard_of
from tests.support.rules import Broken

SHORTEN_FOR_S = 60.0


@dataclass
class Failure:
    """What did not hold, in which story, and what led to it."""

    seed: int
    why: str
    trace: list[str]
    story: Story

    def __str__(self) -> str:
        about = f"{self.story.servers} servers, {self.story.config.rollout}, {self.story.config.traffic}"
        replay = f"PYTHONHASHSEED=0 python -m tests.simulation --seed {self.seed} --stories 1"
        return "\n".join([f"seed {self.seed}: {about}", *self.trace, f"BROKEN: {self.why}", f"Again: {replay}"])


@dataclass
class Tally:
    """What was played so far."""

    stories: int = 0
    steps: int = 0
    pruned: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failure: Failure | None = None


def played(story: Story, tally: Tally | None = None, moves: tuple[Move, ...] | None = None) -> Failure | None:
    """One story from beginning to end."""
    with yard_of(story) as yard:
        why = None
        try:
            play(yard, story.moves if moves is None else moves)
        except Broken as broken:
            why = str(broken)
        if tally is not None:
            tally.stories += 1
            tally.steps += yard.steps
            tally.pruned += yard.pruned
            tally.outcomes.update(str(o) for o in yard.outcomes)
        return None if why is None else Failure(story.seed, why, yard.trace, story)


def tell(seed: int, more: Callable[[Tally], bool]) -> Tally:
    """Stories from a seed on, until one fails or there are enough."""
    tally = Tally()
    while tally.failure is None and more(tally):
        story = Story.of(seed)
        tally.failure = played(story, tally)
        seed += 1
    return tally


def shortened(failure: Failure) -> Failure:
    """The same failure with as few moves as a minute's search finds."""
    story, moves = failure.story, list(failure.story.moves)
    until = time.monotonic() + SHORTEN_FOR_S
    size = len(moves) // 2
    while size:
        start = 0
        while start < len(moves) and time.monotonic() < until:
            fewer = tuple(moves[:start] + moves[start + size :])
            if (still := played(story, moves=fewer)) is not None:
                failure, moves = still, list(fewer)
            else:
                start += size
        size //= 2
    return failure
