"""The latency of live traffic.

Late attempts count as the slowest of all; failed ones have no latency, and neither have late ones whose request took
stable as long.

While traffic is split, answers of the same time are compared (see ``baton.judge.checks``). The candidate fails

- when it surely ranks slower, its median is above ``latency_limit`` times stable's and ``latency_floor_ms`` longer, and
  it likely (nine in ten) ranks slower even than stable would with all of its times at that limit: of few answers, the
  two medians alone may be far apart by luck;
- or when surely more of its answers than of stable's are slow, and more than one in twenty are, so that its p95 is
  beyond the limit. Slow is what takes more than ``latency_limit`` times stable's p95, and ``latency_floor_ms`` longer.

It passes only when it likely ranks below stable with all of its times at that limit; until then it holds.

In shadow the candidate is asked after stable has answered, under another load than it will have. There each request is
compared with itself, and the candidate fails

- when surely most requests took it more than ``latency_limit`` times as long, and ``latency_floor_ms`` longer (sign
  test);
- or when surely more requests are slow with the candidate alone than with stable alone, and its p95 is beyond the limit
  (McNemar's test, exact).

It passes only when likely most requests are within that limit (sign test).

Like is compared with like: while traffic is split, by drawing (see ``baton.judge.checks``), so that each version gets
the same mixture of requests whatever clients send; in shadow, each request with itself. One that fails by answers that
were drawn is asked again, at the same limits, without those that the candidate gave while it was busy with ids used
before. What then is not a failure any more may still be one by shadowed requests from other times: those are compared
with themselves. A few clients can't move a median, but slow answers to one in twenty requests may be one client's:
where those fail it, and it passes without the requests of the size that most of them are of (sizes within a factor of
two count as one), it holds.
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
    Crowd,
    Floats,
    at_the_same_time,
    drawn,
    hangs,
    higher,
    more_often,
    quantile,
    weights,
)
from baton.judge.shapes import Answer, LiveLimits, Pair

_TESTS = 2
_LIKELY = 0.1
_QUANTILES = (0.5, 0.95, 0.99)
_P95 = 0.95


def judge_live_latency(
    answers: Sequence[Answer], pairs: Sequence[Pair], limits: LiveLimits, alpha: float
) -> LiveLatencyCheck:
    """Judge the answers of both versions while traffic is split, each test at ``alpha / 2``.

    ``pairs`` of shadowed requests confirm a failure where clients could choose what the candidate answered.
    """
    chance = drawn(answers)
    check = _pace(chance, limits, alpha)
    if check.observed is None and len(chance) < len(answers):
        # Clients whose ids never change are no reason to wait for ever: a version may pass by them, but not fail.
        check = _pace(answers, limits, alpha)
    if check.verdict is not Verdict.FAIL:
        return check
    crowd = Crowd(answers, limits)
    quiet = [a for a in chance if a.role == "stable" or not crowd.with_(a.began, a.at)]
    if len(quiet) < len(answers):
        rest = _pace(quiet, limits, alpha)
        if rest.verdict is not Verdict.FAIL:
            rest = judge_paired_live_latency([p for p in pairs if not crowd.with_(p.began, p.at)], limits, alpha)
        if rest.verdict is not Verdict.FAIL:
            every, left = (sum(a.role == "candidate" for a in side) for side in (answers, quiet))
            on = (
                f"requests whose ids were used before, and whose senders can choose which version answers: "
                f"{every - left} of the candidate's {every} answers are to them, or came while it was busy with them"
            )
            return hangs(check, on)
        check = rest
    return _without_one_size(check, quiet, limits, alpha)


def _without_one_size(
    check: LiveLatencyCheck, answers: Sequence[Answer], limits: LiveLimits, alpha: float
) -> LiveLatencyCheck:
    """Hold where a few slow answers fail it, and it passes but for requests of one size."""
    if check.slow is None or check.stable is None:  # more than half of all answers are slow: no few decide
        return check
    slow_from = _slow_from(check.stable.p95_ms, limits)
    mine = [a for a in answers if a.role == "candidate" and not a.long]
    slow = Counter(a.size.bit_length() for a in mine if _time(a.outcome, a.took_ms, math.inf) > slow_from)
    size, hits = slow.most_common(1)[0] if slow else (0, 0)
    rest = _pace([a for a in answers if a.size.bit_length() != size], limits, alpha)
    if rest.verdict is not Verdict.PASS:
        return check
    on = f"requests of {1 << size >> 1} to {(1 << size) - 1} bytes: {hits} of {slow.total()} slow answers are to them"
    return hangs(check, on, rest.message)


def _pace(answers: Sequence[Answer], limits: LiveLimits, alpha: float) -> LiveLatencyCheck:
    timed = [answer for answer in answers if _counts(answer.outcome, answer.took_ms) and not answer.long]
    before, after, where = at_the_same_time(timed)
    if early := _too_little(len(before), len(after), limits):
        return early
    slowest = max(answer.took_ms or 0.0 for answer in timed)
    stable, candidate = (
        np.array([_time(its.outcome, its.took_ms, slowest) for its in side]) for side in (before, after)
    )
    weight = weights(where)
    figures = _times(stable, weight), _times(candidate, np.ones(candidate.size))
    medians = figures[0].p50_ms, figures[1].p50_ms
    ratio = medians[1] / medians[0]
    limit = np.maximum(stable * limits.latency_limit, stable + limits.latency_floor_ms)
    if medians[1] > _slow_from(medians[0], limits):
        surely = higher(stable, candidate, where) <= alpha / _TESTS
        surely = surely and higher(limit, candidate, where) <= _LIKELY
        return _median(Verdict.FAIL if surely else Verdict.HOLD, ratio, figures, limits)
    slow = _slow_from(figures[0].p95_ms, limits)
    if figures[1].p95_ms > slow and more_often(stable > slow, candidate > slow, where) <= alpha / _TESTS:
        return _tail(figures, int(np.sum(candidate > slow)), int(np.sum(stable > slow)), limits)
    if higher(candidate, limit, (where[1], where[0])) > _LIKELY:
        return _median(Verdict.HOLD, ratio, figures, limits)
    return _median(Verdict.PASS, ratio, figures, limits)


def judge_paired_live_latency(pairs: Sequence[Pair], limits: LiveLimits, alpha: float) -> LiveLatencyCheck:
    """Judge the two times of each shadowed request, each test at ``alpha / 2``."""
    timed = [
        pair
        for pair in pairs
        if _counts(pair.outcome, pair.candidate_ms)
        and not pair.long
        and pair.stable_ms is not None
        and pair.stable_ms > 0
    ]
    if early := _too_little(len(timed), len(timed), limits):
        return early
    slowest = max(max(pair.stable_ms or 0.0, pair.candidate_ms or 0.0) for pair in timed)
    stable = np.array([pair.stable_ms for pair in timed], dtype=np.float64)
    candidate = np.array([_time(pair.outcome, pair.candidate_ms, slowest) for pair in timed])
    figures = _times(stable, np.ones(stable.size)), _times(candidate, np.ones(stable.size))
    ratio = quantile(candidate / stable, 0.5)
    beyond = int(np.sum(candidate > np.maximum(stable * limits.latency_limit, stable + limits.latency_floor_ms)))
    if 2 * beyond > stable.size:
        surely = _most(beyond, stable.size) <= alpha / _TESTS
        return _median(Verdict.FAIL if surely else Verdict.HOLD, ratio, figures, limits)
    slow = _slow_from(figures[0].p95_ms, limits)
    mine, theirs = candidate > slow, stable > slow
    alone = int(np.sum(mine & ~theirs))
    if figures[1].p95_ms > slow and _most(alone, int(np.sum(mine != theirs))) <= alpha / _TESTS:
        return _tail(figures, int(mine.sum()), int(theirs.sum()), limits)
    if _most(stable.size - beyond, stable.size) > _LIKELY:
        return _median(Verdict.HOLD, ratio, figures, limits)
    return _median(Verdict.PASS, ratio, figures, limits)


def _counts(outcome: str, took_ms: float | None) -> bool:
    return outcome == "late" or (outcome == "ok" and took_ms is not None and took_ms > 0)


def _time(outcome: str, took_ms: float | None, slowest: float) -> float:
    return slowest if outcome == "late" or took_ms is None else took_ms


def _slow_from(time_ms: float, limits: LiveLimits) -> float:
    return max(time_ms * limits.latency_limit, time_ms + limits.latency_floor_ms)


def _most(hits: int, of: int) -> float:
    """Return the chance of so many hits or more, were hit and miss alike."""
    return float(scipy.stats.binom.sf(hits - 1, of, 0.5))


_Figures = tuple[Times, Times]
"""Of stable, and of the candidate."""


def _times(times: Floats, weight: Floats) -> Times:
    return Times(times.size, *(quantile(times, q, weight) for q in _QUANTILES))


def _words(figures: _Figures) -> str:
    stable, candidate = figures
    return (
        f"p50 {candidate.p50_ms:.1f} ms against stable's {stable.p50_ms:.1f} ms, "
        f"p95 {candidate.p95_ms:.1f} ms against stable's {stable.p95_ms:.1f} ms, "
        f"p99 {candidate.p99_ms:.1f} ms against stable's {stable.p99_ms:.1f} ms, "
        f"over {candidate.answers} answers against {stable.answers}"
    )


def _median(verdict: Verdict, ratio: float, figures: _Figures, limits: LiveLimits) -> LiveLatencyCheck:
    before = {
        Verdict.FAIL: "the candidate is slower than the limit: ",
        Verdict.HOLD: "too early to tell whether the candidate is slower than the limit: ",
    }.get(verdict, "")
    message = f"{before}its median is {ratio:.2f} times stable's (limit {limits.latency_limit:g}); {_words(figures)}"
    stable, candidate = figures
    return LiveLatencyCheck(
        verdict=verdict, message=message, observed=ratio, limit=limits.latency_limit, stable=stable, candidate=candidate
    )


def _tail(figures: _Figures, slow: int, stable_slow: int, limits: LiveLimits) -> LiveLatencyCheck:
    stable, candidate = figures
    ratio = candidate.p95_ms / stable.p95_ms
    message = (
        f"the candidate's slow answers are beyond the limit: its p95 is {ratio:.2f} times stable's (limit "
        f"{limits.latency_limit:g}), {slow} answers took longer than that against {stable_slow} of stable's; "
        f"{_words(figures)}"
    )
    return LiveLatencyCheck(
        verdict=Verdict.FAIL, message=message, observed=ratio, limit=limits.latency_limit, stable=stable,
        candidate=candidate, slow=slow,
    )  # fmt: skip


def _too_little(stable: int, candidate: int, limits: LiveLimits) -> LiveLatencyCheck | None:
    few = min(stable, candidate)
    if few >= limits.min_requests:
        return None
    message = (
        f"too little traffic to compare latency: {candidate} answers of the candidate and {stable} of stable at the "
        f"same time, at least {limits.min_requests} of each are needed"
    )
    return LiveLatencyCheck(
        verdict=Verdict.HOLD, message=message, limit=limits.latency_limit, answers=(stable, candidate), have=few,
        need=limits.min_requests,
    )  # fmt: skip
