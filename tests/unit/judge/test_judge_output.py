import json
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.settings import judge_output

from baton.codec import encode
from baton.domain import Gate, Release, Verdict
from baton.evidence import WorstScore

BOTH = pytest.mark.parametrize("release", list(Release))


@dataclass(frozen=True)
class Case:
    case: str
    scores: tuple[float, ...]
    kind: str = "text"


SCORES = (0.9, 0.6, 0.3, 0.1)
RELEVANCE = {f"c{i}": [3, 2, 1, 0] for i in range(5)}
STABLE = [Case(f"c{i}", tuple(score + i / 100 for score in SCORES), ("text", "image")[i % 2]) for i in range(5)]


def moved(by, cases=STABLE):
    return [replace(case, scores=tuple(score + by for score in case.scores)) for case in cases]


def judge(candidate, release=Release.EQUIVALENT, stable=STABLE, relevance=RELEVANCE, **more):
    result = judge_output(release, stable, candidate, relevance, **more)
    assert result.gate is Gate.OUTPUT
    json.dumps(encode(result), allow_nan=False)
    return result


@BOTH
def test_the_same_scores_pass(release):
    result = judge(STABLE, release)
    assert result.verdict is Verdict.PASS
    assert not result.skipped
    assert result.evidence.cases == 5


def test_the_worst_case_is_named_with_both_scores():
    candidate = [*STABLE[:3], replace(STABLE[3], scores=(0.93, 0.63, 0.335, 0.13)), STABLE[4]]
    result = judge(candidate)
    assert result.verdict is Verdict.FAIL
    assert result.observed == pytest.approx(0.005)
    assert result.limit == 0.001
    assert result.evidence.worst == WorstScore("c3", 2, 0.335, pytest.approx(0.33))
    assert (result.evidence.beyond, result.evidence.looks_retrained) == (1, None)


def test_other_scores_that_rank_as_well_look_retrained():
    result = judge(moved(0.03), version=4)
    assert result.verdict is Verdict.FAIL
    assert result.evidence.looks_retrained is True
    assert " 4 " in result.message, "the command names it"
    assert " N " in judge(moved(0.03)).message


def test_other_scores_that_rank_worse_do_not_look_retrained():
    result = judge([replace(case, scores=case.scores[::-1]) for case in STABLE])
    assert result.verdict is Verdict.FAIL
    assert result.evidence.looks_retrained is None


def test_a_retrained_version_that_ranks_worse_fails_with_both_figures():
    result = judge([replace(case, scores=case.scores[::-1]) for case in STABLE], Release.RETRAINED)
    assert result.verdict is Verdict.FAIL
    assert result.limit == pytest.approx(0.99)
    assert (result.evidence.labelled, result.evidence.ndcg_stable) == (5, 1.0)
    assert set(result.evidence.kinds) == {"text", "image"}


def test_the_margin_counts_as_within():
    # 1 - 0.01 is not 0.99 in binary; the limit itself must pass.
    swapped = [replace(case, scores=(0.6, 0.9, 0.3, 0.1)) for case in STABLE]
    drop = 1 - judge(swapped, Release.RETRAINED).observed
    assert judge(swapped, Release.RETRAINED, ndcg_margin=drop).verdict is Verdict.PASS
    assert judge(swapped, Release.RETRAINED, ndcg_margin=drop - 1e-6).verdict is Verdict.FAIL


@pytest.mark.parametrize("relevance", [{}, {"c0": [0, 0, 0, 0]}])
def test_retrained_without_labels_holds(relevance):
    result = judge(STABLE, Release.RETRAINED, relevance=relevance)
    assert result.verdict is Verdict.HOLD
    assert result.evidence.labelled == 0


@BOTH
def test_without_stable_the_comparison_is_skipped(release):
    result = judge(STABLE, release, stable=None)
    assert result.verdict is Verdict.PASS
    assert result.skipped


