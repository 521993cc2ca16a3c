"""The scores of live traffic: those of shadowed requests, which both versions answered.

A request's drift is the mean absolute difference of its scores, its tau is Kendall's tau-b of its two rankings (scores
within 1e-6 are tied; a candidate that ties them all where stable does not agrees with nothing: 0).

Any release fails as degenerate when in most requests all of the candidate's scores are the same while stable's are not.

Release ``equivalent``. No score differs by more than ``tolerance``. An allowance is made for a request in a hundred,
for whoever set a tolerance that fits nearly all batches; but only up to ten times the tolerance, which no precision and
no batch explains. In half precision a batch's other requests move a score by up to 0.008: there the tolerance is to be
set accordingly.

Release ``retrained``. Mean drift, share of requests whose best document is among stable's best (its score there is
within ``top1_margin`` of stable's highest: of several relevant documents any may come first), mean tau, and share of
documents that cross the threshold are held against their limits; each fails when it is surely beyond (Student's t over
requests, the exact binomial test for the best document). The signed-rank test of the differences (Wilcoxon) only tells
in which direction scores went: other weights give other scores.

All of it is asked of all requests, and of each kind of request with at least a third of ``min_pairs``: a version that
is wrong about images alone hides in the mean of all.

A request that is sent again and again counts each time, so one client could decide by one that it chose. So what fails,
and would pass without the one request that went furthest apart in sum, holds and says so. A score of an equivalent
release that is ten tolerances off is proof by itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from baton.domain import Release, Verdict
from baton.evidence import KindMean, LiveCheck, ScoresCheck, WorstRequest
from baton.judge.checks import Floats, above, hangs
from baton.judge.distributions import judge_distributions
from baton.judge.shapes import Answer, LiveLimits, Pair

_SAME = 1e-6
"""Scores nearer than this count as tied."""
_FAR = 10.0
"""Tolerances beyond which a single score of an equivalent release tells."""
_ALLOWED = 0.01
_WORST = 5
_ALL = ""


def sound(pair: Pair) -> bool:
    """Whether both versions gave as many scores, and numbers."""
    return (
        pair.outcome == "ok"
        and 0 < len(pair.stable) == len(pair.candidate)
        and all(map(math.isfinite, (*pair.stable, *pair.candidate)))
    )


def judge_scores(
    answers: Sequence[Answer],
    pairs: Sequence[Pair],
    compared: Sequence[Compared],
    *,
    release: Release,
    shadow_only: bool,
    limits: LiveLimits,
    alpha: float,
) -> list[LiveCheck]:
    """Judge the scores of ``compared`` pairs, or while they are too few and traffic is split, those of the answers."""
    if not shadow_only and len(compared) < limits.min_pairs:
        return [judge_distributions(answers, release, limits, alpha)]
    if any(pair.outcome == "ok" for pair in pairs) and not any(pair.stable for pair in pairs):
        return [ScoresCheck(name="scores", verdict=Verdict.PASS, message="no scores are compared", skipped=True)]
    checks = _compare(compared, release, limits, alpha)
    far = release is Release.EQUIVALENT and any(each.furthest > _FAR * limits.tolerance for each in compared)
    if far or not any(check.verdict is Verdict.FAIL for check in checks):
        return checks
    rest = _without_one_request(compared)
    left = _compare(rest, release, limits, alpha)
    on = f"one request, which was asked {len(compared) - len(rest)} times of {len(compared)}"
    return [
        hangs(check, on, other.message) if (check.verdict, other.verdict) == (Verdict.FAIL, Verdict.PASS) else check
        for check, other in zip(checks, left, strict=True)
    ]


def _compare(compared: Sequence[Compared], release: Release, limits: LiveLimits, alpha: float) -> list[LiveCheck]:
    groups = _groups(compared, limits)
    checks = [_degenerate(groups, limits)]
    if release is Release.EQUIVALENT:
        return [*checks, _difference(groups, limits, alpha)]
    measures = _MEASURES if limits.threshold is not None else _MEASURES[:-1]
    share = alpha / len(measures) / len(groups)
    return [*checks, *(_measured(measure, groups, limits, share) for measure in measures)]


def _without_one_request(compared: Sequence[Compared]) -> Sequence[Compared]:
    """Leave out the request that was asked more than once and went furthest apart in sum; all are left without one."""
    apart: dict[str, list[float]] = defaultdict(list)
    for each in compared:
        apart[each.pair.digest].append(each.drift)
    repeated = {digest: sum(drifts) for digest, drifts in apart.items() if digest and len(drifts) > 1}
    worst = max(repeated, key=lambda digest: repeated[digest], default="")
    return [each for each in compared if not worst or each.pair.digest != worst]


def worst(compared: Sequence[Compared]) -> tuple[WorstRequest, ...]:
    """Return the requests whose scores are furthest apart, five at most, furthest first."""
    apart = [each for each in compared if each.drift > _SAME]
    return tuple(each.evidence() for each in sorted(apart, key=lambda each: -each.drift)[:_WORST])


@dataclass(frozen=True, slots=True)
class Compared:
    """One request's two lists of scores, compared; None is what a single document can't tell."""

    pair: Pair
    drift: float
    shift: float
    """Mean of the candidate's scores less that of stable's."""
    furthest: float
    tops: tuple[int, int]
    same_top: bool | None
    tau: float | None
    crossing: float | None
    flat: bool | None
    """Whether the candidate's scores are all the same; None where stable's are, too."""

    @classmethod
    def of(cls, pair: Pair, limits: LiveLimits) -> Compared:
        stable, candidate = np.array(pair.stable), np.array(pair.candidate)
        apart = candidate - stable
        many = stable.size > 1
        threshold = limits.threshold
        tells = many and np.ptp(stable) > _SAME
        return cls(
            pair=pair,
            drift=float(np.abs(apart).mean()),
            shift=float(apart.mean()),
            furthest=float(np.abs(apart).max()),
            tops=(int(stable.argmax()), int(candidate.argmax())),
            # Near stable's best there is no right order; a tie of the candidate's must not agree with everything.
            same_top=bool(stable[candidate.argmax()] >= stable.max() - limits.top1_margin - _SAME) if tells else None,
            tau=tau_b(stable, candidate) if tells else None,
            crossing=None if threshold is None else float(np.mean((stable >= threshold) != (candidate >= threshold))),
            flat=bool(np.ptp(candidate) <= _SAME) if tells else None,
        )

    def evidence(self) -> WorstRequest:
        kept = self.pair.contents
        contents = None if kept is None else {name: tuple(texts) for name, texts in kept.items()}
        return WorstRequest(self.pair.id, self.pair.kind, self.drift, self.tau, *self.tops, contents)


def tau_b(stable: Floats, candidate: Floats) -> float:
    """Kendall's tau-b of two lists of scores, ties within 1e-6 (Kendall 1945); 0 where all of one list are tied."""
    signs = []
    for scores in (stable, candidate):
        apart = scores[:, None] - scores
        signs.append(np.where(np.abs(apart) <= _SAME, 0.0, np.sign(apart)))
    # Each pair of documents stands in it twice, with both signs: above and below the line alike.
    both = math.sqrt(np.vdot(signs[0], signs[0]) * np.vdot(signs[1], signs[1]))
    return float(np.vdot(signs[0], signs[1])) / both if both else 0.0


