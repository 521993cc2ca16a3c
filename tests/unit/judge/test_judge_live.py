"""Errors and latency of live traffic, and how the checks make one verdict."""

import json
from dataclasses import replace

import pytest
from tests.support.settings import live_limits

from baton.codec import encode
from baton.domain import Gate, Release, Verdict
from baton.evidence import Failures, LiveSamples
from baton.judge import judge_live, live_latency
from baton.samples import Answer, Pair

LIMITS = live_limits()


def traffic(count=400, *, every=4, ms=10.0, candidate_ms=10.0, **more):
    """Twenty requests a second, every fourth to the candidate; times rise and fall a little."""
    return [
        Answer(
            at=index / 20,
            role="candidate" if index % every == 0 else "stable",
            took_ms=(candidate_ms if index % every == 0 else ms) * (1 + 0.02 * (index * 7 % 11)),
            outcome="ok",
            id=str(index),
            top=0.9 - 0.01 * (index * 3 % 13),
            mean=0.4 + 0.01 * (index * 5 % 7),
            **more,
        )
        for index in range(count)
    ]


def failing(answers, which, outcome="failed", took_ms=3.0):
    """The same, with the candidate's attempts of these numbers failed, and answered by stable instead."""
    numbers = iter(range(len(answers)))
    told = []
    for answer in answers:
        if answer.role == "candidate" and next(numbers) in which:
            told.append(replace(answer, outcome=outcome, error="boom", took_ms=took_ms, top=None, mean=None))
            told.append(replace(answer, role="stable", at=answer.at + 0.01))
        else:
            told.append(answer)
    return told


def shadowed(count=60, *, ms=10.0, candidate_ms=10.0, **more):
    scores = [0.9, 0.5, 0.1]
    return [
        Pair(
            at=index / 5,
            id=str(index),
            kind="documents.text,query.text",
            stable_ms=ms * (1 + 0.02 * (index * 7 % 11)),
            candidate_ms=candidate_ms * (1 + 0.02 * (index * 5 % 11)),
            **{"outcome": "ok", "stable": tuple(scores), "candidate": tuple(scores), **more},
        )
        for index in range(count)
    ]


def judge(answers=(), pairs=(), *, release=Release.EQUIVALENT, shadow_only=False, limits=LIMITS, looks=10):
    result = judge_live(answers, pairs, release=release, shadow_only=shadow_only, limits=limits, looks=looks)
    assert result.gate is Gate.LIVE
    assert result.message[0].isupper()
    assert result.message.endswith(".")
    json.dumps(encode(result), allow_nan=False)
    return result


def check(result, name):
    return next(check for check in result.evidence.checks if check.name == name)


# One verdict of many


def test_a_good_candidate_passes_and_the_evidence_says_by_what():
    result = judge(traffic())
    assert result.verdict is Verdict.PASS
    assert result.observed == pytest.approx(1.0, abs=0.05)
    assert result.limit == LIMITS.latency_limit
    errors, latency = check(result, "errors"), check(result, "latency")
    assert (errors.candidate, errors.stable) == (Failures(100, 0, 0.0), Failures(300, 0, 0.0))
    assert (latency.candidate.answers, latency.stable.answers) == (100, 300)
    assert result.evidence.samples == LiveSamples(300, 100, 0)
    assert {each.verdict for each in result.evidence.checks} == {"pass"}


def test_nothing_is_no_evidence():
    result = judge()
    assert result.verdict is Verdict.HOLD
    assert (check(result, "errors").have, check(result, "errors").need) == (0, 20)
    assert judge(shadow_only=True).verdict is Verdict.HOLD
    assert judge(traffic(every=1)).verdict is Verdict.HOLD


def test_too_little_traffic_holds_and_says_how_much_there_is():
    result = judge(traffic(60))
    assert result.verdict is Verdict.HOLD
    assert check(result, "errors").have == 15
    assert check(result, "latency").verdict == "hold"
    assert check(result, "distributions").verdict == "hold"


def test_a_check_that_fails_is_told_before_one_that_holds():
    result = judge(failing(traffic(80), range(3, 7)))
    assert check(result, "latency").verdict == "hold"
    assert result.verdict is Verdict.FAIL
    assert (result.observed, result.limit) == (4, 3)


