"""Scores of live traffic: of shadowed requests, and of the two versions' own."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.support.settings import live_limits

from baton.codec import encode
from baton.domain import Release, Verdict
from baton.judge import judge_live
from baton.judge.checks import p_mean_above
from baton.judge.paired import tau_b
from baton.samples import Answer, Pair

LIMITS = live_limits(threshold=0.5)
TEXT, IMAGE = "documents.text,query.text", "documents.image,query.text"


def shadowed(change=lambda scores, _rng: scores, *, count=100, kind=TEXT, documents=6, seed=3):
    """Requests with scores all over 0..1; ``change`` makes the candidate's of stable's."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        stable = rng.random(documents)
        candidate = np.clip(change(stable.copy(), rng), 0.0, 1.0)
        scores = {"stable": tuple(stable.tolist()), "candidate": tuple(candidate.tolist())}
        pairs.append(Pair(index / 10, f"{kind[10:15]}-{index}", kind, 10.0, 10.0, "ok", **scores))
    return pairs


def noise(size):
    return lambda scores, rng: scores + size * rng.uniform(-1, 1, scores.size)


def upside_down(scores, _rng):
    return 1 - scores


def judge(pairs, *, answers=(), release=Release.RETRAINED, shadow_only=True, limits=LIMITS, looks=10):
    result = judge_live(answers, pairs, release=release, shadow_only=shadow_only, limits=limits, looks=looks)
    json.dumps(encode(result), allow_nan=False)
    return result


def check(result, name):
    return next(check for check in result.evidence.checks if check.name == name)


def failed(result):
    return {check.name for check in result.evidence.checks if check.verdict == "fail"}


# Release equivalent


def test_an_equivalent_release_within_the_tolerance_passes():
    result = judge(shadowed(noise(0.0009)), release=Release.EQUIVALENT)
    assert result.verdict is Verdict.PASS
    assert (check(result, "difference").pairs, check(result, "difference").beyond) == (100, 0)


def test_an_equivalent_release_that_is_not_fails():
    result = judge(shadowed(noise(0.005)), release=Release.EQUIVALENT)
    assert result.verdict is Verdict.FAIL
    assert result.limit == LIMITS.tolerance
    assert 0.004 < result.observed <= 0.005
    assert check(result, "difference").pairs == 100
    assert judge(shadowed(noise(0.005)), release=Release.EQUIVALENT, limits=live_limits(tolerance=0.008)).verdict is (
        Verdict.PASS
    )


def test_one_score_far_off_is_enough_and_two_near_by_are_not():
    pairs = shadowed(count=400)
    far = [replace(pairs[0], candidate=(pairs[0].stable[0] + 0.02, *pairs[0].stable[1:])), *pairs[1:]]
    result = judge(far, release=Release.EQUIVALENT)
    assert result.verdict is Verdict.FAIL
    assert check(result, "difference").beyond == 1
    near = [replace(pair, candidate=(pair.stable[0] + 0.002, *pair.stable[1:])) for pair in pairs[:2]]
    result = judge([*near, *pairs[2:]], release=Release.EQUIVALENT)
    assert result.verdict is Verdict.PASS
    assert (check(result, "difference").pairs, check(result, "difference").beyond) == (400, 2)
    assert judge([*near, *pairs[2:100]], release=Release.EQUIVALENT).verdict is Verdict.HOLD


def test_few_requests_fail_an_equivalent_release_but_do_not_pass_it():
    assert judge(shadowed(count=10), release=Release.EQUIVALENT).verdict is Verdict.HOLD
    result = judge(shadowed(noise(0.1), count=10), release=Release.EQUIVALENT)
    assert failed(result) == {"difference"}


# Release retrained


def test_a_retrained_release_that_ranks_much_the_same_passes():
    result = judge(shadowed(noise(0.1)))
    assert result.verdict is Verdict.PASS
    assert {each.name for each in result.evidence.checks} >= {"drift", "top1", "tau"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (upside_down, {"drift", "top1", "tau", "crossing"}),
        (lambda scores, rng: rng.permutation(scores), {"tau"}),
        (lambda scores, _: scores / 10, {"drift", "crossing"}),
    ],
)
def test_a_retrained_release_that_is_too_far_fails_by_what_is_wrong(change, names):
    result = judge(shadowed(change))
    assert result.verdict is Verdict.FAIL
    assert failed(result) >= names


