"""Each request is answered exactly once, by whoever comes first; the candidate never costs a client its answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.splitter.fakes import FakeRequest, Stage, failing, scored

from traffic_splitter.breaker import COOLDOWN_S, FAILURES
from traffic_splitter.calls import CANDIDATE_CALLS, STABLE_CALLS
from traffic_splitter.request import Answer


def answered(request: FakeRequest) -> list[float]:
    """The scores that the client got; it got exactly one answer."""
    assert len(request.replies) == 1
    scores = request.replies[0].scores
    assert scores is not None
    return scores.reshape(-1).round(3).tolist()


STABLE, CANDIDATE = [0.1, 0.2], [0.3, 0.4]


def test_all_calls_together_leave_triton_a_thread():
    # 32 of them, and one is for what execute answers itself.
    assert STABLE_CALLS + CANDIDATE_CALLS + 1 < 32


def test_without_a_route_stable_answers():
    stage = Stage()
    request = stage.send("a")
    assert (answered(request), request.calls) == (STABLE, [1])
    assert stage.counts == {"requests": 1, "stable": 1}
    (sample,) = stage.samples()
    assert sample == sample | {"role": "stable", "outcome": "ok", "error": "", "id": "a", "took_ms": 10.0, "n": 2}


def test_the_candidate_answers_its_share():
    stage = Stage(weight=100)
    request = stage.send("a")
    assert (answered(request), request.calls) == (CANDIDATE, [2])
    assert stage.counts == {"requests": 1, "candidate": 1, "sent_to_candidate": 1}
    (sample,) = stage.samples()
    assert sample == sample | {"role": "candidate", "outcome": "ok", "top": 0.4, "mean": 0.35, "n": 2}


@pytest.mark.parametrize("change", [{"weight": 0}, {"candidate": None, "weight": 100}])
def test_a_route_without_a_share_is_stables(change):
    assert Stage(**change).send().calls == [1]


def test_when_the_lease_is_over_stable_answers():
    stage = Stage(weight=100, lease_s=5)
    assert stage.send().calls == [2]
    stage.clock.now += 5
    assert stage.send().calls == [1]
    stage.follow(weight=100)
    assert stage.send().calls == [2]
    assert stage.splitter.lease.lapses == 1


def test_a_candidate_that_fails_is_replaced_and_blamed():
    stage = Stage(weight=100)
    stage.versions[2] = failing("out of memory")
    request = stage.send("a")
    assert (answered(request), request.calls) == (STABLE, [2, 1])
    assert stage.counts == {"requests": 1, "stable": 1, "sent_to_candidate": 1, "failed": 1}
    stable, candidate = stage.samples()
    assert (stable["role"], stable["outcome"]) == ("stable", "ok")
    assert (candidate["outcome"], candidate["error"], candidate["took_ms"]) == ("failed", "out of memory", 10.0)


def test_one_that_had_too_little_time_is_replaced_and_marked():
    stage = Stage(weight=100)
    stage.versions[2] = Answer("error", error="deadline: over", hurried=True)
    for _ in range(FAILURES):
        request = stage.send()
        assert (request.calls, request.replies) == ([2, 1], [stage.versions[1]])
    assert stage.splitter.breaker.state == "closed"
    mine = [sample for sample in stage.samples() if sample["role"] == "candidate"]
    assert [(sample["outcome"], sample["hurried"]) for sample in mine] == [("failed", True)] * FAILURES


def test_when_both_fail_the_request_is_to_blame():
    stage = Stage(weight=100)
    stage.versions = {1: failing("stable says no"), 2: failing("candidate says no")}
    requests = [stage.send() for _ in range(FAILURES + 1)]
    assert [request.replies[0].error for request in requests] == ["stable says no"] * len(requests)
    assert stage.splitter.breaker.state == "closed"
    assert stage.counts["client_errors"] == len(requests)
    assert "failed" not in stage.counts
    assert {sample["outcome"] for sample in stage.samples()} == {"client_error"}


def test_stables_own_error_goes_to_the_client():
    stage = Stage()
    stage.versions[1] = failing("x" * 500)
    request = stage.send()
    assert request.replies[0].error == "x" * 500
    assert stage.counts == {"requests": 1, "stable": 1, "client_errors": 1}
    assert stage.samples()[0]["error"] == "x" * 200


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (scored(0.1, math.nan), "NaN"),
        (scored(math.inf), "NaN or infinity"),
        (Answer("no scores"), "missing"),
        (scored(0.1, 0.2, shape=(2,)), "the shape [2]"),
        (scored(0.1, 0.2, shape=(1, 2, 1)), "the shape [1, 2, 1]"),
    ],
)
def test_an_answer_that_is_no_answer_is_replaced(answer, why):
    stage = Stage(weight=100)
    stage.versions[2] = answer
    assert answered(stage.send()) == STABLE
    assert stage.counts["failed"] == 1
    assert why in stage.samples()[1]["error"]


def test_fixed_sizes_of_the_compared_output_hold():
    stage = Stage(weight=100, compare="logits")
    stage.wanted = {"logits"}
    stage.versions[2] = scored(1, 2, 3, shape=(1, 3))
    assert stage.send().calls == [2]
    stage.versions[2] = scored(1, 2, shape=(1, 2))
    assert stage.send().calls == [2, 1]


def test_what_the_client_did_not_ask_for_is_not_missed():
    stage = Stage(weight=100)
    stage.wanted = {"model_version"}
    stage.versions[2] = Answer("no scores")
    assert stage.send().calls == [2]


def test_nan_of_stables_goes_on_unjudged():
    stage = Stage()
    stage.follow(weight=0)
    stage.versions[1] = scored(math.nan, 0.5)
    request = stage.send()
    scores = request.replies[0].scores
    assert scores is not None
    assert np.isnan(scores[0, 0])
    assert (stage.samples()[0]["top"], stage.samples()[0]["n"]) == (None, 2)


def test_at_the_deadline_stable_answers_and_the_late_answer_is_dropped():
    stage = Stage(weight=100, deadline_s=2)
    late = stage.send("a", run=False)
    stage.clock.now += 1.9
    stage.timer.run()
    assert not late.replies
    stage.clock.now += 0.1
    stage.timer.run()
    stage.stable_pool.run()
    assert answered(late) == STABLE
    stage.candidate_pool.run()  # now the candidate answers as well
    assert answered(late) == STABLE
    assert stage.counts == {"requests": 1, "stable": 1, "sent_to_candidate": 1, "late": 1}
    stable, candidate = stage.samples()
    assert (candidate["outcome"], candidate["took_ms"], stable["role"]) == ("late", 2000.0, "stable")
    assert candidate["stable_ms"] == stable["took_ms"]


def test_an_answer_in_time_is_not_called_late():
    stage = Stage(weight=100, deadline_s=2)
    request = stage.send()
    stage.clock.now += 2
    stage.timer.run()
    assert not stage.stable_pool.tasks
    assert request.calls == [2]
    assert "late" not in stage.counts


def test_an_answered_request_is_let_go_before_its_deadline():
    import gc
    import weakref

    stage = Stage(weight=100)
    request = weakref.ref(stage.send())
    gc.collect()
    assert stage.timer.entries
    assert request() is None  # it would hold shared memory


def test_the_deadline_follows_stables_times():
    stage = Stage(weight=0)
    stage.took_s = 0.2
    for _ in range(20):
        stage.send()
    stage.follow(weight=100, deadline_s=10)
    late = stage.send(run=False)
    stage.clock.now += 0.81
    stage.timer.run()
    assert stage.counts["late"] == 1
    stage.run()
    assert answered(late) == STABLE


def test_when_the_bulkhead_is_full_stable_answers_at_once():
    stage = Stage(weight=100)
    stage.candidate_pool.busy = 10
    request = stage.send("a")
    assert request.calls == [1]
    assert stage.counts == {"requests": 1, "stable": 1, "refused": 1}
    refused = stage.samples()[0]
    assert (refused["outcome"], refused["took_ms"], refused["id"]) == ("refused", None, "a")
    assert "10 calls" in refused["error"]
    stage.candidate_pool.busy = 0
    assert stage.send().calls == [2]


def test_the_breaker_spares_the_candidate_and_lets_one_try():
    stage = Stage(weight=100)
    stage.versions[2] = failing()
    for _ in range(FAILURES):
        assert stage.send().calls == [2, 1]
    assert stage.send().calls == [1]
    assert stage.counts["refused"] == 1
    assert "breaker" in stage.samples()[-2]["error"]
    stage.clock.now += COOLDOWN_S
    one, other = stage.send(run=False), stage.send(run=False)
    stage.versions[2] = scored(*CANDIDATE)
    stage.run()
    assert (one.calls, other.calls) == ([2], [1])
    assert stage.splitter.breaker.state == "closed"
    assert stage.send().calls == [2]


def test_a_full_bulkhead_does_not_use_up_the_one_try():
    stage = Stage(weight=100)
    stage.versions[2] = failing()
    for _ in range(FAILURES):
        stage.send()
    stage.clock.now += COOLDOWN_S
    stage.candidate_pool.busy = 10
    assert stage.send().calls == [1]
    stage.candidate_pool.busy = 0
    assert stage.send().calls == [2, 1]


def test_late_ones_open_the_breaker():
    stage = Stage(weight=100, deadline_s=1)
    requests = [stage.send(run=False) for _ in range(FAILURES)]
    stage.clock.now += 1
    stage.timer.run()
    assert stage.splitter.breaker.state == "open"
    stage.run()
    assert all(answered(request) == STABLE for request in requests)


def test_only_another_candidate_closes_the_breaker():
    stage = Stage(weight=100)
    stage.versions[2] = failing()
    stage.versions[3] = scored(0.9)
    for _ in range(FAILURES):
        stage.send()
    stage.follow(weight=50)
    stage.follow(candidate=None)
    stage.follow(weight=100)
    assert stage.splitter.breaker.state == "open"
    stage.follow(candidate=3, weight=100)
    assert stage.splitter.breaker.state == "closed"
    assert stage.send().calls == [3]


@pytest.mark.parametrize(
    ("candidate", "state", "counted"), [(scored(0.3, 0.4), "closed", "candidate"), (failing(), "open", "failed")]
)
def test_a_reply_that_can_not_be_sent_is_still_accounted_for(candidate, state, counted):
    """In the trial of a half-open breaker: a ticket that did not come back would keep the candidate out for ever."""
    stage = Stage(weight=100)
    stage.versions[2] = failing()
    for _ in range(FAILURES):
        stage.send()
    stage.clock.now += COOLDOWN_S
    before = stage.counts.get(counted, 0)
    stage.versions[2] = candidate
    request = FakeRequest(stage)
    request.reply = lambda answer: (_ for _ in ()).throw(RuntimeError("the client is gone"))  # type: ignore[method-assign]
    stage.splitter.dispatch(request)
    with pytest.raises(RuntimeError, match="gone"):
        stage.run()
    assert stage.splitter.breaker.state == state
    assert stage.counts[counted] == before + 1