def test_looks_below_one_are_refused():
    with pytest.raises(ValueError, match="0 looks"):
        judge(looks=0)


# Errors


def test_a_row_of_failures_fails_at_once():
    result = judge(failing(traffic(), {20, 21, 22}))
    assert result.verdict is Verdict.FAIL
    errors = check(result, "errors")
    assert (errors.in_row, errors.candidate.requests, errors.stable.failed) == (3, 100, 0)
    assert errors.last_error == "boom"


def test_refused_attempts_and_clients_own_errors_do_not_end_a_row_and_are_none():
    refused = failing(traffic(), set(range(20, 30)), outcome="refused", took_ms=None)
    assert judge(refused).verdict is Verdict.PASS
    own = failing(traffic(), set(range(20, 30)), outcome="client_error")
    own = [replace(a, outcome="client_error") if a.role == "stable" and 4.0 <= a.at < 6.0 else a for a in own]
    assert check(judge(own), "errors").candidate == Failures(90, 0, 0.0)
    assert judge(own).verdict is Verdict.PASS


def test_a_few_stray_failures_pass():
    result = judge(failing(traffic(2000), {7, 90, 300}))
    assert result.verdict is Verdict.PASS
    assert check(result, "errors").candidate == Failures(500, 3, 0.006)


def test_many_scattered_failures_fail():
    result = judge(failing(traffic(), range(0, 100, 10)))
    assert result.verdict is Verdict.FAIL
    assert result.observed == pytest.approx(0.1)
    assert result.limit == LIMITS.failure_rate
    assert check(result, "errors").stable == Failures(310, 0, 0.0)


def test_more_failures_than_the_limit_but_not_surely_hold():
    result = judge(failing(traffic(2000), range(0, 490, 70)))
    assert result.verdict is Verdict.HOLD
    assert check(result, "errors").candidate == Failures(500, 7, 0.014)


def test_what_stable_suffers_too_is_not_the_candidates():
    every_tenth = [replace(a, outcome="client_error") if a.id.endswith("3") else a for a in traffic(1000)]
    result = judge(failing(every_tenth, range(0, 250, 10)))
    assert check(result, "errors").verdict == "pass"
    # The same failures with a stable that gives no errors.
    assert judge(failing(traffic(1000), range(0, 250, 10))).verdict is Verdict.FAIL


def test_a_stall_of_the_whole_server_is_not_the_candidates():
    answers = failing(traffic(), {20, 21, 22, 23}, outcome="late", took_ms=500.0)
    stalled = [replace(a, took_ms=900.0) if a.role == "stable" and 3.9 <= a.at < 4.9 else a for a in answers]
    assert judge(stalled).verdict is not Verdict.FAIL
    assert judge(answers).verdict is Verdict.FAIL


def test_failures_in_shadow_count():
    pairs = shadowed()
    for index in range(10, 13):
        late = {"outcome": "late", "candidate": (), "candidate_ms": None, "error": "no answer within 0.5 s"}
        pairs[index] = replace(pairs[index], **late)
    result = judge(traffic(every=1000), pairs, shadow_only=True)
    assert result.verdict is Verdict.FAIL
    assert check(result, "errors").in_row == 3
    assert check(result, "errors").last_error == "no answer within 0.5 s"


@pytest.mark.parametrize("candidate", [(), (0.9, 0.5), (0.9, 0.5, float("nan")), (0.9, float("inf"), 0.1)])
def test_scores_that_are_missing_or_no_numbers_are_failures(candidate):
    result = judge(traffic(every=1000), shadowed(candidate=candidate), shadow_only=True)
    assert result.verdict is Verdict.FAIL
    assert check(result, "errors").verdict == "fail"
    assert check(result, "errors").last_error.startswith(f"{len(candidate)} scores")


# Latency while traffic is split


def test_a_slow_candidate_fails():
    result = judge(traffic(candidate_ms=30.0))
    assert result.verdict is Verdict.FAIL
    assert result.observed == pytest.approx(3.0, abs=0.1)
    assert result.limit == LIMITS.latency_limit


def test_a_difference_of_milliseconds_is_nobodys_concern(monkeypatch):
    assert judge(traffic(ms=1.0, candidate_ms=3.0)).verdict is Verdict.PASS
    monkeypatch.setattr(live_latency, "FLOOR_MS", 1.0)
    assert judge(traffic(ms=1.0, candidate_ms=3.0)).verdict is Verdict.FAIL


