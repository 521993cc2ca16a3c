"""The engine and one pair at a time, in turn on the same requests, on whichever device both lie."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from bench.speed.cases import COUNTS, Case, Request, make_cases
from bench.speed.one_pair import OnePair
from harness.command import SHORT, few, no_options
from rich.console import Console

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer

SAMPLE = 16
"""Of more documents than this, one pair at a time computes an even sample: its time is that of its pairs, added up."""
ROUNDS = few({1: 5, 8: 3, 32: 5, 100: 2}, {1: 1, 4: 1})
TOLERANCE = 1e-4
T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """One cell of the table.

    Attributes:
        ratio: How many times as fast as one pair at a time; the median of the rounds.
        rate: The engine's pairs a second; the median of the rounds.
        apart: The largest difference between the two's scores, of all rounds.
    """

    ratio: float
    rate: float
    apart: float


@dataclass(frozen=True)
class Line:
    """A row of a table: ``speeds`` by number of documents, and what is promised at ``PROMISED_AT`` on two CPU cores."""

    name: str
    promised: float
    speeds: dict[int, Speed]


class Promises:
    """What did not hold."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def least(self, what: str, found: float, promised: float) -> None:
        if found < promised and not SHORT:
            self.broken.append(f"{what}: {found:.2f} x, {promised:g} x is promised")

    def same(self, line: Line, tolerance: float, *, of: str = "") -> None:
        for count, speed in line.speeds.items():
            if not speed.apart <= tolerance:
                self.broken.append(
                    f"{of} {line.name.strip()}, {count} documents: scores differ by {speed.apart:.1e}, "
                    f"at most {tolerance:g} is promised".strip()
                )

    def told(self, console: Console) -> int:
        """Prints them; the exit code."""
        for line in self.broken:
            console.print(f"[red]✖ {line}[/red]")
        return 1 if self.broken else 0


def alone(program: str, about: str | None, show: Callable[[Console, Promises], None]) -> int:
    """One part of ``make bench-engine`` as a program without options; its exit code."""
    no_options(program, about)
    console, promises = Console(highlight=False), Promises()
    show(console, promises)
    return promises.told(console)


def lines(scorer: Scorer, official: OnePair, counts: Sequence[int] = COUNTS) -> Iterator[Line]:
    """Each case, with a cold cache and, where the case asks for it, with a warm one."""
    for case in make_cases(scorer):
        found = {count: measure(case, scorer, official, count) for count in counts}
        yield Line(case.name, case.promised, {count: cold for count, (cold, _) in found.items()})
        if case.warm is not None:
            warm = {count: seen for count, (_, seen) in found.items() if seen is not None}
            yield Line("  with a warm cache", case.warm, warm)


def measure(case: Case, scorer: Scorer, official: OnePair, count: int) -> tuple[Speed, Speed | None]:
    """The case at ``count`` documents, with a cold cache and, where the case asks for it, with a warm one."""
    request = case.request(count)
    step = max(1, count // SAMPLE)
    every = slice(step // 2, None, step)
    sample = Request(request.query, request.documents[every], request.media)
    limit, device = scorer.settings.vision_cache_bytes, scorer.model.device
    cold, warm, slow = [], [], []
    apart: list[float] = []
    apart_warm: list[float] = []
    # On a GPU the first of each shape chooses kernels and takes memory; it is not counted.
    unheeded = 1 if device.type == "cuda" else 0
    for _ in range(unheeded + ROUNDS[count]):
        seconds, theirs = timed(lambda: official.scores(sample.query, sample.documents, sample.media), device)
        slow.append(seconds / len(sample.documents))
        scorer.cache = FeatureCache(limit)
        seconds, ours = timed(lambda: scorer.score([request.prepared(scorer)])[0], device)
        cold.append(seconds / count)
        apart.append(np.abs(ours[every] - theirs).max())
        if case.warm is not None:
            seconds, ours = timed(lambda: scorer.score([request.prepared(scorer)])[0], device)
            warm.append(seconds / count)
            apart_warm.append(np.abs(ours[every] - theirs).max())
    slow, cold, warm = (times[unheeded:] for times in (slow, cold, warm))
    return _speed(slow, cold, apart), _speed(slow, warm, apart_warm) if warm else None


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds that ``work`` takes, all that it began on ``device`` included; and what it returns."""
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - start, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(slow: list[float], fast: list[float], apart: list[float]) -> Speed:
    # Of neighbours in time, so that what else the machine does meets both.
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return Speed(statistics.median(ratios), 1 / statistics.median(fast), float(np.max(apart)))
