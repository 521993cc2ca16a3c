"""While the candidate has a share of the traffic it answers what a stable version that died or hangs can't."""

from __future__ import annotations

import pytest
from tests.unit.splitter.fakes import FakeRequest, Stage, failing, scored

from traffic_splitter.breaker import FAILURES

STABLE, CANDIDATE = scored(0.1, 0.2), scored(0.3, 0.4)
DEAD = failing("its process is gone")
NOT_THE_CANDIDATES = 0.99
"""A draw that sends the request to stable, whatever the weight below 99 %."""


def stage_of(weight: float = 50, **route: object) -> Stage:
    stage = Stage(weight=weight, deadline_s=2, **route)
    stage.versions = {1: STABLE, 2: CANDIDATE}
    return stage


def to_stable(stage: Stage, *, run: bool = True) -> FakeRequest:
    stage.draws.append(NOT_THE_CANDIDATES)
    return stage.send("", run=run)


def outcomes(stage: Stage) -> list[tuple[str, str]]:
    return sorted((sample["role"], sample["outcome"]) for sample in stage.samples())


def test_what_stable_fails_the_candidate_answers():
    stage = stage_of()
    stage.versions[1] = DEAD
    request = to_stable(stage)
    assert (request.replies, request.calls) == ([CANDIDATE], [1, 2])
    assert stage.counts["rescued"] == stage.counts["candidate"] == 1
    assert outcomes(stage) == [("candidate", "ok"), ("stable", "failed")]
    assert stage.samples()[1]["error"] == "its process is gone"


def test_a_request_that_both_refuse_gets_stables_words():
    stage = stage_of()
    stage.versions = {1: failing("stable says no"), 2: failing("candidate says no")}
    requests = [to_stable(stage) for _ in range(FAILURES + 1)]
    assert [[one.error for one in request.replies] for request in requests] == [["stable says no"]] * len(requests)
    assert stage.splitter.breaker.state == "closed"
    assert set(outcomes(stage)) == {("stable", "client_error"), ("candidate", "client_error")}


@pytest.mark.parametrize("route", [{"weight": 0}, {"weight": 0, "shadow": 100}, {"candidate": None}])
def test_without_a_share_there_is_no_failover(route):
    stage = stage_of(**route)
    stage.versions[1] = DEAD
    request = to_stable(stage)
    assert (request.replies, request.calls) == ([DEAD], [1])


def test_a_candidate_that_is_left_alone_is_asked_all_the_same():
    stage = stage_of(weight=100)
    stage.versions = {1: STABLE, 2: failing("broken")}
    for _ in range(FAILURES):
        stage.send()
    assert stage.splitter.breaker.state == "open"
    stage.versions = {1: DEAD, 2: CANDIDATE}
    assert stage.send().replies == [CANDIDATE]


def test_a_late_candidate_answers_what_stable_fails():
    stage = stage_of(weight=100)
    stage.versions[1] = DEAD
    request = stage.send(run=False)
    attempt = stage.candidate_pool.tasks.pop()
    stage.clock.now += 2
    stage.timer.run()
    stage.stable_pool.run()
    assert not request.replies
    attempt()
    stage.run()
    assert request.replies == [CANDIDATE]
    assert stage.counts["late"] == 1


def test_a_late_candidate_that_fails_leaves_the_client_stables_words():
    stage = stage_of(weight=100)
    stage.versions = {1: DEAD, 2: failing("broken")}
    request = stage.send(run=False)
    attempt = stage.candidate_pool.tasks.pop()
    stage.clock.now += 2
    stage.timer.run()
    stage.stable_pool.run()
    attempt()
    stage.run()
    assert request.replies == [DEAD]


