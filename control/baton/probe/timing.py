"""Measures how fast a loaded version answers. What the times mean is decided by ``baton.judge``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from baton.errors import BatonError, Unreachable
from baton.probe.base import Infer, Stop, Tensors, check
from baton.samples import LatencySamples, WarmupSamples

Clock: TypeAlias = Callable[[], float]
"""Seconds from any fixed moment, never going back."""

_GROWTH = 1.5
"""A verdict is asked for again when there are this many times the samples: few looks, hence few chances to err."""


def measure_latency(
    infer: Infer,
    stable: int,
    candidate: int,
    requests: Sequence[Tensors],
    *,
    clock: Clock,
    decide: Callable[[LatencySamples], bool],
    cancelled: Stop,
    min_samples: int,
    max_samples: int,
    budget_s: float,
    timeout_s: float,
    before: LatencySamples | None = None,
) -> LatencySamples:
    """Time the same requests on both versions in turn until ``decide`` has seen enough.

    A block is four answers to one request, in the order stable, candidate, candidate, stable or the reverse, by turns:
    a machine that gets slower hits both alike, and each version follows itself as often as the other. One round of
    all requests on both versions goes before and is not timed.

    ``decide`` is asked at ``min_samples`` of each version and then at each growth by half; true ends the measurement.
    ``before`` are samples of an earlier measurement with the same requests, which was not enough: these are added.
    It also ends, ``complete``, at ``max_samples`` more of each version, after ``budget_s`` seconds, or with the first
    error answer. :class:`~baton.errors.Unreachable` is raised: a server that is gone says nothing about the candidate.
    """
    if not requests:
        raise ValueError("there is no request to time")
    before = before or LatencySamples()
    times: dict[int, list[float]] = {stable: list(before.stable), candidate: list(before.candidate)}
    asked = list(before.requests)
    most = 2 * len(asked) + max_samples
    end = clock() + budget_s

    def samples(*, complete: bool, failed: _NoAnswer | None = None) -> LatencySamples:
        whole = 2 * len(asked)
        words = {failed.version: str(failed)} if failed else {}
        return LatencySamples(
            stable=tuple(times[stable][:whole]),
            candidate=tuple(times[candidate][:whole]),
            requests=tuple(asked),
            complete=complete,
            stable_failure=words.get(stable),
            candidate_failure=words.get(candidate),
        )

    def ask(version: int, index: int) -> float:
        check(cancelled)
        return _timed(infer, version, requests[index], clock, timeout_s)

    look = max(min_samples, int(2 * len(asked) * _GROWTH) + 1 if asked else 0)
    try:
        for index in range(len(requests)):
            ask(stable, index)
            ask(candidate, index)
        while 2 * len(asked) < most and clock() < end:
            round_, index = divmod(len(asked), len(requests))
            # The round is added so that with an even number of requests none is always asked in the same order.
            first, second = (stable, candidate) if (round_ + index) % 2 == 0 else (candidate, stable)
            for version in (first, second, second, first):
                times[version].append(ask(version, index))
            asked.append(index)
            if 2 * len(asked) >= look:
                if decide(samples(complete=False)):
                    return samples(complete=False)
                look = int(look * _GROWTH) + 1
    except _NoAnswer as failed:
        return samples(complete=True, failed=failed)
    return samples(complete=True)


def measure_warmup(
    infer: Infer,
    version: int,
    requests: Sequence[Tensors],
    *,
    clock: Clock,
    decide: Callable[[WarmupSamples], bool],
    cancelled: Stop,
    warm_requests: int,
    timeout_s: float,
    steady_samples: int = 20,
    rounds: int = 3,
    budget_s: float = 120.0,
) -> WarmupSamples:
    """Warm a version up, then time its first answer and the ones that follow.

    A round is: ``warm_requests`` requests, all of ``requests`` by turns; then the first timed answer; then
    ``steady_samples`` timed answers that tell what is usual. The timed ones are to the last request, by convention the
    largest, so that like is compared with like. ``decide`` is asked after each round; true ends the measurement. It
    also ends, ``complete``, after ``rounds`` rounds, after ``budget_s`` seconds, or with the first error answer.

    Further rounds are there because one slow answer may be the machine's doing; the answers between them keep them
    apart in time, so that one burst of noise does not hit two. A version that was only slow to start passes in a later
    round, and rightly so: it is warm by then, and no client has met it cold.

    :class:`~baton.errors.Unreachable` is raised: a server that is gone says nothing about the version.
    """
    if not requests:
        raise ValueError("there is no request to warm up with")
    first: list[float] = []
    steady: list[float] = []
    warmed = 0
    end = clock() + budget_s

    def samples(*, complete: bool, failure: str | None = None) -> WarmupSamples:
        return WarmupSamples(tuple(first), tuple(steady), warmed, complete, failure)

    def ask(inputs: Tensors) -> float:
        check(cancelled)
        return _timed(infer, version, inputs, clock, timeout_s)

    try:
        for round_ in range(rounds):
            for step in range(warm_requests):
                # The budget may cut the first warming up short; after that there is something to judge by.
                if clock() >= end:
                    break
                ask(requests[step % len(requests)])
                warmed += 1
            if round_ and clock() >= end:
                break
            first.append(ask(requests[-1]))
            steady += [ask(requests[-1]) for _ in range(steady_samples)]
            if decide(samples(complete=False)):
                return samples(complete=False)
    except _NoAnswer as failed:
        return samples(complete=True, failure=str(failed))
    return samples(complete=True)


class _NoAnswer(Exception):
    """The version answered with an error, or not in time."""

    def __init__(self, version: int, cause: BatonError) -> None:
        super().__init__(f"version {version}: {cause}")
        self.version = version


def _timed(infer: Infer, version: int, inputs: Tensors, clock: Clock, timeout_s: float) -> float:
    """Return the seconds that one answer took."""
    start = clock()
    try:
        infer(version, inputs, timeout_s)
    except Unreachable:
        raise
    except BatonError as error:
        raise _NoAnswer(version, error) from error
    return clock() - start
