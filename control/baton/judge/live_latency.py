"""The latency of live traffic.

A late attempt counts as the slowest of all. A failed one has no latency, nor has a late one that took stable as long.
``FLOOR_MS`` is added to each limit that is a multiple of a time: a smaller difference does not count.

While traffic is split, answers of the same time are compared (see ``baton.judge.checks``). The candidate fails

- when it surely ranks slower, its median is above ``latency_limit`` times stable's, and it likely (nine in ten) ranks
  slower even than stable would with all of its times at that limit: few answers can have medians far apart by luck;
- or when surely more of its answers than of stable's are slow, and more than one in twenty are, so that its p95 is
  beyond the limit. An answer is slow that takes more than ``latency_limit`` times stable's p95.

It passes only when it likely ranks below stable with all of its times at that limit. Until then it holds.

In shadow the candidate is asked after stable has answered, under another load than it will have. There the two times of
each request are compared, and the candidate fails

- when surely most requests took it more than ``latency_limit`` times as long (sign test);
- or when surely more requests are slow with the candidate alone than with stable alone, and its p95 is beyond the limit
  (McNemar's test, exact).

It passes only when likely most requests are within that limit (sign test).

Like is compared with like: while traffic is split by random routing, so that each version gets the same mixture of
requests whatever clients send, and in shadow by request. A candidate that fails by randomly routed requests is judged
again without the answers that it gave while it was busy with repeated ids. If it passes then, mirrored requests from
other times may still fail it. A few clients can't move a median, but slow answers to one in twenty requests may be one
client's. So where those fail the candidate, and it passes without the requests of the size that most of them have
(sizes within a factor of two count as one), it holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy

from baton.domain import Verdict
from baton.evidence import LiveLatencyCheck, Times
from baton.judge.checks import (
    REPEATED_IDS,
    Floats,
    RepeatedIdLoad,
    hold_for_source,
    p_higher,
    p_more_often,
    quantile,
    randomly_routed,
    simultaneous,
    slice_weights,
)
from baton.judge.limits import LiveLimits
from baton.samples import Answer, Pair

FLOOR_MS = 5.0
"""A smaller difference is of no concern to clients, whatever the ratio."""
_TESTS = 2
_LIKELY = 0.1


def judge_live_latency(
    answers: Sequence[Answer], pairs: Sequence[Pair], limits: LiveLimits, alpha: float
) -> LiveLatencyCheck:
    """Judge the answers of both versions while traffic is split, each test at ``alpha / 2``.

    ``pairs`` of mirrored requests confirm a failure where clients could choose what the candidate answered.
    """
    routed = randomly_routed(answers)
    check = _compare(routed, limits, alpha)
    if check.observed is None and len(routed) < len(answers):
        # Clients whose ids never change must not make it wait for ever: a version may pass by them, but not fail.
        check = _compare(answers, limits, alpha)
    if check.verdict is not Verdict.FAIL:
        return check
    load = RepeatedIdLoad(answers, limits)
    quiet = [a for a in routed if a.role == "stable" or not load.seconds(a.began, a.at)]
    if len(quiet) < len(answers):
        rest = _compare(quiet, limits, alpha)
        if rest.verdict is not Verdict.FAIL:
            rest = judge_paired_live_latency([p for p in pairs if not load.seconds(p.began, p.at)], limits, alpha)
        if rest.verdict is not Verdict.FAIL:
            every, left = (sum(a.role == "candidate" for a in side) for side in (answers, quiet))
            busy = f"{every - left} of the candidate's {every} answers are to them, or came while it was busy with them"
            return hold_for_source(check, f"{REPEATED_IDS} ({busy})")
        check = rest
    return _without_one_size(check, quiet, limits, alpha)


def _without_one_size(
    check: LiveLatencyCheck, answers: Sequence[Answer], limits: LiveLimits, alpha: float
) -> LiveLatencyCheck:
    """Hold where a few slow answers fail it, and it passes without the requests of one size."""
    if check.slow is None or check.stable is None:  # more than half of all answers are slow: no few decide
        return check
    slow_from = _at_limit(check.stable.p95_ms, limits)
    candidates = [a for a in answers if a.role == "candidate" and not a.long]
    slow = Counter(a.size.bit_length() for a in candidates if _time(a.outcome, a.took_ms, math.inf) > slow_from)
    size, hits = slow.most_common(1)[0] if slow else (0, 0)
    rest = _compare([a for a in answers if a.size.bit_length() != size], limits, alpha)
    if rest.verdict is not Verdict.PASS:
        return check
    span = f"{1 << size >> 1} to {(1 << size) - 1} bytes"
    source = f"requests of {span} ({hits} of {slow.total()} slow answers are to them)"
    return hold_for_source(check, source, rest.message)


def _compare(answers: Sequence[Answer], limits: LiveLimits, alpha: float) -> LiveLatencyCheck:
    timed = [answer for answer in answers if _counts(answer.outcome, answer.took_ms) and not answer.long]
    before, after, where = simultaneous(timed)
    if few := _too_few(len(before), len(after), limits):
        return few
    slowest = max(answer.took_ms or 0.0 for answer in timed)
    stable, candidate = (np.array([_time(a.outcome, a.took_ms, slowest) for a in side]) for side in (before, after))
    figures = _Figures(_times(stable, slice_weights(where)), _times(candidate), limits)
    medians = figures.stable.p50_ms, figures.candidate.p50_ms
    ratio, limit = medians[1] / medians[0], np.maximum(stable * limits.latency_limit, stable + FLOOR_MS)
    if medians[1] > _at_limit(medians[0], limits):
        surely = p_higher(stable, candidate, where) <= alpha / _TESTS and p_higher(limit, candidate, where) <= _LIKELY
        return figures.by_median(Verdict.FAIL if surely else Verdict.HOLD, ratio)
    slow = _at_limit(figures.stable.p95_ms, limits)
    if figures.candidate.p95_ms > slow and p_more_often(stable > slow, candidate > slow, where) <= alpha / _TESTS:
        return figures.by_tail(int(np.sum(stable > slow)), int(np.sum(candidate > slow)))
    holds = p_higher(candidate, limit, (where[1], where[0])) > _LIKELY
    return figures.by_median(Verdict.HOLD if holds else Verdict.PASS, ratio)


def judge_paired_live_latency(pairs: Sequence[Pair], limits: LiveLimits, alpha: float) -> LiveLatencyCheck:
    """Judge the two times of each mirrored request, each test at ``alpha / 2``."""
    timed = [p for p in pairs if _counts(p.outcome, p.candidate_ms) and not p.long and (p.stable_ms or 0.0) > 0]
    if few := _too_few(len(timed), len(timed), limits):
        return few
    slowest = max(max(pair.stable_ms or 0.0, pair.candidate_ms or 0.0) for pair in timed)
    stable = np.array([pair.stable_ms for pair in timed], dtype=np.float64)
    candidate = np.array([_time(pair.outcome, pair.candidate_ms, slowest) for pair in timed])
    figures = _Figures(_times(stable), _times(candidate), limits)
    ratio, count = quantile(candidate / stable, 0.5), stable.size
    beyond = int(np.sum(candidate > np.maximum(stable * limits.latency_limit, stable + FLOOR_MS)))
    if 2 * beyond > count:
        surely = _p_majority(beyond, count) <= alpha / _TESTS
        return figures.by_median(Verdict.FAIL if surely else Verdict.HOLD, ratio)
    slow = _at_limit(figures.stable.p95_ms, limits)
    before, after = stable > slow, candidate > slow
    alone, differ = int(np.sum(after & ~before)), int(np.sum(after != before))
    if figures.candidate.p95_ms > slow and _p_majority(alone, differ) <= alpha / _TESTS:
        return figures.by_tail(int(before.sum()), int(after.sum()))
    return figures.by_median(Verdict.HOLD if _p_majority(count - beyond, count) > _LIKELY else Verdict.PASS, ratio)


def _counts(outcome: str, took_ms: float | None) -> bool:
    return outcome == "late" or (outcome == "ok" and took_ms is not None and took_ms > 0)


def _time(outcome: str, took_ms: float | None, slowest: float) -> float:
    return slowest if outcome == "late" or took_ms is None else took_ms


def _at_limit(time_ms: float, limits: LiveLimits) -> float:
    return max(time_ms * limits.latency_limit, time_ms + FLOOR_MS)


def _p_majority(hits: int, of: int) -> float:
    """Return the chance of so many hits or more, were hit and miss alike."""
    return float(scipy.stats.binom.sf(hits - 1, of, 0.5))


def _times(times: Floats, weight: Floats | None = None) -> Times:
    return Times(times.size, *(quantile(times, q, weight) for q in (0.5, 0.95, 0.99)))


class _Figures:
    """What both versions took, and the check that follows from it."""

    def __init__(self, stable: Times, candidate: Times, limits: LiveLimits) -> None:
        self.stable, self.candidate, self._limit = stable, candidate, limits.latency_limit
        times = zip((50, 95, 99), *((t.p50_ms, t.p95_ms, t.p99_ms) for t in (candidate, stable)), strict=True)
        told = ", ".join(f"p{q} {after:.1f} ms against stable's {before:.1f} ms" for q, after, before in times)
        self._words = f"{told}, over {candidate.answers} answers against {stable.answers}"

    def by_median(self, verdict: Verdict, ratio: float) -> LiveLatencyCheck:
        before = {
            Verdict.FAIL: "the candidate is too slow: ",
            Verdict.HOLD: "more traffic is needed to tell whether the candidate is too slow: ",
        }.get(verdict, "")
        median = f"median latency is {ratio:.2f} times stable's (limit {self._limit:g})"
        message = f"{before}{median}; {self._words}"
        return self._check(verdict, message, ratio)

    def by_tail(self, stable_slow: int, slow: int) -> LiveLatencyCheck:
        ratio = self.candidate.p95_ms / self.stable.p95_ms
        message = (
            f"the candidate's slowest answers are too slow: p95 latency is {ratio:.2f} times stable's (limit "
            f"{self._limit:g}); {slow} of its answers and {stable_slow} of stable's are above the limit; {self._words}"
        )
        return self._check(Verdict.FAIL, message, ratio, slow)

    def _check(self, verdict: Verdict, message: str, ratio: float, slow: int | None = None) -> LiveLatencyCheck:
        return LiveLatencyCheck(
            verdict=verdict, message=message, observed=ratio, limit=self._limit, stable=self.stable,
            candidate=self.candidate, slow=slow,
        )  # fmt: skip


def _too_few(stable: int, candidate: int, limits: LiveLimits) -> LiveLatencyCheck | None:
    few = min(stable, candidate)
    if few >= limits.min_requests:
        return None
    message = (
        f"too few answers at the same time to compare latency ({candidate} of the candidate and {stable} of stable, "
        f"{limits.min_requests} of each needed)"
    )
    return LiveLatencyCheck(
        verdict=Verdict.HOLD, message=message, limit=limits.latency_limit, answers=(stable, candidate), have=few,
        need=limits.min_requests,
    )  # fmt: skip
