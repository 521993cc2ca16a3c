"""What the gate ``live`` is limited by."""

from __future__ import annotations

from dataclasses import dataclass

NOISE_FACTOR = 2.0
"""Both sides of a comparison may move by a version's noise, each in its own direction."""


def widened(tolerance: float, noise: float | None, most: float) -> float:
    """The tolerance with room for the noise of a version against itself, by ``most`` at the most."""
    return max(tolerance, min(NOISE_FACTOR * (noise or 0.0), most))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """What live traffic may show of a candidate (``[services.live]``). ``baton.judge.live`` says how it is judged."""

    min_requests: int
    """Answers of each version, below which errors and latency hold."""
    min_pairs: int
    """Pairs, below which scores hold. A kind of request is judged by itself from a third of it on."""
    max_failures: int
    max_failures_in_row: int
    failure_rate: float
    latency_limit: float
    """The candidate's median over stable's. Also the multiple of stable's p95 from which an answer counts as slow."""
    tolerance: float
    """Release equivalent: the largest difference of a score."""
    drift_limit: float
    """Release retrained: the mean absolute difference of a score."""
    top1_agreement: float
    """Release retrained: the share of requests whose best document is among stable's best."""
    top1_margin: float
    """A document is among stable's best up to so far below stable's highest score."""
    tau: float
    """Release retrained: the mean Kendall tau-b of the two rankings of a request."""
    crossing_limit: float
    """Release retrained: the share of documents that cross ``threshold``."""
    threshold: float | None
    """The score from which clients count a document as relevant; None: they do not, and crossings are not judged."""
