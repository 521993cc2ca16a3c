"""Steady load: clients that ask over gRPC and HTTP all the time, check every answer, and never try anything twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.backends.quick_reranker.score import STEP, score

from baton.client import Ranking, Reranker
from baton.errors import BatonError

REQUEST_TIMEOUT_S = 8.0
"""What a killed process had in hand gets no answer, ever: the client's own deadline ends it."""
WORDS = ("red", "green", "blue", "round", "square", "small", "large", "old", "new", "fast", "slow", "bright")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: begin and end in seconds since the epoch, and the version that answered, or what was wrong."""

    began: float
    ended: float
    version: int | None
    error: str = ""


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


@dataclass
class Clients:
    """One thread for each of ``urls``; it thinks for ``think_s`` after each answer."""

    urls: Sequence[str]
    marks: Mapping[int, int]
    """The mark of each version's checkpoint: what answers is told from its scores, and not from what it says."""
    model: str
    think_s: float = 0.06
    requests: list[Request] = field(default_factory=list)
    """In the order in which they ended."""
    latest: dict[int, Request] = field(default_factory=dict)
    """Each client's newest."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._asked = questions(24)
        self._threads = [
            threading.Thread(target=self._run, args=asking, daemon=True) for asking in enumerate(self.urls)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new requests; those under way are waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failing(self, at: float) -> str:
        """What a request failed with that ended since, or a client's newest: gRPC rests between its connects."""
        return next((one.error for one in [*self.latest.copy().values(), *self.since(at)] if one.error), "")

    def since(self, at: float) -> list[Request]:
        """Those that ended after a moment."""
        found = []
        for one in reversed(self.requests.copy()):
            if one.ended < at - REQUEST_TIMEOUT_S:
                break
            if one.ended >= at:
                found.append(one)
        return found[::-1]

    def ask(self, client: Reranker, number: int) -> Request:
        query, documents = self._asked[number % len(self._asked)]
        began = time.time()
        try:
            ranking = client.rank(query, documents)
        except BatonError as error:
            return Request(began, time.time(), None, f"{type(error).__name__}: {error}")
        return Request(began, time.time(), ranking.version, self._wrong(query, documents, ranking))

    def _wrong(self, query: str, documents: Sequence[str], ranking: Ranking) -> str:
        scores, version = ranking.scores, ranking.version
        mark = self.marks.get(version)
        if mark is None:
            return f"version {version} answered, which does not exist"
        expected = [score(query, document, mark) for document in documents]
        if all(abs(a - b) < STEP / 4 for a, b in zip(scores, expected, strict=True)):
            return ""
        return f"version {version} answered {scores}, its scores are {expected}"

    def _run(self, mine: int, url: str) -> None:
        number = 0
        with Reranker(url, model=self.model, timeout_s=REQUEST_TIMEOUT_S) as client:
            while not self._stop.wait(self.think_s):
                number += 1
                self.latest[mine] = one = self.ask(client, number)
                self.requests.append(one)