Groups = Mapping[str, Sequence[Compared]]


def _groups(compared: Sequence[Compared], limits: LiveLimits) -> Groups:
    """Return all requests, and those of each kind that has enough; a kind that all are of is told by its name."""
    kinds: dict[str, list[Compared]] = defaultdict(list)
    for each in compared:
        kinds[each.pair.kind].append(each)
    enough = {kind: of for kind, of in sorted(kinds.items()) if kind and len(of) >= _enough(limits)}
    return {_ALL: compared} if len(kinds) == 1 else {_ALL: compared, **enough}


def _enough(limits: LiveLimits) -> int:
    return max(math.ceil(limits.min_pairs / 3), 2)


def _of(kind: str) -> str:
    return f" of kind {kind}" if kind else ""


def _hold(name: str, count: int, limits: LiveLimits, limit: float | None) -> ScoresCheck:
    message = f"too few requests to compare scores: {count} were shadowed, at least {limits.min_pairs} are needed"
    return ScoresCheck(
        name=name, verdict=Verdict.HOLD, message=message, limit=limit, pairs=count, have=count, need=limits.min_pairs
    )


def _degenerate(groups: Groups, limits: LiveLimits) -> ScoresCheck:
    name, limit = "degenerate", 0.5
    every = groups[_ALL]
    for kind, of in groups.items():
        told = [each.flat for each in of if each.flat is not None]
        flat, words = sum(told), f"in {sum(told)} of {len(told)} requests{_of(kind)} the candidate gives all documents"
        if len(told) < _enough(limits) and len(of) >= _enough(limits):
            # Requests with a single document each: only together can they be flat.
            mine, theirs = (np.concatenate([side(each.pair) for each in of]) for side in (_candidate, _stable))
            told, flat = [True], int(np.ptp(mine) <= _SAME < np.ptp(theirs))
            words = f"in all {len(of)} requests{_of(kind)} the candidate gives the only document"
        if len(of) >= _enough(limits) and flat > limit * len(told):
            message = f"{words} the same score, while stable tells them apart"
            share = flat / len(told)
            return ScoresCheck(
                name=name, verdict=Verdict.FAIL, message=message, observed=share, limit=limit, pairs=len(of), kind=kind
            )
    if len(every) < limits.min_pairs:
        return _hold(name, len(every), limits, limit)
    told = [each.flat for each in every if each.flat is not None]
    message = f"the candidate tells documents apart in {len(told) - sum(told)} of {len(told)} requests"
    share = sum(told) / max(len(told), 1)
    return ScoresCheck(name=name, verdict=Verdict.PASS, message=message, observed=share, limit=limit, pairs=len(every))


