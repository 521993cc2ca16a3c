"""The gates ``latency`` and ``warmup``, judged so that a noisy machine does not decide.

How ``latency`` works. Stable and candidate answer the same requests in turn, in blocks of four answers to one request
(see ``LatencySamples``), so that what the machine does hits both alike.

1. Each block is divided by the slowdown that all its four answers share: the least of the four, each as a multiple of
   its own version's median for that request, where it is above 1. That was the machine. The rule treats both versions
   alike, and what only one version suffers stays.
2. The figure is the ratio of the two p95.
3. Its uncertainty comes from the delete-a-group jackknife on the logarithm of the ratio (Shao and Wu 1989: leaving out
   many at a time makes it valid for quantiles), with 20 groups of consecutive blocks, so that noise that lasts longer
   than a block counts as one event. It needs no random numbers: the same samples give the same verdict. With few
   samples the jackknife can be far too small by luck. So the error is at least half of that from order statistics,
   which ignore the pairing and are too wide by about a factor of two.
4. While samples still come, the candidate fails when the ratio is surely above the limit, and passes when it is surely
   within it. "Surely" is one chance in 2000, since they are looked at several times. When all samples are in, one
   chance in 100 is enough to fail, and one in 20 to pass: an interval that reaches beyond the limit is no evidence,
   however good the figure in its middle. In between more samples are taken; when there are no more, the gate holds.

The limit leaves 15 % of room, so an identical version is refused far less often than that, even with bursts, stalls and
heavy tails. ``tests/unit/judge/test_latency_simulation.py`` simulates how often.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from baton.domain import Gate, GateResult, Verdict
from baton.evidence import LatencyEvidence, Sides, WarmupEvidence
from baton.samples import LatencySamples, WarmupSamples

_P = 0.95
_GROUPS = 20
_T_EARLY = 3.88
_T_FAIL = 2.54
_T_PASS = 1.73
"""Student's t with 19 degrees of freedom, one-sided 0.0005, 0.01 and 0.05."""
_MS = 1000.0
_MIN_STEADY = 20


def judge_latency(samples: LatencySamples | None, *, limit: float, min_samples: int) -> GateResult:
    """Judge the candidate's p95 against stable's, measured in turn; ``observed`` and ``limit`` are their ratio.

    ``samples`` is None without a stable version: skipped. ``running`` asks for more samples. An error answer of the
    candidate fails; one of the stable version holds, since nothing can be compared then. Fewer than ``min_samples`` of
    each version never pass; when the time is over they fail only what is surely beyond the limit. Raises ``ValueError``
    when the samples are not blocks of two and two.
    """
    if samples is None:
        message = "There is no stable version to compare with, so the latency gate was skipped."
        return GateResult(Gate.LATENCY, Verdict.PASS, message, limit=limit, skipped=True)
    if early := _no_evidence(samples, min_samples):
        verdict, message = early
        evidence = LatencyEvidence(samples=len(samples.candidate))
        return GateResult(Gate.LATENCY, verdict, message, limit=limit, evidence=evidence)
    both = np.array([samples.stable, samples.candidate], dtype=np.float64).reshape(2, -1, 2)
    blocks = both.shape[1]
    slowdown = _shared_slowdown(both, np.asarray(samples.requests))
    quiet = both / slowdown[None, :, None]
    log_ratio, error = _log_ratio(quiet)
    few = 2 * blocks < min_samples
    below, above = (_T_FAIL, _T_PASS) if samples.complete and not few else (_T_EARLY, _T_EARLY)
    ratio, low, high = (math.exp(log_ratio + t * error) for t in (0.0, -below, above))
    p50, p95, raw = (np.quantile(of, q, axis=(1, 2)) * _MS for of, q in ((quiet, 0.5), (quiet, _P), (both, _P)))
    evidence = LatencyEvidence(
        samples=2 * blocks,
        shared_slowdown_mean=float(slowdown.mean()),
        p50_ms=Sides(float(p50[0]), float(p50[1])),
        p95_ms=Sides(float(p95[0]), float(p95[1])),
        p95_ms_raw=Sides(float(raw[0]), float(raw[1])),
        ratio_low=low,
        ratio_high=high,
    )
    figures = (
        f"p95 is {p95[1]:.1f} ms, {ratio:.2f} times stable's {p95[0]:.1f} ms (limit {limit:g}, between {low:.2f} and "
        f"{high:.2f}, {2 * blocks} samples of each)"
    )
    if low > limit:
        verdict, message = Verdict.FAIL, f"The candidate is too slow: {figures}."
    elif few:
        words = f"Only {2 * blocks} samples of each version were taken, at least {min_samples} are needed to pass"
        verdict, message = Verdict.HOLD, f"{words}: {figures}."
    elif high <= limit:
        verdict, message = Verdict.PASS, f"The candidate is fast enough: {figures}."
    elif samples.complete:
        # The interval narrows with the root of the samples.
        words = "Try again when the machine is quieter, or raise `latency_max_samples` and `latency_budget`"
        verdict, message = Verdict.HOLD, f"The measurement is too noisy to decide: {figures}. {words}."
    else:
        verdict, message = Verdict.RUNNING, f"More samples are being taken: {figures}."
    return GateResult(Gate.LATENCY, verdict, message, ratio, limit, evidence=evidence)


