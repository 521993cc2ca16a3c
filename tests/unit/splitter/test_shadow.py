"""Shadows come after the client's answer, never reach a client, and give way when there is no room."""

from __future__ import annotations

import math

import pytest
from tests.unit.splitter.fakes import FakeRequest, Stage, failing, scored

from traffic_splitter.breaker import FAILURES
from traffic_splitter.request import Answer
from traffic_splitter.shadow import MAX_CALLS, MAX_HELD_BYTES


def shadowing(**route) -> Stage:
    return Stage(shadow=100, **route)


def test_a_pair_holds_what_both_versions_said():
    stage = shadowing()
    request = stage.send("a")
    assert [answer.scores.round(3).tolist() for answer in request.replies if answer.scores is not None] == [
        [[0.1, 0.2]]
    ]
    assert request.calls == [1, 2]
    assert stage.counts == {"requests": 1, "stable": 1, "shadowed": 1}
    (pair,) = stage.samples("pair")
    assert pair == pair | {
        "id": "a",
        "kind": "documents.image,documents.text,query.text",
        "outcome": "ok",
        "stable": [0.1, 0.2],
        "candidate": [0.3, 0.4],
        "stable_ms": 10.0,
        "candidate_ms": 10.0,
        "error": "",
    }
    assert "contents" not in pair
    assert "cut" not in pair


def test_the_client_has_its_answer_before_the_candidate_is_asked():
    stage = shadowing()

    def candidate(request: FakeRequest):
        assert len(request.replies) == 1
        return scored(0.5)

    stage.versions[2] = candidate
    stage.send()
    assert stage.samples("pair")[0]["outcome"] == "ok"


def test_a_share_is_shadowed_whatever_the_id():
    stage = Stage(shadow=25)
    stage.draws = [0.24, 0.25, 0.0, 0.99]
    assert [len(stage.send("same").calls) for _ in range(4)] == [2, 1, 2, 1]


def test_what_went_to_the_candidate_is_not_shadowed():
    stage = shadowing(weight=100)
    assert stage.send().calls == [2]
    stage.versions[2] = failing()
    assert stage.send().calls == [2, 1]
    stage.candidate_pool.busy = 10
    assert stage.send().calls == [1]
    assert not stage.samples("pair")


def test_what_stable_could_not_answer_is_not_shadowed():
    stage = shadowing()
    stage.versions[1] = failing()
    assert stage.send().calls == [1]


@pytest.mark.parametrize("change", [{"candidate": None}, {"candidate": 3}, {"lease_s": 0.001}])
def test_what_the_route_no_longer_names_is_not_shadowed(change):
    stage = shadowing()
    request = stage.send(run=False)
    stage.follow(**({"shadow": 100} | change))
    stage.run()
    assert request.calls == [1]


@pytest.mark.parametrize("bad", [failing("oom"), scored(math.nan)])
def test_a_shadow_that_fails_counts_for_the_breaker(bad):
    stage = shadowing()
    stage.versions[2] = bad
    for _ in range(FAILURES):
        assert len(stage.send().replies) == 1
    assert stage.splitter.breaker.state == "open"
    pair = stage.samples("pair")[-1]
    assert (pair["outcome"], pair["candidate"]) == ("failed", [])
    assert pair["error"]
    assert stage.send().calls == [1]
    assert stage.counts["shadow_failed"] == FAILURES
    assert stage.counts["shadow_dropped"] == 1
    assert stage.samples("pair")[-1]["outcome"] == "dropped"


def test_a_shadow_without_enough_time_says_so_and_leaves_the_breaker_alone():
    stage = shadowing()
    stage.versions[2] = Answer("error", error="deadline: over", hurried=True)
    for _ in range(FAILURES):
        stage.send()
    assert stage.splitter.breaker.state == "closed"
    assert [(pair["outcome"], pair["hurried"]) for pair in stage.samples("pair")] == [("failed", True)] * FAILURES


def test_a_shadow_that_hangs_is_late_once():
    stage = shadowing(deadline_s=2)

    def hang(request: FakeRequest):
        stage.clock.now += 2
        stage.timer.run()
        assert stage.samples("pair")[0]["outcome"] == "late"
        return scored(0.5)

    stage.versions[2] = hang
    stage.send("a")
    (pair,) = stage.samples("pair")
    assert (pair["kind"], pair["candidate_ms"]) == ("documents.image,documents.text,query.text", 2000.0)
    assert stage.counts == {"requests": 1, "stable": 1, "shadowed": 1, "shadow_failed": 1}


def test_only_a_few_at_a_time():
    stage = shadowing()
    for _ in range(MAX_CALLS + 2):
        stage.send(run=False)
    stage.stable_pool.run()
    assert stage.counts["shadow_dropped"] == 2
    stage.candidate_pool.run()
    assert stage.counts["shadowed"] == MAX_CALLS
    stage.send()
    assert stage.counts["shadowed"] == MAX_CALLS + 1


def test_live_requests_come_first_in_the_pool():
    stage = shadowing()
    stage.candidate_pool.busy = 6
    stage.send()
    assert stage.counts["shadow_dropped"] == 1
    stage.candidate_pool.busy = 5
    stage.send()
    assert stage.counts["shadowed"] == 1


def test_held_inputs_are_bounded_and_given_back():
    stage = shadowing()
    sizes = [MAX_HELD_BYTES + 1, MAX_HELD_BYTES // 2, MAX_HELD_BYTES // 2 + 1, MAX_HELD_BYTES // 2]
    for size in sizes:
        request = FakeRequest(stage)
        request.bytes = size
        stage.splitter.dispatch(request)
    stage.stable_pool.run()
    assert (stage.counts["shadowed"], stage.counts["shadow_dropped"]) == (2, 2)
    stage.candidate_pool.run()
    request = FakeRequest(stage)
    request.bytes = MAX_HELD_BYTES
    stage.splitter.dispatch(request)
    stage.run()
    assert stage.counts["shadowed"] == 3


def test_contents_come_along_when_asked_for():
    stage = shadowing(contents=True)
    stage.send()
    assert stage.samples("pair")[0]["contents"] == {
        "query": ['{"text": "x"}'],
        "documents": ['{"image": {}}', '{"text": ""}'],
    }


def test_long_lists_of_scores_are_cut_and_say_so():
    stage = shadowing()
    stage.versions[1] = stage.versions[2] = scored(*[0.5] * 300)
    stage.send()
    (pair,) = stage.samples("pair")
    assert (len(pair["stable"]), len(pair["candidate"]), pair["cut"]) == (256, 256, True)