def _stable(pair: Pair) -> Sequence[float]:
    return pair.stable


def _candidate(pair: Pair) -> Sequence[float]:
    return pair.candidate


def _difference(groups: Groups, limits: LiveLimits, alpha: float) -> ScoresCheck:
    """Release equivalent: is every score within the tolerance, but for the allowance?"""
    name, tolerance = "difference", limits.tolerance
    every = groups[_ALL]
    if not every:
        return _hold(name, 0, limits, tolerance)
    furthest = max(every, key=lambda each: each.furthest)
    beyond = {kind: sum(each.furthest > tolerance for each in of) for kind, of in groups.items()}
    shift, shift_chance = _direction(every)

    def check(verdict: Verdict, message: str) -> ScoresCheck:
        return ScoresCheck(
            name=name,
            verdict=verdict,
            message=message,
            observed=furthest.furthest,
            limit=tolerance,
            pairs=len(every),
            beyond=beyond[_ALL],
            shift=shift,
            shift_chance=shift_chance,
        )

    chances = {
        kind: float(scipy.stats.binom.sf(hits - 1, len(groups[kind]), _ALLOWED)) if hits else 1.0
        for kind, hits in beyond.items()
    }
    kind = min(chances, key=lambda kind: chances[kind])
    words = (
        f"of {len(groups[kind])} requests{_of(kind)}, {beyond[kind]} have a score that differs from stable's by more "
        f"than ±{tolerance:g}; the largest difference is {furthest.furthest:.2g}"
    )
    if furthest.furthest > _FAR * tolerance or chances[kind] <= alpha / len(groups):
        where = f", in a request{_of(furthest.pair.kind)}" if furthest.pair.kind != kind else ""
        return check(Verdict.FAIL, f"the candidate is not equivalent: {words}{where}")
    if len(every) < limits.min_pairs:
        return _hold(name, len(every), limits, tolerance)
    if beyond[_ALL] > _ALLOWED * len(every):
        return check(Verdict.HOLD, f"too early to tell whether the candidate is equivalent: {words}")
    if beyond[_ALL]:
        return check(Verdict.PASS, words)
    return check(
        Verdict.PASS,
        f"all scores of {len(every)} requests are within ±{tolerance:g}, "
        f"the largest difference is {furthest.furthest:.2g}",
    )


