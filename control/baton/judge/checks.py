"""The comparisons that the questions asked of live traffic share.

Stable and candidate are compared at the same time only. The candidate's share of the traffic changes within a rollout,
and so does the load: over the whole time, a candidate that got its answers in the busy half would look slow, however
good it is. So time is cut into stretches with the same number of the candidate's answers, and each stretch is a
comparison of its own; within one, chance alone decided which version answered. That also makes a burst that both suffer
count for neither.

But a client may choose which version answers: an id that it used before goes the way it went then. Whoever sends heavy
requests by ids that came to the candidate makes that look slow, and slow for others. So the evidence is what was drawn:
the first request of each id, and those without one, of which nobody could know where they go. And a comparison that
fails has to fail as well without the candidate's answers from while it was busy with ids used before (:class:`Crowd`),
and without what is all of one source; else it holds, and says so (:func:`hangs`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import scipy  # its part `stats` takes a second to load, and is loaded when it is first used
from numpy.typing import NDArray

from baton.domain import Verdict
from baton.evidence import LiveCheck
from baton.judge.shapes import Answer, LiveLimits

C = TypeVar("C", bound=LiveCheck)

_PER_STRETCH = 10
_STRETCHES = 20

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Stretches = tuple[NDArray[np.int_], NDArray[np.int_]]
"""The stretch of each of stable's answers, and of each of the candidate's."""


def hangs(check: C, on: str, rest: str = "") -> C:
    """Return the hold that a failed check is where it fails by evidence of one source alone; ``on`` is that, in words.

    Whoever sends it could turn every version back. It is no proof of a good version either.
    """
    without = f"; without them: {rest}" if rest else ""
    message = f"the verdict hangs on {on}{without}; with them: {check.message}"
    return replace(check, verdict=Verdict.HOLD, message=message, hangs_on=on)


def drawn(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers to requests of which nobody could know where they would go."""
    return [answer for answer in answers if not answer.again]


