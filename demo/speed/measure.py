"""The engine and one pair at a time, in turn on the same requests."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from demo.speed.cases import Case, Request
from demo.speed.one_pair import OnePair

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer

SAMPLE = 16
"""Of more documents than this, one pair at a time computes an even sample: its time is that of its pairs, added up."""
ROUNDS = {1: 5, 8: 3, 32: 5, 100: 2}
TOLERANCE = 1e-4
T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """One cell of the table.

    Attributes:
        ratio: How many times as fast as one pair at a time; the median of the rounds.
        rate: The engine's pairs a second; the median of the rounds.
        apart: The largest difference between the two's scores.
    """

    ratio: float
    rate: float
    apart: float


def measure(case: Case, scorer: Scorer, official: OnePair, count: int) -> tuple[Speed, Speed | None]:
    """The case at ``count`` documents, with a cold cache and, where the case asks for it, with a warm one."""
    request = case.request(count)
    step = max(1, count // SAMPLE)
    sample = Request(request.query, request.documents[step // 2 :: step], request.media)
    limit = scorer.settings.vision_cache_bytes
    cold, warm, slow = [], [], []
    for _ in range(ROUNDS[count]):
        seconds, theirs = timed(lambda: official.scores(sample.query, sample.documents, sample.media))
        slow.append(seconds / len(sample.documents))
        scorer.cache = FeatureCache(limit)
        seconds, ours = timed(lambda: scorer.score([request.prepared(scorer)])[0])
        cold.append(seconds / count)
        if case.warm is not None:
            seconds, _ = timed(lambda: scorer.score([request.prepared(scorer)]))
            warm.append(seconds / count)
    apart = float(np.abs(ours[step // 2 :: step] - theirs).max())
    return _speed(slow, cold, apart), _speed(slow, warm, apart) if warm else None


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _speed(slow: list[float], fast: list[float], apart: float) -> Speed:
    # Of neighbours in time, so that what else the machine does meets both.
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return Speed(statistics.median(ratios), 1 / statistics.median(fast), apart)