def test_the_direction_of_the_drift_is_a_figure_and_no_reason_to_fail():
    result = judge(shadowed(lambda scores, _: 0.1 + 0.9 * scores))
    assert result.verdict is Verdict.PASS
    assert check(result, "drift").shift == pytest.approx(0.05, abs=0.01)
    assert check(result, "drift").shift_chance < 1e-9


def test_a_version_that_is_wrong_about_images_alone_is_caught_and_the_kind_is_named():
    pairs = [*shadowed(noise(0.05), count=288), *shadowed(upside_down, count=15, kind=IMAGE, seed=8)]
    result = judge(pairs)
    assert result.verdict is Verdict.FAIL
    deciding = next(each for each in result.evidence.checks if each.verdict is Verdict.FAIL)
    assert (deciding.kind, deciding.kinds[IMAGE].pairs) == (IMAGE, 15)
    assert {pair.kind for pair in result.evidence.worst} == {IMAGE}
    same = [*shadowed(count=288), *shadowed(noise(0.005), count=15, kind=IMAGE, seed=8)]
    result = judge(same, release=Release.EQUIVALENT)
    assert result.verdict is Verdict.FAIL
    assert IMAGE in result.message


def test_too_few_requests_of_a_kind_do_not_fail_it():
    pairs = [*shadowed(noise(0.05), count=288), *shadowed(upside_down, count=6, kind=IMAGE, seed=8)]
    assert judge(pairs).verdict is Verdict.PASS


def test_one_that_looks_far_off_holds_until_it_is_sure():
    result = judge(shadowed(lambda scores, rng: 1 - scores if rng.random() < 0.6 else scores, count=40))
    assert result.verdict is Verdict.HOLD


def test_crossings_are_judged_where_there_is_a_threshold():
    names = [each.name for each in judge(shadowed(), limits=live_limits()).evidence.checks]
    assert "crossing" not in names
    assert "crossing" in [each.name for each in judge(shadowed()).evidence.checks]


def test_requests_with_one_document_have_no_ranking_but_drift():
    result = judge(shadowed(noise(0.1), documents=1))
    assert result.verdict is Verdict.PASS
    assert check(result, "tau").observed is None
    assert failed(judge(shadowed(upside_down, documents=1))) >= {"drift"}


# Degenerate


@pytest.mark.parametrize("release", list(Release))
def test_constant_scores_are_degenerate(release):
    result = judge(shadowed(lambda scores, _: 0 * scores + 0.5), release=release)
    assert result.verdict is Verdict.FAIL
    assert check(result, "degenerate").verdict == "fail"
    assert (check(result, "degenerate").observed, check(result, "degenerate").pairs) == (1.0, 100)


def test_constant_scores_of_one_kind_are_degenerate():
    pairs = [*shadowed(count=200), *shadowed(lambda scores, _: 0 * scores + 0.5, count=12, kind=IMAGE)]
    found = check(judge(pairs), "degenerate")
    assert (found.observed, found.pairs, found.kind) == (1.0, 12, IMAGE)


def test_constant_scores_of_single_documents_are_degenerate():
    result = judge(shadowed(lambda scores, _: 0 * scores + 0.5, documents=1))
    assert (check(result, "degenerate").observed, check(result, "degenerate").pairs) == (1.0, 100)


def test_what_stable_does_not_tell_apart_either_is_not_degenerate():
    pairs = [replace(pair, stable=(0.5,) * 6, candidate=(0.5,) * 6) for pair in shadowed()]
    assert judge(pairs).verdict is Verdict.PASS


# The requests that are shown


def test_the_worst_requests_are_shown_furthest_first():
    pairs = shadowed(noise(0.05), count=60)
    pairs[7] = replace(pairs[7], candidate=tuple(1 - score for score in pairs[7].stable), contents={"query": ["{}"]})
    worst = judge(pairs).evidence.worst
    assert len(worst) == 5
    assert [each.drift for each in worst] == sorted((each.drift for each in worst), reverse=True)
    assert worst[0].id == pairs[7].id
    assert worst[0].tau == pytest.approx(-1)
    assert worst[0].stable_top1 == int(np.argmax(pairs[7].stable))
    assert worst[0].candidate_top1 == int(np.argmin(pairs[7].stable))
    assert worst[0].contents == {"query": ("{}",)}
    assert worst[1].contents is None
    assert judge(shadowed()).evidence.worst == ()