@BOTH
@pytest.mark.parametrize("stable", [None, STABLE], ids=["first", "compared"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.1, 1.1])
def test_one_bad_score_fails(release, stable, bad):
    candidate = [*STABLE[:2], replace(STABLE[2], scores=(0.9, bad, 0.3, 0.1)), *STABLE[3:]]
    result = judge(candidate, release, stable)
    assert result.verdict is Verdict.FAIL
    assert (result.evidence.worst.case, result.evidence.worst.document) == ("c2", 1)


@BOTH
@pytest.mark.parametrize("stable", [None, STABLE], ids=["first", "compared"])
@pytest.mark.parametrize("scores", [(0.5,) * 4, (1.0,) * 4, (0.0,) * 4])
def test_a_constant_scorer_fails(release, stable, scores):
    result = judge([replace(case, scores=scores) for case in STABLE], release, stable)
    assert result.verdict is Verdict.FAIL
    assert result.evidence.worst is None
    assert result.evidence.scores == 20


def test_a_scorer_that_is_constant_in_each_case_fails():
    candidate = [replace(case, scores=(0.1 * i,) * 4) for i, case in enumerate(STABLE, start=1)]
    assert judge(candidate, stable=None).verdict is Verdict.FAIL


def test_saturation_fails_and_sharp_but_distinct_scores_do_not():
    saturated = [Case(f"c{i}", (1.0, 1.0 - 6e-8) + (1.0,) * 18) for i in range(5)]
    assert judge(saturated, stable=None, relevance={}).verdict is Verdict.FAIL
    sharp = [Case(f"c{i}", (0.9999, 0.99, 1e-5, 3e-4)) for i in range(5)]
    assert judge(sharp, stable=None, relevance={}).verdict is Verdict.PASS


def test_one_kind_that_is_constant_fails_by_itself():
    text = [Case(f"t{i}", SCORES) for i in range(30)]
    image = [Case(f"i{i}", (0.1 * i + 0.1,) * 4, "image") for i in range(3)]
    result = judge(text + image, stable=None, relevance={})
    assert result.verdict is Verdict.FAIL
    assert result.evidence.kind == "image"


@BOTH
@pytest.mark.parametrize("candidate", [[], [Case("c0", ())], [Case("c0", (0.5,))]])
@pytest.mark.parametrize("stable", [None, []])
def test_no_data_never_passes(release, candidate, stable):
    assert judge(candidate, release, stable).verdict is Verdict.HOLD


@BOTH
def test_other_requests_can_not_be_compared(release):
    assert judge(STABLE, release, STABLE[:4]).verdict is Verdict.HOLD
    assert judge(STABLE, release, STABLE[::-1]).verdict is Verdict.HOLD


@BOTH
def test_a_stable_version_without_sound_scores_holds(release):
    result = judge(STABLE, release, [*STABLE[:4], replace(STABLE[4], scores=(0.9, math.nan, 0.1, 0.2))])
    assert result.verdict is Verdict.HOLD


@given(
    st.lists(st.floats(0, 1, width=32) | st.just(math.nan), min_size=2, max_size=6),
    st.lists(st.floats(0, 1, width=32) | st.just(math.nan), min_size=2, max_size=6),
    st.sampled_from(list(Release)),
)
def test_never_passes_beyond_the_tolerance_nor_on_nan(stable, candidate, release):
    result = judge_output(release, [Case("c", tuple(stable))], [Case("c", tuple(candidate))], {})
    if result.verdict is not Verdict.PASS:
        return
    assert release is Release.EQUIVALENT
    assert len(stable) == len(candidate)
    assert all(abs(old - new) <= 0.001 for old, new in zip(stable, candidate, strict=True))


@given(st.floats(0, 0.05), st.floats(0, 0.05))
def test_a_larger_difference_never_judges_better(one, other):
    near, far = sorted((one, other))
    if judge(moved(far)).verdict is Verdict.PASS:
        assert judge(moved(near)).verdict is Verdict.PASS
