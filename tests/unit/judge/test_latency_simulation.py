"""How often the latency gate errs on a noisy machine: bursts that hit both versions, stalls that hit one, heavy tails.

Shared bursts slow whole runs of answers by a factor with a Pareto tail and add a fixed stall to each, for about a tenth
of the time; one answer in twenty stalls alone, with a Pareto tail of infinite variance; the rest is log-normal.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from tests.support.settings import judge_latency

from baton.domain import Verdict

pytestmark = pytest.mark.slow

BASE_S = np.array([4, 5, 6, 8, 10, 12, 20, 40]) / 1000
LOOKS = (100, 151, 227, 341, 512, 769, 1000)
"""Blocks at which the measurement asks for a verdict; twice as many samples of each version."""


@dataclass(frozen=True)
class Samples:
    stable: np.ndarray
    candidate: np.ndarray
    requests: np.ndarray
    complete: bool
    stable_failure: None = None
    candidate_failure: None = None


def measured(rng, slowdown):
    """All answers that a measurement could come to see, in the order in which they are asked for."""
    blocks = LOOKS[-1]
    index = np.arange(blocks)
    requests = index % len(BASE_S)
    reverse = (index // len(BASE_S) + index) % 2 == 1
    candidates = np.where(reverse[:, None], [[True, False, False, True]], [[False, True, True, False]])
    times = BASE_S[requests][:, None] * np.where(candidates, slowdown, 1.0) * rng.lognormal(0, 0.25, candidates.shape)
    alone = rng.random(times.shape) < 0.05
    times[alone] *= 1 + rng.pareto(1.5, alone.sum())
    flat = times.reshape(-1)
    starts = np.cumsum(20 + rng.exponential(200, 40).astype(int))
    for start in starts[starts < flat.size]:
        burst = slice(start, start + 1 + int(rng.exponential(20)))
        flat[burst] = flat[burst] * (1.5 + rng.pareto(2.0)) + 0.01
    return times[~candidates].reshape(blocks, 2), times[candidates].reshape(blocks, 2), requests


TRIES = 5
"""A gate that holds is asked again so often."""


def rolled(rng, slowdown):
    """The verdict as the rollout comes to it, try by try."""
    for _ in range(TRIES):
        verdict = tried(rng, slowdown)
        if verdict is not Verdict.HOLD:
            break
    return verdict


def tried(rng, slowdown):
    """The verdict of one measurement, look by look."""
    stable, candidate, requests = measured(rng, slowdown)
    for blocks in LOOKS:
        samples = Samples(
            stable[:blocks].ravel(), candidate[:blocks].ravel(), requests[:blocks], complete=blocks == LOOKS[-1]
        )
        verdict = judge_latency(samples).verdict
        if verdict is not Verdict.RUNNING:
            return verdict
    raise AssertionError


def verdicts(slowdown, runs):
    rng = np.random.default_rng(2026)
    return Counter(rolled(rng, slowdown) for _ in range(runs))


def test_an_identical_version_is_not_refused():
    # Of 100 measurements about three hold on such a machine, and the next one tells.
    assert verdicts(1.0, 400) == {Verdict.PASS: 400}


def test_a_version_half_as_slow_again_never_passes():
    found = verdicts(1.5, 300)
    assert found[Verdict.PASS] == 0
    assert found[Verdict.FAIL] >= 290


def test_a_version_that_is_quicker_passes():
    assert verdicts(0.8, 50) == {Verdict.PASS: 50}