# Without shadow


def own(change=lambda scores: scores, count=400, *, scored=True):
    rng = np.random.default_rng(4)
    answers = []
    for index in range(count):
        scores = rng.random(5)
        role = "candidate" if index % 4 == 0 else "stable"
        scores = change(scores) if role == "candidate" else scores
        told = {"top": float(scores.max()), "mean": float(scores.mean())} if scored else {}
        answers.append(Answer(index / 20, role, 10.0, "ok", "", str(index), **told))
    return answers


@pytest.mark.parametrize("release", list(Release))
def test_without_pairs_the_distributions_are_compared(release):
    result = judge((), answers=own(), release=release, shadow_only=False)
    assert result.verdict is Verdict.PASS
    constant = judge((), answers=own(lambda scores: 0 * scores + 0.5), release=release, shadow_only=False)
    assert constant.verdict is Verdict.FAIL
    assert check(constant, "distributions").candidate == 100
    assert constant.limit == (LIMITS.drift_limit if release is Release.RETRAINED else 0.05)


def test_without_pairs_a_moderate_distance_is_a_retrained_releases_right():
    answers = own(lambda scores: 0.8 * scores)
    assert judge((), answers=answers, shadow_only=False).verdict is Verdict.PASS
    assert judge((), answers=answers, release=Release.EQUIVALENT, shadow_only=False).verdict is Verdict.FAIL


def test_with_pairs_enough_the_pairs_are_judged_and_else_the_answers():
    names = [c.name for c in judge(shadowed(), answers=own(), shadow_only=False).evidence.checks]
    assert "drift" in names
    names = [c.name for c in judge(shadowed(count=19), answers=own(), shadow_only=False).evidence.checks]
    assert names == ["errors", "latency", "distributions"]


def test_a_service_whose_scores_are_not_compared_is_not_held():
    assert judge((), answers=own(scored=False), shadow_only=False).verdict is Verdict.PASS
    pairs = [replace(pair, stable=(), candidate=()) for pair in shadowed()]
    result = judge(pairs)
    assert result.verdict is Verdict.PASS
    assert check(result, "scores").skipped


# The statistics


def test_tau_b_is_kendalls():
    rng = np.random.default_rng(1)
    for _ in range(100):
        size = int(rng.integers(2, 20))
        lists = rng.integers(0, 5, size) / 10, rng.integers(0, 5, size) / 10
        known = stats.kendalltau(*lists).statistic
        assert tau_b(*lists) == pytest.approx(0.0 if np.isnan(known) else known)


def test_few_values_that_are_all_alike_are_no_proof():
    # Ten draws of a coin that shows 1 in 60 % of all cases are all 1 once in 165 times.
    assert p_mean_above(np.ones(10), 0.6) == pytest.approx(0.6**10)
    assert p_mean_above(np.full(10, 0.5), 0.6) == 1.0
    spread = np.linspace(0.5, 0.9, 40)
    assert p_mean_above(spread, 0.6) == pytest.approx(stats.ttest_1samp(spread, 0.6, alternative="greater").pvalue)


def test_of_several_relevant_documents_any_may_come_first():
    rng = np.random.default_rng(5)
    pairs = []
    for index in range(100):
        relevant = rng.uniform(0.93, 0.99, (2, 3))
        scores = np.concatenate([relevant, rng.uniform(0.0, 0.2, (2, 5))], axis=1)
        pairs.append(Pair(index / 10, str(index), TEXT, 10.0, 10.0, "ok", *map(tuple, scores.tolist())))
    result = judge(pairs)
    assert result.verdict is Verdict.PASS
    assert check(result, "top1").observed == 1.0
    strict = judge(pairs, limits=replace(LIMITS, top1_margin=0.0))
    assert check(strict, "top1").observed < 0.5
