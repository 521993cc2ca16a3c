"""The scores of live traffic where the two versions never answer the same request.

While traffic is split and no requests are shadowed, the two versions never answer the same request. Then only the
distributions of the best and the mean score are compared (Kolmogorov and Smirnov), and only a large distance between
them fails, the mean difference of their quantiles: ``drift_limit`` for a retrained version, 0.05 for an equivalent one.
Only answers that were drawn fail it (see ``baton.judge.checks``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from baton.domain import Release, Verdict
from baton.evidence import DistributionsCheck
from baton.judge.checks import at_the_same_time, drawn, hangs, weights
from baton.judge.shapes import Answer, LiveLimits

_DISTANCE = 0.05


def judge_distributions(
    answers: Sequence[Answer], release: Release, limits: LiveLimits, alpha: float
) -> DistributionsCheck:
    """Compare the best and the mean scores of the two versions' own requests, while too few requests have both."""
    chance = drawn(answers)
    check = _distances(chance, release, limits, alpha)
    if check.verdict is Verdict.HOLD and len(chance) < len(answers):
        check = _distances(answers, release, limits, alpha)
        if check.verdict is Verdict.FAIL:
            return hangs(check, "requests whose ids were used before, and whose senders can choose who answers")
    return check


def _distances(answers: Sequence[Answer], release: Release, limits: LiveLimits, alpha: float) -> DistributionsCheck:
    limit = limits.drift_limit if release is Release.RETRAINED else _DISTANCE
    answered = [answer for answer in answers if answer.outcome == "ok"]
    told = [answer for answer in answered if answer.top is not None and answer.mean is not None]
    if answered and not told:
        return DistributionsCheck(verdict=Verdict.PASS, message="no scores are compared", skipped=True)
    stable, candidate, where = at_the_same_time(told)
    few = min(len(stable), len(candidate))
    if few < limits.min_requests:
        message = (
            f"too little traffic to compare scores: {len(candidate)} scored answers of the candidate and "
            f"{len(stable)} of stable at the same time, at least {limits.min_requests} of each are needed"
        )
        return DistributionsCheck(
            verdict=Verdict.HOLD, message=message, limit=limit, stable=len(stable), candidate=len(candidate), have=few,
            need=limits.min_requests,
        )  # fmt: skip
    tops = [np.array([answer.top for answer in side], dtype=np.float64) for side in (stable, candidate)]
    means = [np.array([answer.mean for answer in side], dtype=np.float64) for side in (stable, candidate)]
    weight = weights(where)
    distances = [float(scipy.stats.wasserstein_distance(*of, u_weights=weight)) for of in (tops, means)]
    chances = [float(scipy.stats.ks_2samp(*of, method="asymp").pvalue) for of in (tops, means)]
    which = int(distances[1] > distances[0])
    words = (
        f"the {('best', 'mean')[which]} scores of {len(candidate)} requests lie {distances[which]:.3f} from those "
        f"of {len(stable)} of stable's (limit {limit:g})"
    )
    surely = [distance > limit and chance <= alpha / 2 for distance, chance in zip(distances, chances, strict=True)]
    return DistributionsCheck(
        verdict=Verdict.FAIL if any(surely) else Verdict.PASS,
        message=f"the candidate scores otherwise: {words}" if any(surely) else words,
        observed=distances[which],
        limit=limit,
        stable=len(stable),
        candidate=len(candidate),
        top=distances[0],
        mean=distances[1],
    )
