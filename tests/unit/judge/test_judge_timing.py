import json
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.evidence import rests_on
from tests.support.settings import judge_latency, judge_warmup

from baton.codec import encode
from baton.domain import Gate, Verdict
from baton.evidence import WarmupEvidence


@dataclass(frozen=True)
class Latency:
    stable: tuple[float, ...]
    candidate: tuple[float, ...]
    requests: tuple[int, ...]
    complete: bool = False
    stable_failure: str | None = None
    candidate_failure: str | None = None


@dataclass(frozen=True)
class Warmup:
    first: tuple[float, ...] = ()
    steady: tuple[float, ...] = ()
    complete: bool = False
    failure: str | None = None


def quiet(ratio=1.0, blocks=100, **more):
    """Times that rise with the request, and a little unrest."""
    requests = tuple(i % 8 for i in range(blocks))
    times = [0.01 * (1 + request) * (1 + 0.01 * (i * 7 % 5)) for i, request in enumerate(requests) for _ in range(2)]
    return Latency(tuple(times), tuple(ratio * time for time in times), requests, **more)


def judge(samples, **more):
    result = judge_latency(samples, **more)
    assert result.gate is Gate.LATENCY
    json.dumps(encode(result), allow_nan=False)
    return result


def test_without_stable_it_is_skipped():
    result = judge(None)
    assert (result.verdict, result.skipped) == (Verdict.PASS, True)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, Verdict.PASS), (1.1, Verdict.PASS), (1.2, Verdict.FAIL)])
def test_clear_cases(ratio, verdict):
    result = judge(quiet(ratio))
    assert result.verdict is verdict
    assert result.observed == pytest.approx(ratio, rel=0.02)
    assert result.limit == 1.15
    assert result.evidence.samples == 200


@pytest.mark.parametrize(("complete", "verdict"), [(False, Verdict.RUNNING), (True, Verdict.HOLD)])
def test_too_few_samples_never_pass(complete, verdict):
    for blocks in (0, 1, 99):
        assert judge(quiet(1.2, min(blocks, 19), complete=complete)).verdict is verdict
        assert judge(quiet(0.2, blocks, complete=complete)).verdict is verdict


def test_too_few_samples_fail_only_what_is_slow_for_certain():
    """A version that is so slow that the time is over before the samples are together."""
    assert judge(quiet(5.0, 30, complete=True)).verdict is Verdict.FAIL
    assert judge(quiet(5.0, 30)).verdict is Verdict.RUNNING
    assert judge(quiet(5.0, 19, complete=True)).verdict is Verdict.HOLD


def test_a_failure_of_the_candidate_fails_at_once_and_is_quoted():
    samples = replace(quiet(blocks=3), complete=True, candidate_failure="version 2: out of memory")
    result = judge(samples)
    assert result.verdict is Verdict.FAIL
    assert "out of memory" in result.message


def test_a_failure_of_stable_holds():
    assert judge(replace(quiet(), complete=True, stable_failure="version 1: gone")).verdict is Verdict.HOLD


def test_noise_at_the_limit_asks_for_more_then_holds():
    # Every tenth block is four times slower for one of the two, in turn: nobody can tell 1.2 from 1.
    samples = quiet(1.2, 100)
    stable, candidate = list(samples.stable), list(samples.candidate)
    for i in range(0, 200, 10):
        (stable if i % 20 else candidate)[i] *= 4 + i % 7
    noisy = replace(samples, stable=tuple(stable), candidate=tuple(candidate))
    running = judge(noisy)
    assert running.verdict is Verdict.RUNNING
    assert running.evidence.ratio_low < 1.15 < running.evidence.ratio_high
    assert judge(replace(noisy, complete=True)).verdict is Verdict.HOLD


def test_an_interval_that_reaches_beyond_the_limit_is_no_evidence():
    # Each version has one run of slow answers, at another time: the middle looks good, and nothing is known.
    samples = quiet(0.88, 100)
    stable, candidate = list(samples.stable), list(samples.candidate)
    stable[20:28] = [time * 90 for time in stable[20:28]]
    candidate[120:128] = [time * 90 for time in candidate[120:128]]
    noisy = replace(samples, stable=tuple(stable), candidate=tuple(candidate))
    running, held = judge(noisy), judge(replace(noisy, complete=True))
    assert (running.verdict, held.verdict) == (Verdict.RUNNING, Verdict.HOLD)
    assert held.observed < 1.15 < held.evidence.ratio_high
    assert judge(replace(noisy, complete=True), limit=1000.0).verdict is Verdict.PASS


def test_a_tail_of_the_candidate_alone_fails():
    samples = quiet(blocks=400)
    slow = tuple(time * (3 if i % 9 == 0 else 1) for i, time in enumerate(samples.candidate))
    assert judge(replace(samples, candidate=slow)).verdict is Verdict.FAIL


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_broken_clock_never_passes(bad):
    samples = quiet(complete=True)
    assert judge(replace(samples, candidate=(bad, *samples.candidate[1:]))).verdict is Verdict.HOLD


def test_samples_that_are_no_blocks_raise():
    samples = quiet()
    with pytest.raises(ValueError, match="blocks"):
        judge(replace(samples, stable=samples.stable[1:]))


@given(st.floats(0.2, 5), st.floats(0.2, 5), st.booleans())
def test_slower_never_judges_better(one, other, complete):
    quick, slow = sorted((one, other))
    if judge(quiet(slow, complete=complete)).verdict is Verdict.PASS:
        assert judge(quiet(quick, complete=complete)).verdict is Verdict.PASS


STEADY = (0.01,) * 20


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        (Warmup(), Verdict.RUNNING),
        (Warmup(complete=True), Verdict.HOLD),
        (Warmup((0.01,), STEADY[:5], complete=True), Verdict.HOLD),
        (Warmup((0.01,), STEADY), Verdict.PASS),
        (Warmup((0.0149,), STEADY), Verdict.PASS),
        (Warmup((0.05,), STEADY), Verdict.RUNNING),
        (Warmup((0.05,), STEADY, complete=True), Verdict.HOLD),
        (Warmup((0.05, 0.01), STEADY * 2), Verdict.RUNNING),
        (Warmup((0.05, 0.01, 0.01), STEADY * 3), Verdict.PASS),
        (Warmup((0.05, 0.01, 0.05), STEADY * 3), Verdict.FAIL),
        (Warmup((0.05, 0.05, 0.05), STEADY * 3, complete=True), Verdict.FAIL),
        (Warmup((math.nan,), STEADY), Verdict.HOLD),
        (Warmup((0.01,), STEADY, failure="version 2: hung"), Verdict.FAIL),
    ],
)
def test_warmup(samples, verdict):
    result = judge_warmup(samples)
    assert result.gate is Gate.WARMUP
    assert result.verdict is verdict


def test_warmup_says_the_figures():
    result = judge_warmup(Warmup((0.05, 0.01, 0.05), STEADY * 3))
    assert (result.observed, result.limit) == (pytest.approx(50.0), pytest.approx(15.0))
    assert rests_on(result, WarmupEvidence).rounds == 3