@dataclass(frozen=True, slots=True)
class _Measure:
    """One figure of a request and the limit of its mean over requests; above it is wrong, or below it."""

    name: str
    of: Callable[[Compared], float | bool | None]
    limit: Callable[[LiveLimits], float | None]
    words: str
    """With the mean, the requests and the limit to be filled in."""
    least: float | None = None
    """Where less is wrong: the least value there is; None where more is wrong, from 0."""

    def chance(self, values: Floats, limit: float) -> float:
        """Return the chance of so bad a mean, were the true one at the limit."""
        if self.name == "top1":
            return float(scipy.stats.binom.cdf(int(values.sum()), values.size, limit))
        if self.least is None:
            return above(values, limit)
        return above((1.0 - values) / (1.0 - self.least), (1.0 - limit) / (1.0 - self.least))

    def beyond(self, mean: float, limit: float) -> bool:
        return mean > limit if self.least is None else mean < limit


_MEASURES = (
    _Measure(
        "drift",
        lambda each: each.drift,
        lambda limits: limits.drift_limit,
        "scores{of} differ from stable's by {mean:.3f} on average over {count} requests (limit {limit:g})",
    ),
    _Measure(
        "top1",
        lambda each: each.same_top,
        lambda limits: limits.top1_agreement,
        "the best document is among stable's best in {mean:.0%} of {count} requests{of} (at least {limit:.0%})",
        least=0.0,
    ),
    _Measure(
        "tau",
        lambda each: each.tau,
        lambda limits: limits.tau,
        "rankings{of} agree with stable's by {mean:.2f} over {count} requests (mean Kendall's tau, at least {limit:g})",
        least=-1.0,
    ),
    _Measure(
        "crossing",
        lambda each: each.crossing,
        lambda limits: limits.crossing_limit,
        "{mean:.0%} of the documents of {count} requests{of} are across the threshold (limit {limit:.0%})",
    ),
)


def _measured(measure: _Measure, groups: Groups, limits: LiveLimits, alpha: float) -> ScoresCheck:
    """Release retrained: is the mean of one measure within its limit, for all requests and for each kind?"""
    limit = measure.limit(limits) or 0.0
    means: dict[str, tuple[float, int, float]] = {}
    for kind, of in groups.items():
        values = np.array([value for value in map(measure.of, of) if value is not None], dtype=np.float64)
        if values.size >= _enough(limits):
            means[kind] = float(values.mean()), values.size, measure.chance(values, limit)
    every = len(groups[_ALL])
    shift, shift_chance = _direction(groups[_ALL]) if measure.name == "drift" else (None, None)
    figures = ScoresCheck(
        name=measure.name,
        verdict=Verdict.PASS,
        message=f"no rankings to compare in {every} requests",
        limit=limit,
        pairs=every,
        kinds={kind: KindMean(mean, count) for kind, (mean, count, _) in means.items() if kind},
        shift=shift,
        shift_chance=shift_chance,
    )

    def check(verdict: Verdict, kind: str, before: str = "") -> ScoresCheck:
        mean, count, chance = means[kind]
        words = measure.words.format(mean=mean, count=count, limit=limit, of=f" of requests{_of(kind)}" if kind else "")
        message = f"{before}{words}"
        return replace(figures, verdict=verdict, message=message, observed=mean, kind=kind, chance=chance)

    surest = min(means, key=lambda kind: means[kind][2], default=_ALL)
    if means and means[surest][2] <= alpha:
        return check(Verdict.FAIL, surest, "the candidate is too far from stable: ")
    if every < limits.min_pairs:
        return _hold(measure.name, every, limits, limit)
    if _ALL not in means:
        # Requests with one document have no ranking; nothing is wrong with it.
        return figures
    if measure.beyond(means[_ALL][0], limit):
        return check(Verdict.HOLD, _ALL, "the candidate looks too far from stable, too early to tell: ")
    return check(Verdict.PASS, _ALL)


def _direction(compared: Sequence[Compared]) -> tuple[float, float | None]:
    """Return where the candidate's scores went, and the signed-rank test's chance of it; figures, no verdict."""
    shifts = np.array([each.shift for each in compared])
    moved = shifts[np.abs(shifts) > _SAME]
    if moved.size < 2:  # noqa: PLR2004 one request has no direction
        return float(shifts.mean()) if shifts.size else 0.0, None
    return float(shifts.mean()), float(scipy.stats.wilcoxon(moved).pvalue)
