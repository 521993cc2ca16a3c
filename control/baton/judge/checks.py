"""The comparisons that the checks of the gate ``live`` share.

**Time slices.** Stable and candidate are compared at the same time only. The candidate's share of the traffic changes
within a rollout, and so does the load: over the whole time, a candidate with most of its answers in the busy half would
look slow. So time is cut into slices with equally many answers of the candidate, and each slice is a comparison of its
own. Within a slice chance alone decides which version answers, and a burst hits both.

**Randomly routed requests.** A client can choose which version answers: an id that it used before goes the same way
again. Whoever sends heavy requests by ids that went to the candidate makes it look slow, and slows it down for others.
So the evidence is the first request of each id, and requests without an id: nobody could know where they go. A
comparison that fails must also fail without the candidate's answers from while it was busy with repeated ids
(:class:`RepeatedIdLoad`), and without all that comes from one source. Else it holds, and says so
(:func:`hold_for_source`).
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
from baton.judge.limits import LiveLimits
from baton.samples import Answer

C = TypeVar("C", bound=LiveCheck)

_PER_SLICE = 10
_MOST_SLICES = 20

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Slices = tuple[NDArray[np.int_], NDArray[np.int_]]
"""The time slice of each of stable's answers, and of each of the candidate's."""
REPEATED_IDS = "requests with repeated ids, whose senders can choose the version"


def hold_for_source(check: C, source: str, rest: str = "") -> C:
    """Turn a failed check into a hold: it fails by evidence of one ``source`` alone, named in words.

    Whoever sends that could turn back every version. It is no proof of a good version either. ``rest`` is the message
    of the check without that source.
    """
    without = f"; without them: {rest}" if rest else ""
    message = f"the verdict depends on {source}{without}; with them: {check.message}"
    return replace(check, verdict=Verdict.HOLD, message=message, hangs_on=source)


def randomly_routed(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers to requests of which nobody could know where they would go."""
    return [answer for answer in answers if not answer.again]


def time_slices(stable_at: Floats, candidate_at: Floats) -> Slices:
    """Cut time where the candidate's answers fall into equal parts, ten answers to a slice and 20 slices at most."""
    parts = min(max(candidate_at.size // _PER_SLICE, 1), _MOST_SLICES)
    edges = np.quantile(candidate_at, np.arange(1, parts) / parts) if parts > 1 else np.empty(0)
    return np.searchsorted(edges, stable_at), np.searchsorted(edges, candidate_at)


def simultaneous(answers: Sequence[Answer]) -> tuple[list[Answer], list[Answer], Slices]:
    """Return stable's and the candidate's answers of the slices in which both have some, and those slices."""
    sides = [[answer for answer in answers if answer.role == role] for role in ("stable", "candidate")]
    where = time_slices(*(np.array([answer.at for answer in side], dtype=np.float64) for side in sides))
    both = np.intersect1d(*where)
    kept = [np.flatnonzero(np.isin(side, both)) for side in where]
    stable, candidate = ([side[at] for at in keep] for side, keep in zip(sides, kept, strict=True))
    return stable, candidate, (where[0][kept[0]], where[1][kept[1]])


def slice_weights(where: Slices) -> Floats:
    """Return the weight of each of stable's answers, so that each slice counts as much as it does for the candidate."""
    parts = int(max(where[0].max(), where[1].max())) + 1
    stable, candidate = (np.bincount(side, minlength=parts) for side in where)
    counts: Floats = (candidate / np.maximum(stable, 1))[where[0]]
    return counts


def quantile(values: Floats, q: float, weight: Floats | None = None) -> float:
    """Return the smallest value that has at least the share ``q`` of all weight at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(np.ones(values.size) if weight is None else weight[order])
    at = int(np.searchsorted(total, q * total[-1] * (1 - 1e-12)))
    return float(values[order][at])


def p_more_often(stable: Flags, candidate: Flags, where: Slices) -> float:
    """Return the chance that so many or more of the candidate's are hit, were the two alike (Fisher's test, by slices).

    Exact: in each slice the number follows the hypergeometric distribution, and the sum their convolution.
    """
    chances = np.ones(1)
    least = 0
    for part in np.unique(where[1]):
        before, after = stable[where[0] == part], candidate[where[1] == part]
        both, hits, draws = before.size + after.size, int(before.sum() + after.sum()), after.size
        low, high = max(0, draws + hits - both), min(draws, hits)
        least += low
        chances = np.convolve(chances, scipy.stats.hypergeom.pmf(np.arange(low, high + 1), both, hits, draws))
    return min(float(chances[int(candidate.sum()) - least :].sum()), 1.0)


def p_higher(stable: Floats, candidate: Floats, where: Slices) -> float:
    """Return the chance that the candidate ranks so high or higher, were the two alike (Mann-Whitney, by slices).

    The slices are added up as in van Elteren (1960), with ties allowed for; the normal distribution is near enough.
    """
    excess = variance = 0.0
    for part in np.unique(where[1]):
        before, after = stable[where[0] == part], candidate[where[1] == part]
        both = before.size + after.size
        if not before.size:
            continue
        ranks = scipy.stats.rankdata(np.concatenate((before, after)))
        ties = np.unique(ranks, return_counts=True)[1].astype(np.float64)
        excess += (float(ranks[before.size :].sum()) - after.size * (both + 1) / 2) / (both + 1)
        tied = float((ties**3 - ties).sum()) / (both * (both - 1))
        variance += before.size * after.size / 12 * (both + 1 - tied) / (both + 1) ** 2
    return float(scipy.stats.norm.sf(excess / math.sqrt(variance))) if variance > 0 else 1.0


def p_mean_above(values: Floats, limit: float) -> float:
    """Return the chance of values in 0..1 with so high a mean or a higher one, were their true mean ``limit``.

    Student's t. It is too sure of values that all lie at one end. So the chance is never less than that of as many
    draws which are all 1: no distribution in 0..1 with that mean gives it more often.
    """
    count, mean, deviation = values.size, float(values.mean()), float(values.std(ddof=1))
    if mean <= limit:
        return 1.0
    surest = limit**count
    if deviation == 0:
        return surest
    return max(float(scipy.stats.t.sf((mean - limit) / deviation * math.sqrt(count), count - 1)), surest)


class RepeatedIdLoad:
    """When the candidate was busy with repeated ids, whose sender could choose that it gets them.

    They are taken one after the other, as by a candidate with a single worker. Each counts for as long as it took. A
    late one counts for as long as the slowest version within the limit would take, going by stable's time for it.
    """

    def __init__(self, answers: Sequence[Answer], limits: LiveLimits) -> None:
        repeated = [a for a in answers if a.again and a.role == "candidate" and a.outcome != "refused"]
        self._begin: list[float] = []
        self._end: list[float] = []
        free = -math.inf
        for answer in sorted(repeated, key=lambda answer: answer.began):
            work_ms = answer.took_ms or 0.0
            if answer.outcome == "late" and answer.stable_ms is not None:
                work_ms = answer.stable_ms * limits.latency_limit
            free = max(free, answer.began) + work_ms / 1000.0
            self._begin.append(answer.began)
            self._end.append(free)

    def seconds(self, began: float, at: float, *, itself: bool = False) -> float:
        """Return for how many seconds from ``began`` to ``at`` that was so.

        ``itself``: the request that began then has a repeated id. Those that came after it are not counted then, since
        it did not wait for them.
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
