"""Steady traffic: requests on a fixed schedule, over gRPC and HTTP, and every answer written down.

Open loop: a request is due at its time whether or not the one before was answered, and its latency counts from
when it was due. A stall is then seen by all the requests that it kept waiting, not by one.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from harness.places import GOLDEN

from baton.client import Reranker
from baton.errors import BatonError


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: when it was due and when it came (seconds since the epoch), what it said."""

    due: float
    came: float
    version: int
    question: int
    scores: tuple[float, ...]

    @property
    def latency_s(self) -> float:
        return self.came - self.due


@dataclass
class Traffic:
    """``clients`` threads that together send ``rate`` requests a second to ``urls`` in turn, until ``stop``."""

    urls: Sequence[str]
    questions: Sequence[tuple[Any, Sequence[Any]]]
    """(query, documents) pairs, asked in turn."""
    rate: float = 8.0
    clients: int = 8
    model: str = "reranker"
    answers: list[Answer] = field(default_factory=list)
    errors: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        begin = time.time() + 0.1
        for number in range(self.clients):
            url = self.urls[number % len(self.urls)]
            offset = begin + number / self.rate
            self._threads.append(threading.Thread(target=self._client, args=(url, number, offset), daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new requests; those in flight are waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> int:
        with self._lock:
            return len(self.answers) + len(self.errors)

    def between(self, start: float, end: float) -> list[Answer]:
        """Answers to the requests that were due in the window."""
        with self._lock:
            return [a for a in self.answers if start <= a.due < end]

    def taken(self) -> tuple[list[Answer], list[tuple[float, str]]]:
        """Answers and errors since this was last called; they are forgotten here, so that it can go on for ever."""
        with self._lock:
            taken = list(self.answers), list(self.errors)
            self.answers.clear()
            self.errors.clear()
            return taken

    def _client(self, url: str, number: int, due: float) -> None:
        draw = random.Random(number)
        with Reranker(url, model=self.model, timeout_s=60.0) as client:
            while not self._stop.wait(max(0.0, due - time.time())):
                question = draw.randrange(len(self.questions))
                query, documents = self.questions[question]
                try:
                    ranking = client.rank(query, documents)
                except BatonError as error:
                    with self._lock:
                        self.errors.append((time.time(), f"{url}: {error}"))
                else:
                    answer = Answer(due, time.time(), ranking.version, question, tuple(ranking.scores))
                    with self._lock:
                        self.answers.append(answer)
                due += self.clients / self.rate


def questions() -> list[tuple[Any, list[Any]]]:
    """A few of the golden set's text and image questions: what the clients ask."""
    cases = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    plain = [c for c in cases if "instruction" not in c]
    return [(c["query"], c["documents"]) for k in ("text", "image") for c in [p for p in plain if p["kind"] == k][:4]]


def p95_ms(answers: Sequence[Answer]) -> float:
    """95th percentile of the latencies, in milliseconds; NaN without answers."""
    return float(np.percentile([a.latency_s for a in answers], 95) * 1000) if answers else float("nan")
