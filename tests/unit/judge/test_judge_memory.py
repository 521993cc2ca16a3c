import json

import numpy as np
import pytest
from tests.support.evidence import rests_on
from tests.support.settings import judge_memory

from baton.codec import encode
from baton.domain import Gate, Verdict
from baton.evidence import MemoryEvidence

MIB = 2.0**20


def series(rng, *, leak=0.0, noise=0.005, steps=(), samples=61, every_s=10.0):
    """Ten minutes of an engine of 1000 MiB: a leak as a share per ten minutes, peaks of 20 %, steps of 60 MiB."""
    at = np.arange(samples) * every_s
    held = 1000 * (1 + leak * at / 600 + noise * rng.standard_normal(samples))
    held[rng.random(samples) < 0.05] *= 1.2
    for step in steps:
        held[step:] += 60
    return list(zip(at.tolist(), (MIB * held).tolist(), strict=True))


def verdicts(runs=200, **kinds):
    rng = np.random.default_rng(11)
    return [judge_memory(series(rng, **kinds)).verdict for _ in range(runs)]


def test_a_leak_is_told_in_mib_and_percent():
    result = judge_memory([(10.0 * i, MIB * (1000 + 2 * i)) for i in range(61)])
    assert (result.gate, result.verdict) == (Gate.MEMORY, Verdict.FAIL)
    assert result.observed == pytest.approx(120 / 1060)
    assert result.limit == 0.05
    evidence = rests_on(result, MemoryEvidence)
    assert evidence.growth_bytes == pytest.approx(120 * MIB)
    assert (evidence.samples, evidence.span_s) == (61, 600.0)
    json.dumps(encode(result), allow_nan=False)


def test_a_leak_beyond_the_limit_fails_and_one_within_it_does_not():
    assert verdicts(leak=0.10).count(Verdict.FAIL) >= 195
    assert set(verdicts(leak=0.04)) <= {Verdict.PASS, Verdict.HOLD}


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
def test_what_does_not_grow_passes(noise):
    assert set(verdicts(noise=noise)) == {Verdict.PASS}


@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_steps_to_the_largest_batch_raise_no_alarm(count, noise):
    places = np.random.default_rng(5)
    found = [
        verdict
        for _ in range(50)
        for verdict in verdicts(2, noise=noise, steps=places.choice(np.arange(1, 60), count, replace=False))
    ]
    assert Verdict.FAIL not in found


def test_it_is_sure_before_it_fails():
    # 6 % a window, but samples that are 5 % apart from one to the next.
    assert Verdict.FAIL not in verdicts(50, leak=0.06, noise=0.05)


def test_what_was_long_ago_does_not_count():
    begin = [(10.0 * i, MIB * (500 + 10 * i)) for i in range(60)]
    since = [(600.0 + 10.0 * i, MIB * 1100) for i in range(61)]
    assert judge_memory([*begin, *since]).verdict is Verdict.PASS
    assert judge_memory(begin).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [(0.0, MIB)],
        [(10.0 * i, MIB * (1 + i)) for i in range(19)],
        # Many, but of less than half the window.
        [(1.0 * i, MIB * (1 + i)) for i in range(300)],
    ],
)
def test_too_little_evidence_holds(samples):
    result = judge_memory(samples)
    assert result.verdict is Verdict.HOLD
    assert rests_on(result, MemoryEvidence).samples == len(samples)
    assert result.observed is None


def test_the_window_can_be_another():
    samples = [(1.0 * i, MIB * (1000 + 2 * i)) for i in range(61)]
    result = judge_memory(samples, window_s=60.0, limit=0.2)
    assert result.verdict is Verdict.PASS
    assert rests_on(result, MemoryEvidence).growth_bytes == pytest.approx(120 * MIB)


@pytest.mark.parametrize("samples", [[(1.0, MIB), (0.0, MIB)], [(0.0, MIB), (1.0, 0.0)]])
def test_impossible_samples_are_refused(samples):
    with pytest.raises(ValueError, match="in order of time, and above zero"):
        judge_memory(samples)