def test_what_a_silent_stable_holds_goes_to_the_candidate():
    stage = stage_of()
    request = to_stable(stage, run=False)
    stage.clock.now += 1.9
    stage.timer.run()
    assert not stage.candidate_pool.tasks
    stage.clock.now += 0.1
    stage.timer.run()
    stage.candidate_pool.run()
    assert (request.replies, request.calls) == ([CANDIDATE], [2])
    assert outcomes(stage) == [("candidate", "ok"), ("stable", "late")]
    stage.stable_pool.run()
    assert (request.replies, request.calls) == ([CANDIDATE], [2]), "what stood in line is not asked of stable any more"


def test_for_a_stable_that_was_given_up_the_candidate_has_more_time():
    """All who ask come to it at once; nobody else has an answer."""
    stage = stage_of()
    stage.versions[1] = failing("Stub process 'x_0_0' is not healthy.")
    assert to_stable(stage).replies == [CANDIDATE]
    request = to_stable(stage, run=False)
    stage.stable_pool.run()
    stage.clock.now += 3  # the candidate is busy, for longer than its deadline
    stage.timer.run()
    assert request.replies == []
    stage.candidate_pool.run()
    assert (request.replies, request.calls) == ([CANDIDATE], [2])


@pytest.mark.parametrize(("weight", "answer"), [(50, CANDIDATE), (0, None)])
def test_a_lease_that_ends_leaves_the_candidate_where_stable_was_given_up(weight, answer):
    """The control plane was away just then: nobody else is left to answer. In shadow the candidate answers nobody."""
    stage = stage_of(weight=weight, shadow=100, lease_s=5)
    stage.versions[1] = failing("Stub process 'x_0_0' is not healthy.")
    stage.clock.now += 5
    assert stage.splitter.lease.current() is None
    for _ in range(2):  # the request by which that is found, and one after it
        [reply] = to_stable(stage).replies
        assert reply == answer if answer else reply.error
        assert stage.splitter.calls.given_up(1) is not None
    stage.follow(candidate=None)
    [reply] = to_stable(stage).replies
    assert reply.error


def test_a_lease_that_ends_leaves_stable_alone_where_it_only_fails():
    stage = stage_of(lease_s=5)
    stage.versions[1] = failing("this request is wrong")
    stage.clock.now += 5
    request = to_stable(stage)
    assert (request.replies, request.calls) == ([stage.versions[1]], [1])


def test_a_stable_that_answers_others_is_slow_and_no_more():
    stage = stage_of()
    slow = to_stable(stage, run=False)
    held = stage.stable_pool.tasks.pop()
    stage.clock.now += 1
    assert to_stable(stage).replies == [STABLE]
    stage.clock.now += 1
    stage.timer.run()
    assert not stage.candidate_pool.tasks
    # From then on it answers nobody, and now the wait is long enough.
    stage.clock.now += 2
    stage.timer.run()
    stage.candidate_pool.run()
    assert slow.replies == [CANDIDATE]
    held()
    assert slow.replies == [CANDIDATE]


def test_stables_answer_is_the_clients_when_it_comes_first():
    stage = stage_of()
    request = to_stable(stage, run=False)
    stage.clock.now += 2
    stage.timer.run()
    stage.stable_pool.run()
    stage.candidate_pool.run()
    assert request.replies == [STABLE]
    assert "rescued" not in stage.counts


def test_a_candidate_that_fails_leaves_a_silent_stable_its_request():
    stage = stage_of()
    stage.versions[2] = failing("broken")
    request = to_stable(stage, run=False)
    stage.clock.now += 2
    stage.timer.run()
    stage.candidate_pool.run()
    assert not request.replies
    stage.stable_pool.run()
    assert request.replies == [STABLE]


def test_a_candidate_that_hangs_keeps_no_error_from_the_client():
    stage = stage_of()
    stage.versions[1] = DEAD
    request = to_stable(stage, run=False)
    stage.stable_pool.run()
    held = stage.candidate_pool.tasks.pop()
    stage.clock.now += 2
    stage.timer.run()
    stage.stable_pool.run()
    assert request.replies == [DEAD]
    held()
    assert request.replies == [DEAD]
