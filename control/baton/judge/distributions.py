"""The scores of live traffic while it is split and no requests are mirrored: the versions answer different requests.

So only the distributions of the best and of the mean score are compared (Kolmogorov and Smirnov). Only a large distance
between them fails, the mean difference of their quantiles: ``drift_limit`` for a retrained version, 0.05 for an
equivalent one. Only answers to randomly routed requests can fail it (see ``baton.judge.checks``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from baton.domain import Release, Verdict
from baton.evidence import DistributionsCheck
from baton.judge.checks import REPEATED_IDS, hold_for_source, randomly_routed, simultaneous, slice_weights
from baton.judge.limits import LiveLimits
from baton.samples import Answer

_EQUIVALENT_DISTANCE = 0.05


def judge_distributions(
    answers: Sequence[Answer], release: Release, limits: LiveLimits, alpha: float
) -> DistributionsCheck:
    """Compare the best and the mean scores of the two versions' own requests, while too few requests have both."""
    routed = randomly_routed(answers)
    check = _distances(routed, release, limits, alpha)
    if check.verdict is Verdict.HOLD and len(routed) < len(answers):
        check = _distances(answers, release, limits, alpha)
        if check.verdict is Verdict.FAIL:
            return hold_for_source(check, REPEATED_IDS)
    return check


def _distances(answers: Sequence[Answer], release: Release, limits: LiveLimits, alpha: float) -> DistributionsCheck:
    limit = limits.drift_limit if release is Release.RETRAINED else _EQUIVALENT_DISTANCE
    answered = [answer for answer in answers if answer.outcome == "ok"]
    scored = [answer for answer in answered if answer.top is not None and answer.mean is not None]
    if answered and not scored:
        return DistributionsCheck(verdict=Verdict.PASS, message="scores are not compared", skipped=True)
    stable, candidate, where = simultaneous(scored)
    counts, few = (len(stable), len(candidate)), min(len(stable), len(candidate))
    if few < limits.min_requests:
        message = (
            f"too few answers at the same time to compare scores ({counts[1]} of the candidate and {counts[0]} "
            f"of stable, {limits.min_requests} of each needed)"
        )
        return DistributionsCheck(
            verdict=Verdict.HOLD, message=message, limit=limit, stable=counts[0], candidate=counts[1], have=few,
            need=limits.min_requests,
        )  # fmt: skip
    sides = [np.array([(a.top, a.mean) for a in side], dtype=np.float64).T for side in (stable, candidate)]
    weight = slice_weights(where)
    distances = [float(scipy.stats.wasserstein_distance(*of, u_weights=weight)) for of in zip(*sides, strict=True)]
    chances = [float(scipy.stats.ks_2samp(*of, method="asymp").pvalue) for of in zip(*sides, strict=True)]
    which = int(distances[1] > distances[0])
    message = (
        f"the {('best', 'mean')[which]} scores of {counts[1]} requests are {distances[which]:.3f} away from those "
        f"of {counts[0]} requests to stable (limit {limit:g})"
    )
    failed = any(far > limit and chance <= alpha / 2 for far, chance in zip(distances, chances, strict=True))
    return DistributionsCheck(
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        message=f"the candidate is too far from stable: {message}" if failed else message,
        observed=distances[which],
        limit=limit,
        stable=counts[0],
        candidate=counts[1],
        top=distances[0],
        mean=distances[1],
    )
