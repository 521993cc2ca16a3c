"""NDCG@10, the figure by which rankings are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

_DEPTH = 10


def ndcg_at_10(scores: Sequence[float], relevance: Sequence[int]) -> float | None:
    """Return the NDCG@10 of one ranked list, in 0..1; None when no document is relevant.

    Gain ``2**relevance - 1`` (Burges et al. 2005), discount ``1/log2(rank + 1)`` (Järvelin and Kekäläinen 2002).
    Documents with equal scores share the mean gain of their ranks, which is the expected NDCG over all their orders
    (McSherry and Najork 2008); so neither the order in which the documents were given nor a constant scorer gains.

    Raises ``ValueError`` when the lengths differ, a score is not a number or a relevance is negative.
    """
    if len(scores) != len(relevance):
        raise ValueError(f"{len(scores)} scores for {len(relevance)} relevances")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is not a number")
    if any(grade < 0 for grade in relevance):
        raise ValueError("a relevance is negative")
    gains = [2.0**grade - 1.0 for grade in relevance]
    ideal = _discounted(sorted(gains, reverse=True))
    if ideal == 0.0:
        return None
    ranked = sorted(zip(scores, gains, strict=True), key=lambda pair: -pair[0])
    shared: list[float] = []
    for _, tied in groupby(ranked, key=lambda pair: pair[0]):
        of_group = [gain for _, gain in tied]
        shared += [math.fsum(of_group) / len(of_group)] * len(of_group)
    return min(1.0, _discounted(shared) / ideal)


def mean_ndcg_at_10(lists: Iterable[tuple[Sequence[float], Sequence[int]]]) -> tuple[float | None, int]:
    """Return the mean NDCG@10 over the (scores, relevance) lists that have a relevant document, and their number."""
    values = [value for scores, relevance in lists if (value := ndcg_at_10(scores, relevance)) is not None]
    return (math.fsum(values) / len(values) if values else None), len(values)


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:_DEPTH]))
