"""The control plane's own requests: announced, sent where they are to go, written down apart; nobody else's are."""

from __future__ import annotations

import hashlib
import json

import pytest
from tests.unit.splitter.fakes import UNCAPPED, Stage, failing, scored
from tests.unit.splitter.routes import route_of

from traffic_splitter.breaker import FAILURES
from traffic_splitter.control import Control
from traffic_splitter.route import InvalidControl

TOKEN = "sesame"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()


def announce(stage: Stage, request_id: str, to: str) -> None:
    probe = {"id": request_id, "to": to}
    Control(stage.splitter, HASH, UNCAPPED).answer(json.dumps({"token": TOKEN, "probe": probe}).encode())


def test_to_the_candidate_however_small_its_share():
    stage = Stage(weight=0.001)
    announce(stage, "baton-1", "candidate")
    request = stage.send("baton-1")
    assert (request.calls, len(request.replies)) == ([2], 1)
    assert stage.counts == {"own": 1}
    (sample,) = stage.samples()
    assert sample == sample | {"role": "candidate", "outcome": "ok", "id": "baton-1", "own": True}


def test_to_stable_however_large_the_candidates_share_and_shadowed_always():
    stage = Stage(weight=99.999, shadow=0.001)
    stage.draws = [0.99] * 10
    announce(stage, "baton-1", "stable")
    assert stage.send("baton-1").calls == [1, 2]
    assert stage.counts == {"own": 1}
    (pair,) = stage.samples("pair")
    assert pair == pair | {"outcome": "ok", "id": "baton-1", "own": True, "candidate": [0.3, 0.4]}
    assert all(sample["own"] for sample in stage.samples())


def test_not_shadowed_where_nothing_is():
    stage = Stage(weight=5, shadow=0)
    announce(stage, "baton-1", "stable")
    assert stage.send("baton-1").calls == [1]


@pytest.mark.parametrize("route", [{"weight": 0}, {"candidate": None, "weight": 100}, {}])
def test_a_candidate_without_a_share_answers_none(route):
    stage = Stage(**route)
    announce(stage, "baton-1", "candidate")
    request = stage.send("baton-1")
    assert request.replies[0].scores.reshape(-1).tolist() == [0.1, 0.2]
    assert request.calls[0] == 1


@pytest.mark.parametrize("request_id", ["baton-2", "baton-", "baton-1 ", "BATON-1", "x", ""])
def test_an_id_that_was_not_announced_is_a_clients(request_id):
    """Nobody chooses a way by it, and nobody's answer goes unjudged for it."""
    stage = Stage(weight=0.001, shadow=50)
    stage.draws = [0.99] * 10
    announce(stage, "baton-1", "candidate")
    assert stage.send(request_id).calls == [1]
    assert stage.counts == {"requests": 1, "stable": 1}
    assert "own" not in stage.samples()[0]
    assert stage.send("baton-1").calls == [2], "and the one that was announced still comes"


def test_an_announced_id_counts_once():
    """It stands in logs and traces afterwards."""
    stage = Stage(weight=0.001)
    stage.draws = [0.99] * 10
    announce(stage, "baton-1", "candidate")
    stage.send("baton-1")
    assert stage.send("baton-1").calls == [1]
    assert stage.counts == {"own": 1, "requests": 1, "stable": 1}


def test_the_next_one_takes_the_place_of_one_that_never_came():
    stage = Stage(weight=0.001)
    stage.draws = [0.99] * 10
    announce(stage, "baton-1", "candidate")
    announce(stage, "baton-2", "candidate")
    assert stage.send("baton-1").calls == [1]
    assert stage.send("baton-2").calls == [2]


def test_a_candidate_that_fails_them_is_answered_for_and_meets_the_breaker():
    stage = Stage(weight=50)
    stage.versions[2] = failing("broken")
    for number in range(FAILURES):
        announce(stage, f"baton-{number}", "candidate")
        assert stage.send(f"baton-{number}").replies[0].scores is not None
    assert stage.splitter.breaker.state == "open"
    assert stage.counts == {"own": FAILURES}
    failed = [s for s in stage.samples() if s["role"] == "candidate"]
    assert {(s["outcome"], s["error"], s["own"]) for s in failed} == {("failed", "broken", True)}


def test_they_leave_the_clients_books_alone():
    stage = Stage(weight=0, shadow=100)
    stage.versions[2] = scored(float("nan"), 0.1)
    announce(stage, "baton-1", "stable")
    stage.send("baton-1")
    stage.send("a")
    assert stage.counts == {"own": 1, "requests": 1, "stable": 1, "shadowed": 1, "shadow_failed": 1}
    assert [s.get("own", False) for s in stage.samples("pair")] == [True, False]


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        ("x", "keys id and to"),
        ({"id": "baton-1"}, "keys id and to"),
        ({"id": "baton-1", "to": "stable", "more": 1}, "keys id and to"),
        ({"id": "mine", "to": "stable"}, "begins with 'baton-'"),
        ({"id": 1, "to": "stable"}, "begins with 'baton-'"),
        ({"id": "baton-" + "x" * 200, "to": "stable"}, "at most 200"),
        ({"id": "baton-1", "to": "both"}, "'stable' or 'candidate'"),
        ({"id": "baton-1", "to": []}, "'stable' or 'candidate'"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(probe, problem):
    stage = Stage(weight=0.001)
    control = Control(stage.splitter, HASH, UNCAPPED)
    with pytest.raises(InvalidControl, match=problem):
        control.answer(json.dumps({"token": TOKEN, "probe": probe, "route": route_of(weight=100)}).encode())
    with pytest.raises(InvalidControl, match="token"):
        control.answer(json.dumps({"probe": {"id": "baton-1", "to": "candidate"}}).encode())
    stage.draws = [0.99] * 10
    assert stage.send("baton-1").calls == [1]
