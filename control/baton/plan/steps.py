"""The candidate's share of traffic, as a function of its progress through the configured steps.

``progress`` counts seconds in which the live analysis passed. It does not grow while the analysis holds for want of
evidence, while Baton is paused, and at a pause step until a person promotes. So a rollout that waited is not further
than one that did not, and after a restart of the control plane a rollout goes on where the journal says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.domain import Step

LEAST = 1.0
"""Percent of traffic at which a linear step begins where the candidate had none: without traffic no evidence."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a candidate has come."""

    index: int
    """The present step, from 0; the number of steps when all of them are done."""
    weight: float
    """The candidate's share of traffic in percent."""
    left: float
    """Seconds of progress until the step ends."""
    pause: bool = False
    """It is at a pause step, and waits for a person."""


def position(steps: Sequence[Step], progress: float, approvals: int) -> Position:
    """The position after ``progress`` seconds, with ``approvals`` pause steps passed.

    A weight that is held counts at once. One that is reached linearly grows from the weight before it.
    """
    weight, begin = 0.0, 0.0
    for index, step in enumerate(steps):
        if step.pause:
            if approvals == 0:
                return Position(index, weight, 0.0, pause=True)
            approvals -= 1
            continue
        end = begin + step.hold + step.over
        if progress < end:
            share = (progress - begin) / step.over if step.over else 1.0
            reached = weight + (step.weight - weight) * share
            return Position(index, max(reached, min(LEAST, step.weight)), end - progress)
        weight, begin = step.weight, end
    return Position(len(steps), 100.0, 0.0)


def further(steps: Sequence[Step], progress: float, approvals: int, seconds: float) -> float:
    """The progress after so many more seconds.

    It stops at the end of each step, so that each share was in force before the next one follows, and at a pause step.
    """
    end = 0.0
    for step in steps:
        if step.pause:
            if approvals == 0:
                break
            approvals -= 1
        end += step.hold + step.over
        if progress < end:
            break
    return min(progress + seconds, end)


def length(steps: Sequence[Step]) -> float:
    """Seconds of progress through all steps."""
    return sum(s.hold + s.over for s in steps)
