"""The gate ``invariance``: a pair scores the same alone and inside a mixed batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from baton.domain import Gate, GateResult, Verdict
from baton.evidence import InvarianceEvidence
from baton.samples import Precision, ScorePair

LIMIT_FP32 = 0.005
"""In scores. Another batch layout moves fp32 scores by 1e-6; a larger difference means a wrong mask or position."""
LIMIT_HALF = 0.25
"""In logits: a limit in scores would see nothing near 0 and 1. In half precision another batch layout moves logits by
up to 0.15-0.25 over their whole range, and scores by 0.008 where they are steepest."""

_EDGE = 1e-6
"""Scores are clipped to this distance from 0 and 1 before their logit is taken. Nearer, neighbouring FP32 numbers are
tenths of a logit apart, and 1.0 has no logit."""


def judge_invariance(
    pairs: Sequence[ScorePair], *, precision: Precision, limit: float | None, runs: str | None = None
) -> GateResult:
    """Judge the largest difference between a pair's two scores.

    ``observed`` and ``limit`` are in scores for ``fp32`` and in logits for ``half``. None: the usual limit of these.
    ``runs`` is what the engine says that it runs in.
    """
    unit = "logits" if precision == "half" else "score"
    if limit is None:
        limit = LIMIT_HALF if precision == "half" else LIMIT_FP32

    evidence = InvarianceEvidence(pairs=len(pairs), precision=precision, unit=unit, runs=runs)
    if not pairs:
        message = "No pair was scored both alone and inside a mixed batch, so nothing can be compared."
        return GateResult(Gate.INVARIANCE, Verdict.HOLD, message, None, limit, evidence=evidence)
    for pair in pairs:
        for where, score in (("alone", pair.alone), ("in a mixed batch", pair.mixed)):
            if not 0.0 <= score <= 1.0:  # false for NaN too
                message = f"Case {pair.case}, documents[{pair.document}] scores {score} {where}, which is not in 0..1."
                evidence = replace(evidence, case=pair.case, document=pair.document)
                return GateResult(Gate.INVARIANCE, Verdict.FAIL, message, None, limit, evidence=evidence)

    def distance(pair: ScorePair) -> float:
        alone, mixed = (_logit(s) if precision == "half" else s for s in (pair.alone, pair.mixed))
        return abs(alone - mixed)

    worst = max(pairs, key=distance)
    observed = distance(worst)
    verdict = Verdict.PASS if observed <= limit else Verdict.FAIL
    says = "scores the same" if verdict is Verdict.PASS else "does not score the same"
    message = (
        f"A pair {says} alone and inside a mixed batch: of {len(pairs)} pairs the largest difference is "
        f"{observed:.2g} {unit} (limit {limit:g}), case {worst.case}, documents[{worst.document}]: "
        f"{worst.alone:.6f} alone, {worst.mixed:.6f} mixed."
    )
    if verdict is Verdict.FAIL and runs is None and precision == "fp32":
        message += (
            " The engine does not say what it runs in, so the limit is that of fp32. If it runs in bf16 or fp16, set "
            '`precision = "half"` in [services.gates].'
        )
    evidence = replace(
        evidence,
        case=worst.case,
        document=worst.document,
        alone=worst.alone,
        mixed=worst.mixed,
        beyond=sum(distance(pair) > limit for pair in pairs),
    )
    return GateResult(Gate.INVARIANCE, verdict, message, observed, limit, evidence=evidence)


def _logit(score: float) -> float:
    clipped = min(max(score, _EDGE), 1.0 - _EDGE)
    return math.log(clipped / (1.0 - clipped))