def stretches(stable_at: Floats, candidate_at: Floats) -> Stretches:
    """Cut time where the candidate's answers fall into equal parts, ten to a part and 20 parts at most."""
    parts = min(max(candidate_at.size // _PER_STRETCH, 1), _STRETCHES)
    edges = np.quantile(candidate_at, np.arange(1, parts) / parts) if parts > 1 else np.empty(0)
    return np.searchsorted(edges, stable_at), np.searchsorted(edges, candidate_at)


def at_the_same_time(answers: Sequence[Answer]) -> tuple[list[Answer], list[Answer], Stretches]:
    """Return stable's and the candidate's answers of the stretches in which both have some, and those stretches."""
    sides = [[answer for answer in answers if answer.role == role] for role in ("stable", "candidate")]
    where = stretches(*(np.array([answer.at for answer in side], dtype=np.float64) for side in sides))
    both = np.intersect1d(*where)
    kept = [np.flatnonzero(np.isin(side, both)) for side in where]
    stable, candidate = ([side[at] for at in keep] for side, keep in zip(sides, kept, strict=True))
    return stable, candidate, (where[0][kept[0]], where[1][kept[1]])


def weights(where: Stretches) -> Floats:
    """Return how much each of stable's answers counts, so that each stretch counts as it does for the candidate."""
    parts = int(max(where[0].max(), where[1].max())) + 1
    mine, theirs = (np.bincount(side, minlength=parts) for side in where)
    counts: Floats = (theirs / np.maximum(mine, 1))[where[0]]
    return counts


def quantile(values: Floats, q: float, weight: Floats | None = None) -> float:
    """Return the smallest value that has at least the share ``q`` of all weight at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(np.ones(values.size) if weight is None else weight[order])
    at = int(np.searchsorted(total, q * total[-1] * (1 - 1e-12)))
    return float(values[order][at])


def more_often(stable: Flags, candidate: Flags, where: Stretches) -> float:
    """Return the chance that the candidate is hit so often or more, were the two alike (Fisher's, by stretches).

    Exact: in each stretch the number follows the hypergeometric distribution, and the sum their convolution.
    """
    chances = np.ones(1)
    least = 0
    for part in np.unique(where[1]):
        mine, theirs = stable[where[0] == part], candidate[where[1] == part]
        both, hits, drawn = mine.size + theirs.size, int(mine.sum() + theirs.sum()), theirs.size
        low, high = max(0, drawn + hits - both), min(drawn, hits)
        least += low
        chances = np.convolve(chances, scipy.stats.hypergeom.pmf(np.arange(low, high + 1), both, hits, drawn))
    return min(float(chances[int(candidate.sum()) - least :].sum()), 1.0)


def higher(stable: Floats, candidate: Floats, where: Stretches) -> float:
    """Return the chance that the candidate ranks so high or higher, were the two alike (Mann-Whitney, by stretches).

    The stretches are added up as van Elteren (1960) does, ties are allowed for, the normal distribution is near enough.
    """
    excess = variance = 0.0
    for part in np.unique(where[1]):
        mine, theirs = stable[where[0] == part], candidate[where[1] == part]
        both = mine.size + theirs.size
        if not mine.size:
            continue
        ranks = scipy.stats.rankdata(np.concatenate((mine, theirs)))
        ties = np.unique(ranks, return_counts=True)[1].astype(np.float64)
        excess += (float(ranks[mine.size :].sum()) - theirs.size * (both + 1) / 2) / (both + 1)
        tied = float((ties**3 - ties).sum()) / (both * (both - 1))
        variance += mine.size * theirs.size / 12 * (both + 1 - tied) / (both + 1) ** 2
    return float(scipy.stats.norm.sf(excess / math.sqrt(variance))) if variance > 0 else 1.0


def above(values: Floats, limit: float) -> float:
    """Return the chance of values in 0..1 with so high a mean or a higher one, were their true mean ``limit``.

    Student's t. It is too sure of values that lie at one end all alike, so the chance is never less than that of as
    many draws which are all 1: no distribution in 0..1 with that mean gives it more often.
    """
    count, mean, deviation = values.size, float(values.mean()), float(values.std(ddof=1))
    if mean <= limit:
        return 1.0
    surest = limit**count
    if deviation == 0:
        return surest
    return max(float(scipy.stats.t.sf((mean - limit) / deviation * math.sqrt(count), count - 1)), surest)


class Crowd:
    """When requests whose ids were used before kept the candidate busy: their sender could choose that they come to it.

    One after the other, as if the candidate had a single worker: each for as long as it took, and one that was late for
    as long as the slowest version within the limit would take, told by what the very same request took stable.
    """

    def __init__(self, answers: Sequence[Answer], limits: LiveLimits) -> None:
        mine = [a for a in answers if a.again and a.role == "candidate" and a.outcome != "refused"]
        self._begin: list[float] = []
        self._end: list[float] = []
        free = -math.inf
        for answer in sorted(mine, key=lambda answer: answer.began):
            work_ms = answer.took_ms or 0.0
            if answer.outcome == "late" and answer.stable_ms is not None:
                work_ms = answer.stable_ms * limits.latency_limit
            begin, free = answer.began, max(free, answer.began) + work_ms / 1000.0
            self._begin.append(begin)
            self._end.append(free)

    def with_(self, began: float, at: float, *, itself: bool = False) -> float:
        """Return for how many seconds of that stretch they did. ``itself``: the request that began then is one of them.

        Those that come after it stand behind it, and are not counted then.
        """
        known = bisect_left(self._begin, began)
        busy = max(0.0, min(at, self._end[known - 1]) - began) if known else 0.0
        if itself:
            return busy
        covered = began + busy
        for index in range(known, bisect_left(self._begin, at)):
            start, end = max(self._begin[index], covered), min(self._end[index], at)
            if end > start:
                busy, covered = busy + end - start, end
        return busy