def _no_evidence(samples: LatencySamples, min_samples: int) -> tuple[Verdict, str] | None:
    """Say what to do when the figures can't be compared (yet); None when they can."""
    if samples.candidate_failure is not None:
        return Verdict.FAIL, f"The candidate did not answer a timed request: {samples.candidate_failure}"
    if samples.stable_failure is not None:
        words = "The stable version did not answer a timed request, so nothing can be compared: "
        return Verdict.HOLD, words + samples.stable_failure
    count = 2 * len(samples.requests)
    if len(samples.stable) != count or len(samples.candidate) != count:
        raise ValueError(
            f"{len(samples.stable)} and {len(samples.candidate)} samples in {len(samples.requests)} blocks"
        )
    if count < 2 * _GROUPS or (count < min_samples and not samples.complete):
        needed = max(min_samples, 2 * _GROUPS)
        missing = f"Only {count} samples of each version were taken, at least {needed} are needed"
        if samples.complete:
            return Verdict.HOLD, f"{missing}."
        return Verdict.RUNNING, f"{missing}; more are being taken."
    if not all(math.isfinite(time) and time > 0 for time in (*samples.stable, *samples.candidate)):
        return Verdict.HOLD, "The clock gave times of zero or less, so nothing can be judged."
    return None


def _shared_slowdown(both: NDArray[np.float64], requests: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return, for each block of times [version, block, 2], by how much all four answers were slowed; at least 1."""
    relative = np.empty_like(both)
    for request in np.unique(requests):
        of = requests == request
        relative[:, of] = both[:, of] / np.median(both[:, of], axis=(1, 2), keepdims=True)
    slowdown: NDArray[np.float64] = np.maximum(1.0, relative.min(axis=(0, 2)))
    return slowdown


def _log_ratio(both: NDArray[np.float64]) -> tuple[float, float]:
    """Return the logarithm of the ratio of the p95s, and its standard error (see 3 above)."""
    stable, candidate = (_log_p95_without_groups(times) for times in both)
    ratios = candidate - stable
    whole, without = ratios[0], ratios[1:]
    jackknife = math.sqrt(float(np.square(without - without.mean()).sum()) * (_GROUPS - 1) / _GROUPS)
    return float(whole), max(jackknife, math.hypot(*(_order_error(times) for times in both)) / 2)


def _order_error(times: NDArray[np.float64]) -> float:
    """Return half the width of log p95's interval of one standard deviation, by order statistics."""
    ordered = np.sort(times, axis=None)
    rank, deviation = _P * ordered.size, math.sqrt(_P * (1 - _P) * ordered.size)
    low, high = math.floor(rank - deviation), min(math.ceil(rank + deviation), ordered.size - 1)
    return math.log(ordered[high] / ordered[low]) / 2


def _log_p95_without_groups(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log p95 (nearest rank) of times [blocks, 2]: first of all, then with each run of blocks left out."""
    group = np.repeat(np.arange(len(times)) * _GROUPS // len(times), times.shape[1])
    order = np.argsort(times, axis=None)
    kept = group[order] != np.arange(-1, _GROUPS)[:, None]  # no group is called -1
    rank = np.cumsum(kept, axis=1)
    at = np.argmax(rank >= np.ceil(_P * rank[:, -1:]), axis=1)
    logs: NDArray[np.float64] = np.log(times.ravel()[order][at])
    return logs


def judge_warmup(samples: WarmupSamples, *, limit: float) -> GateResult:
    """Judge the first timed answer after warm-up against ``limit`` times the version's steady p95.

    ``observed`` and the result's ``limit`` are milliseconds. One slow first answer may be the machine's doing, so it
    takes two of three rounds to fail (the median first answer counts). If noise hits each first answer with a chance of
    2 %, a good version is refused once in a thousand times.
    """
    rounds = len(samples.first)
    evidence = WarmupEvidence(
        rounds=rounds,
        # NaN and infinity are no JSON: what a broken clock gave goes as text.
        first_ms=tuple(time * _MS if math.isfinite(time) else str(time) for time in samples.first),
        steady_samples=len(samples.steady),
    )

    def result(
        verdict: Verdict, message: str, observed: float | None = None, at_most: float | None = None
    ) -> GateResult:
        return GateResult(Gate.WARMUP, verdict, message, observed, at_most, evidence=evidence)

    if samples.failure is not None:
        return result(Verdict.FAIL, f"The candidate did not answer while it was warmed up: {samples.failure}")
    if not all(math.isfinite(time) and time > 0 for time in (*samples.first, *samples.steady)):
        return result(Verdict.HOLD, "The clock gave times of zero or less, so nothing can be judged.")
    if not rounds or len(samples.steady) < _MIN_STEADY:
        message = f"Too few answers: {rounds} after warm-up, and {len(samples.steady)} of {_MIN_STEADY} steady ones"
        if samples.complete:
            return result(Verdict.HOLD, f"{message}.")
        return result(Verdict.RUNNING, f"{message}; more are being taken.")
    steady = float(np.quantile(samples.steady, _P)) * _MS
    at_most = limit * steady
    evidence = replace(evidence, steady_p95_ms=steady)
    first = float(np.median(samples.first)) * _MS
    what = "first answer" if rounds == 1 else f"median of {rounds} first answers"
    figures = (
        f"the {what} after warm-up took {first:.1f} ms (limit {at_most:.1f} ms, {limit:g} times the steady p95 of "
        f"{steady:.1f} ms)"
    )
    # Two rounds have no middle one, so a third decides.
    if first <= at_most and rounds != 2:  # noqa: PLR2004
        return result(Verdict.PASS, f"The candidate is warm: {figures}.", first, at_most)
    if rounds < 3:  # noqa: PLR2004
        if samples.complete:
            return result(Verdict.HOLD, f"Too few rounds to decide: {figures}.", first, at_most)
        return result(Verdict.RUNNING, f"Another round of warm-up is being taken: {figures}.", first, at_most)
    return result(Verdict.FAIL, f"The candidate is too slow after warm-up: {figures}.", first, at_most)
