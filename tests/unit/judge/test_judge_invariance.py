import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.evidence import rests_on
from tests.support.settings import judge_invariance

from baton.domain import Gate, Verdict
from baton.evidence import InvarianceEvidence


@dataclass(frozen=True)
class Pair:
    alone: float
    mixed: float
    case: str = "c"
    document: int = 0


PRECISION = pytest.mark.parametrize("precision", ["fp32", "half"])


@PRECISION
def test_no_pair_holds(precision):
    assert judge_invariance([], precision=precision).verdict is Verdict.HOLD


@PRECISION
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.5, -0.1])
def test_a_bad_score_fails(precision, bad):
    for pair in (Pair(0.5, bad), Pair(bad, 0.5), Pair(bad, bad)):
        assert judge_invariance([Pair(0.5, 0.5), pair], precision=precision).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("precision", "alone", "mixed", "verdict"),
    [
        ("fp32", 0.500, 0.504, Verdict.PASS),
        ("fp32", 0.500, 0.506, Verdict.FAIL),
        ("half", 0.500, 0.506, Verdict.PASS),
        ("half", 0.500, 0.55, Verdict.PASS),
        ("half", 0.500, 0.57, Verdict.FAIL),
        ("half", 0.001, 0.002, Verdict.FAIL),  # 0.7 logits: a limit in scores would not see it
        ("half", 1.0, 1.0 - 1.2e-7, Verdict.PASS),  # two neighbouring FP32 numbers
        ("half", 0.0, 1e-7, Verdict.PASS),
    ],
)
def test_limits(precision, alone, mixed, verdict):
    result = judge_invariance([Pair(0.3, 0.3), Pair(alone, mixed, "worst", 2)], precision=precision)
    assert result.gate is Gate.INVARIANCE
    assert result.verdict is verdict
    evidence = rests_on(result, InvarianceEvidence)
    assert evidence.pairs == 2
    if alone > 0.1 and mixed < 0.9:
        assert (evidence.case, evidence.document) == ("worst", 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1), st.sampled_from(["fp32", "half"]))
def test_more_pairs_never_judge_better_and_both_orders_judge_alike(pairs, precision):
    every = [Pair(*pair) for pair in pairs]
    result = judge_invariance(every, precision=precision)
    assert judge_invariance([Pair(b, a) for a, b in pairs], precision=precision).verdict is result.verdict
    if result.verdict is Verdict.PASS:
        assert judge_invariance(every[:1], precision=precision).verdict is Verdict.PASS
