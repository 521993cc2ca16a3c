"""Steady load: clients that ask over gRPC and HTTP all the time, check every answer, and never try anything twice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from harness.traffic import Client, Traffic, rerankers
from tests.chaos.backends.quick_reranker.score import STEP, score

from baton.client import Ranking

REQUEST_TIMEOUT_S = 8.0
"""What a killed process had in hand gets no answer, ever: the client's own deadline ends it."""
THINK_S = 0.06
WORDS = ("red", "green", "blue", "round", "square", "small", "large", "old", "new", "fast", "slow", "bright")


def questions(count: int) -> list[tuple[str, list[str]]]:
    """Queries with four documents each, which share three, two, one and none of its words."""
    draw = random.Random(7)
    made = []
    for _ in range(count):
        asked = draw.sample(WORDS, 3)
        others = [w for w in WORDS if w not in asked]
        documents = [" ".join(draw.sample(asked, shared) + draw.sample(others, 3 - shared)) for shared in (3, 2, 1, 0)]
        made.append((" ".join(asked), documents))
    return made


ASKED = questions(24)


def clients(
    urls: Sequence[str], marks: Mapping[int, int], model: str, timeout_s: float = REQUEST_TIMEOUT_S
) -> list[Client]:
    """One for each URL.

    ``marks``: the mark of each version's checkpoint. What answers is told from its scores, and not from what it says.
    """

    def wrong(question: int, ranking: Ranking) -> str:
        scores, version = ranking.scores, ranking.version
        mark = marks.get(version)
        if mark is None:
            return f"version {version} answered, which does not exist"
        query, documents = ASKED[question]
        expected = [score(query, document, mark) for document in documents]
        if all(abs(a - b) < STEP / 4 for a, b in zip(scores, expected, strict=True)):
            return ""
        return f"version {version} answered {scores}, its scores are {expected}"

    return rerankers(urls, ASKED, len(urls), model=model, timeout_s=timeout_s, check=wrong)


def failing(traffic: Traffic, at: float) -> str:
    """What a request failed with that ended since, or a client's newest: gRPC rests between its connects."""
    return next((one.error for one in [*traffic.latest, *traffic.since(at)] if one.error), "")
