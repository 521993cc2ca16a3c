"""The gate ``output``: are the golden scores sane, and as the release promises?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from baton.domain import NO_EVIDENCE, Evidence, Gate, GateResult, Release, Verdict
from baton.evidence import OutputEvidence, Sides, WorstScore
from baton.judge.limits import NOISE_FACTOR, widened
from baton.judge.ndcg import mean_ndcg_at_10
from baton.samples import CaseScores

_SAME = 1e-6
"""Scores nearer than this count as tied. FP32 rounding is 6e-8; two different documents are further apart."""
_NEARLY_ALL = 0.9
_KIND_CASES = 3
"""A kind with so many cases, all of them tied, fails by itself: the vision tower alone may be broken."""
_RETRAINED_FACTOR = 10.0
"""Differences above so many tolerances come from other weights, and not from another precision or layout (at most 0.008
was seen between layouts, 0.007 between bf16 and fp32)."""
_ROUNDING = 1e-9


def judge_output(
    release: Release,
    stable: Sequence[CaseScores] | None,
    candidate: Sequence[CaseScores],
    relevance: Mapping[str, Sequence[int]],
    *,
    tolerance: float,
    ndcg_margin: float,
    version: int | None = None,
    noise: float | None = None,
    most_noise: float = 0.0,
) -> GateResult:
    """Judge the candidate's golden scores against the stable version's.

    ``stable`` is None without a stable version: then only sanity is judged. ``relevance`` has, for each labelled case,
    a grade of 0 and up for each document. ``version`` is the candidate's number, for the message. ``noise`` is given
    where stable's scores may be off by it, because it answered in half precision and beside other requests: then the
    tolerance is widened by it, to ``most_noise`` at the most, and what only noise may explain beyond that holds.

    ``observed`` is the largest difference of a score for an equivalent release, the candidate's mean NDCG@10 for a
    retrained one, and None when sanity already failed.
    """
    if sum(len(case.scores) for case in candidate) < 2:  # noqa: PLR2004 one score can't be told from a constant
        return _result(Verdict.HOLD, "The golden set gives fewer than two scores, too few to judge. Add cases to it.")
    if insane := _insane(candidate):
        return insane
    evidence = OutputEvidence(cases=len(candidate), scores=sum(len(case.scores) for case in candidate))
    ndcg = _Ndcg.of(candidate, relevance)
    if stable is None:
        ranks = "" if ndcg.mean is None else f", NDCG@10 {ndcg.mean:.4f}"
        message = (
            f"There is no stable version to compare with, so the comparison was skipped. {evidence.scores} scores of "
            f"{evidence.cases} golden cases are valid{ranks}."
        )
        return _result(Verdict.PASS, message, replace(evidence, ndcg_candidate=ndcg.mean), skipped=True)
    if unusable := _unusable(stable, candidate):
        return _result(Verdict.HOLD, unusable, evidence)
    stable_ndcg = _Ndcg.of(stable, relevance)
    evidence = replace(evidence, labelled=ndcg.cases)
    if release is Release.EQUIVALENT:
        evidence = replace(evidence, noise=noise)
        limits = (widened(tolerance, noise, most_noise), ndcg_margin)
        return _equivalent(stable, candidate, (stable_ndcg, ndcg), limits, version, evidence)
    return _retrained(stable_ndcg, ndcg, ndcg_margin, evidence)


def _equivalent(
    stable: Sequence[CaseScores],
    candidate: Sequence[CaseScores],
    ndcg: tuple[_Ndcg, _Ndcg],
    limits: tuple[float, float],
    version: int | None,
    evidence: OutputEvidence,
) -> GateResult:
    tolerance, margin = limits
    before, after = (side.mean for side in ndcg)
    pairs = [
        (abs(new - old), mine.case, document, old, new)
        for theirs, mine in zip(stable, candidate, strict=True)
        for document, (old, new) in enumerate(zip(theirs.scores, mine.scores, strict=True))
    ]
    worst, case, document, old, new = max(pairs)
    beyond = sum(pair[0] > tolerance for pair in pairs)
    evidence = replace(
        evidence,
        beyond=beyond,
        median_difference=median(pair[0] for pair in pairs),
        worst=WorstScore(case, document, new, old),
        ndcg_stable=before,
        ndcg_candidate=after,
    )
    where = f"case {case}, documents[{document}]: {old:.6f} stable, {new:.6f} candidate"
    if worst <= tolerance:
        message = (
            f"All {len(pairs)} golden scores are within ±{tolerance:g} of stable's; largest difference {worst:.2g}."
            f"{_own_noise(evidence.noise)}"
        )
        return _result(Verdict.PASS, message, evidence, worst, tolerance)
    message = f"{beyond} of {len(pairs)} golden scores differ from stable's by more than ±{tolerance:g}; worst {where}."
    message += _own_noise(evidence.noise)
    if evidence.noise is not None and worst <= NOISE_FACTOR * evidence.noise:
        message += " So the difference may be noise. Ask again when fewer clients ask: `ctl retry`."
        return _result(Verdict.HOLD, message, evidence, worst, tolerance)
    no_worse = before is not None and after is not None and after >= before - margin - _ROUNDING
    if no_worse and worst > _RETRAINED_FACTOR * tolerance:
        name = "N" if version is None else str(version)
        evidence = replace(evidence, looks_retrained=True)
        message += (
            f" NDCG@10 is {after:.4f} (stable {before:.4f}), so this looks like a retrained version that was not "
            f"declared. `ctl retry {name} --release retrained` judges it as one."
        )
    return _result(Verdict.FAIL, message, evidence, worst, tolerance)


def _own_noise(noise: float | None) -> str:
    if noise is None:
        return ""
    return (
        f" Stable answered beside its live traffic, where in half precision its own scores move by up to {noise:.2g}."
    )


def _retrained(before: _Ndcg, after: _Ndcg, margin: float, evidence: OutputEvidence) -> GateResult:
    if before.mean is None or after.mean is None:
        message = (
            "No golden case is labelled with a relevant document, so a retrained version can't be compared. "
            "Add `relevance` to the cases of the golden set."
        )
        return _result(Verdict.HOLD, message, evidence)
    limit = before.mean - margin
    verdict = Verdict.PASS if after.mean >= limit - _ROUNDING else Verdict.FAIL
    message = (
        f"NDCG@10 is {after.mean:.4f} on {after.cases} labelled cases (stable {before.mean:.4f}, at least "
        f"{limit:.4f} required)."
    )
    kinds = {kind: Sides(before.kinds[kind], value) for kind, value in after.kinds.items()}
    evidence = replace(evidence, ndcg_stable=before.mean, ndcg_candidate=after.mean, kinds=kinds)
    return _result(verdict, message, evidence, after.mean, limit)


def _insane(candidate: Sequence[CaseScores]) -> GateResult | None:
    evidence = OutputEvidence(cases=len(candidate))
    for case in candidate:
        for document, score in enumerate(case.scores):
            if not 0.0 <= score <= 1.0:  # false for NaN too
                what = "is not a finite number" if not math.isfinite(score) else "is not in 0..1"
                message = f"Case {case.case}, documents[{document}] scores {score}, which {what}."
                # NaN and infinity are no JSON: the figure goes as text.
                worst = WorstScore(case.case, document, str(score))
                return _result(Verdict.FAIL, message, replace(evidence, worst=worst))
    every = [score for case in candidate for score in case.scores]
    if max(every) - min(every) <= _SAME:
        message = f"All {len(every)} golden scores are {every[0]:.6f}: the candidate scores every document alike."
        return _result(Verdict.FAIL, message, replace(evidence, scores=len(every)))
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for case in candidate:
        if len(case.scores) > 1:
            by_kind[case.kind].append(_tied(case.scores))
    tied = [flag for flags in by_kind.values() for flag in flags]
    if tied and sum(tied) >= _NEARLY_ALL * len(tied):
        message = (
            f"In {sum(tied)} of {len(tied)} golden cases nearly all documents have the same score (within {_SAME:g}): "
            "the candidate scores documents alike."
        )
        return _result(Verdict.FAIL, message, replace(evidence, degenerate=sum(tied)))
    for kind, flags in by_kind.items():
        if len(flags) >= _KIND_CASES and all(flags):
            message = (
                f"In all {len(flags)} golden cases of kind {kind} nearly all documents have the same score (within "
                f"{_SAME:g}): the candidate scores them alike."
            )
            return _result(Verdict.FAIL, message, replace(evidence, degenerate=sum(tied), kind=kind))
    return None


def _tied(scores: Sequence[float]) -> bool:
    """Whether nearly all scores lie within ``_SAME`` of one another, as when all are saturated at 0 or 1."""
    ordered = sorted(scores)
    span = math.ceil(_NEARLY_ALL * len(ordered))
    return any(ordered[i + span - 1] - ordered[i] <= _SAME for i in range(len(ordered) - span + 1))


def _unusable(stable: Sequence[CaseScores], candidate: Sequence[CaseScores]) -> str | None:
    """Say why the two can't be compared; None when they can."""
    if [(case.case, len(case.scores)) for case in stable] != [(case.case, len(case.scores)) for case in candidate]:
        return "Stable and candidate got different golden requests, so they can't be compared. Run the gate again."
    for case in stable:
        for document, score in enumerate(case.scores):
            if not 0.0 <= score <= 1.0:
                return (
                    f"The stable version's own score of case {case.case}, documents[{document}] is {score}, so the "
                    "candidate can't be compared with it. Roll back to a version with valid scores first."
                )
    return None


@dataclass(frozen=True, slots=True)
class _Ndcg:
    mean: float | None
    cases: int
    kinds: Mapping[str, float | None]

    @classmethod
    def of(cls, answers: Sequence[CaseScores], relevance: Mapping[str, Sequence[int]]) -> _Ndcg:
        lists = [(answer, relevance[answer.case]) for answer in answers if answer.case in relevance]
        mean, cases = mean_ndcg_at_10((answer.scores, grades) for answer, grades in lists)
        kinds = {
            kind: mean_ndcg_at_10((answer.scores, grades) for answer, grades in lists if answer.kind == kind)[0]
            for kind in sorted({answer.kind for answer, _ in lists})
        }
        return cls(mean, cases, kinds)


def _result(
    verdict: Verdict,
    message: str,
    evidence: Evidence = NO_EVIDENCE,
    observed: float | None = None,
    limit: float | None = None,
    *,
    skipped: bool = False,
) -> GateResult:
    return GateResult(Gate.OUTPUT, verdict, message, observed, limit, skipped=skipped, evidence=evidence)