def test_one_that_looks_slow_holds_until_it_is_sure():
    slower = [replace(a, took_ms=a.took_ms * (1 + int(a.id) % 5)) for a in traffic(140, ms=10.0, candidate_ms=16.0)]
    result = judge(slower)
    assert check(result, "latency").verdict == "hold"


def test_a_median_within_the_limit_passes_when_it_likely_stays_there():
    # 1.4 times, of answers that differ by a factor of five: of 35 nobody can tell that from 1.5.
    close = [replace(a, took_ms=a.took_ms * (1 + int(a.id) % 5)) for a in traffic(400, ms=10.0, candidate_ms=14.0)]
    few, many = (check(judge(close[:count]), "latency") for count in (140, 400))
    assert few.observed < few.limit
    assert (few.verdict, many.verdict) == ("hold", "pass")
    # In shadow 18 of 30 requests within the limit are little more than half.
    sizes = [10.0 * (1 + index % 10) for index in range(300)]
    times = [
        replace(pair, stable_ms=ms, candidate_ms=ms * (1.6 if ms <= 40 else 1.2))
        for pair, ms in zip(shadowed(300), sizes, strict=True)
    ]
    few, many = (check(judge((), times[:count], shadow_only=True), "latency") for count in (30, 300))
    assert (few.verdict, many.verdict) == ("hold", "pass")


def test_a_slow_tail_fails():
    answers = [
        replace(a, took_ms=100.0) if a.role == "candidate" and int(a.id) % 20 in {0, 4} else a for a in traffic(1200)
    ]
    result = judge(answers)
    assert result.verdict is Verdict.FAIL
    assert 8.0 < result.observed < 9.0
    assert check(result, "latency").slow == 120


def test_late_answers_are_the_slowest():
    limits = replace(LIMITS, failure_rate=1.0, max_failures_in_row=1000)
    answers = failing(traffic(1200), range(0, 300, 5), outcome="late", took_ms=500.0)
    result = judge(answers, limits=limits)
    assert result.verdict is Verdict.FAIL
    assert check(result, "latency").slow == 60


def test_load_that_rises_with_the_candidates_share_is_not_the_candidates():
    """Times double when half of the traffic goes to the candidate; compared as a whole, it would look slow."""
    few, many = traffic(2000, every=40), traffic(400, every=2, ms=22.0, candidate_ms=22.0)
    answers = [*few, *(replace(answer, at=answer.at + 100) for answer in many)]
    result = judge(answers)
    assert result.verdict is Verdict.PASS
    assert result.observed == pytest.approx(1.0, abs=0.05)


def test_answers_of_another_time_are_not_compared():
    stable = [answer for answer in traffic(400) if answer.role == "stable"]
    candidate = [replace(a, at=a.at + 1000) for a in traffic(400, candidate_ms=30.0) if a.role == "candidate"]
    ended = [*candidate, *stable]
    # All of stable's answers are before the first of the candidate's, so only the first stretch has both.
    assert check(judge(ended), "latency").verdict == "hold"


# Latency in shadow


def test_shadowed_requests_are_compared_with_themselves():
    result = judge((), shadowed(), shadow_only=True)
    assert check(result, "latency").observed == pytest.approx(1.0, abs=0.1)
    assert result.verdict is Verdict.PASS
    slow = judge((), shadowed(candidate_ms=25.0), shadow_only=True)
    assert slow.verdict is Verdict.FAIL
    assert slow.observed == pytest.approx(2.5, abs=0.2)


def test_a_slow_tail_in_shadow_fails():
    pairs = [replace(pair, candidate_ms=200.0) if index % 6 == 0 else pair for index, pair in enumerate(shadowed(200))]
    result = judge((), pairs, shadow_only=True)
    assert result.verdict is Verdict.FAIL
    assert check(result, "latency").slow == 34


def test_dropped_shadows_are_no_evidence():
    result = judge(traffic(every=1000), shadowed(outcome="dropped", candidate=()), shadow_only=True)
    assert result.verdict is Verdict.HOLD
    assert result.evidence.samples.candidate == 1
