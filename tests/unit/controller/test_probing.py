"""Nobody asks: golden requests go the clients' way, the rollout comes to its end, and says what it rests on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.controller.plane import NAME, Place, Plane

from baton.codec import encode
from baton.config import LiveConfig, TrafficConfig
from baton.domain import Gate, Outcome, Phase, Step, Verdict
from baton.errors import TimedOut
from baton.reasons import Reason
from baton.testing import Behaviour
from baton.triton.port import Tensors

STEPS = (Step(5.0, hold=10.0), Step(50.0, over=10.0))


def request(text: str) -> Tensors:
    return {
        "query": np.array([[b'{"text": "red"}']], dtype=np.object_),
        "documents": np.array([[json.dumps({"text": t}).encode() for t in (text, "other")]], dtype=np.object_),
    }


GOLDEN = [request(text) for text in "abc"]
QUERY = request("a client's")


def plane_of(place: Place, *, golden: Any = GOLDEN, **traffic: Any) -> Plane:
    options = {"steps": STEPS, "shadow_share": 25.0, "shadow_for": 10.0, "no_traffic_after": 10.0} | traffic
    return Plane(place, traffic=TrafficConfig(**options), live=LiveConfig(min_requests=6, min_pairs=6), golden=golden)


@pytest.fixture
def plane(place):
    made = plane_of(place)
    yield made
    made.close()


def begin(place: Place, plane: Plane, phase: Phase = Phase.SHADOWING, *, turns: int = 100) -> None:
    """Version 1 is live, and version 2 has come as far as the phase."""
    place.drop(1)
    plane.live(1)
    place.drop(2)
    plane.run(lambda: plane.phase() is phase, f"version 2 {phase}", turns=turns)
    plane.run(lambda: all(s.step(NAME) == f"{NAME}_splitter" for s in place.servers.values()), "the split")


def gate(plane: Plane) -> Any:
    """The gate ``live`` of the newest rollout, as the journal has it."""
    return plane.journal.rollouts.newest(service=NAME)[0].gates.get(Gate.LIVE)


def told(plane: Plane) -> dict[str, Any]:
    service: dict[str, Any] = encode(plane.app.status().services[0])
    return service


def own(place: Place) -> int:
    """Requests of Baton's own that the splitters counted."""
    return sum(s.models.splitters[f"{NAME}_splitter"].counts["own"] for s in place.servers.values())


def test_a_rollout_without_traffic_comes_to_its_end(place, plane):
    begin(place, plane)
    plane.run(lambda: plane.service.decision.why.reason is Reason.HOLDING, "the person is told")
    assert own(place) == 0, "clients come first"
    plane.run(lambda: plane.phase() is Phase.SHIFTING, "traffic")
    assert plane.journal.events.newest(service=NAME, limit=1000)
    shadow = gate(plane)
    assert shadow.verdict is Verdict.PASS
    assert shadow.evidence.synthetic >= 6
    plane.live(2)
    result = gate(plane)
    assert result.evidence.synthetic
    assert result.evidence.samples.candidate >= 6
    assert result.evidence.samples.stable >= 6
    assert plane.ended(2) is Outcome.LIVE


def test_one_at_a_time_and_one_a_second(place, plane):
    begin(place, plane)
    plane.run(lambda: own(place) == 1, "the first")
    for _ in range(20):
        plane.turn()
        place.now += 0.1
    assert own(place) == 3


def test_they_are_no_clients_requests(place, plane):
    begin(place, plane)
    plane.run(lambda: own(place) >= 4, "some")
    shown = told(plane)["traffic"]
    assert shown["requests"] == {"stable": 0, "candidate": 0}
    assert (shown["observed"], shown["shadowed"]) == (None, 0)
    assert shown["synthetic"] >= 3


def test_live_requests_take_over(place, plane):
    begin(place, plane, Phase.SHIFTING)
    plane.run(lambda: (v := plane.service.split.verdict) and getattr(v.evidence, "synthetic", None), "golden requests")
    for server in place.servers.values():
        server.infer(NAME, None, QUERY, 1.0, "a-client")
    plane.run(lambda: told(plane)["traffic"]["requests"] != {"stable": 0, "candidate": 0}, "it was heard of")
    sent = own(place)
    for _ in range(8):
        plane.turn()
        place.now += 1.0
    assert own(place) == sent, "none beside live ones"
    assert gate(plane).verdict is Verdict.HOLD or plane.service.split.verdict.verdict is Verdict.HOLD
    assert plane.service.split.verdict.evidence.synthetic is None
    plane.run(lambda: own(place) > sent, "and again when clients are gone for long enough")


def test_a_client_that_borrows_the_prefix_is_a_client(place, plane):
    """No way to the candidate, and none around being judged."""
    begin(place, plane, Phase.SHIFTING)
    for server in place.servers.values():
        for number in range(30):
            server.infer(NAME, None, QUERY, 1.0, f"baton-0-{number}")
    plane.turn()
    plane.turn()
    shown = told(plane)["traffic"]
    assert sum(shown["requests"].values()) == 30
    assert shown["requests"]["candidate"] < 10, "5 % of the requests"


@pytest.mark.parametrize("phase", [Phase.SHADOWING, Phase.SHIFTING])
def test_a_candidate_that_fails_them_goes_back(place, plane, phase):
    begin(place, plane, phase)
    place.servers["a"].versions[2] = Behaviour(answer_error="out of memory")
    plane.run(lambda: plane.ended(2), "the end")
    assert plane.ended(2) is (Outcome.REJECTED if phase is Phase.SHADOWING else Outcome.ROLLED_BACK)
    result = gate(plane)
    assert result.verdict is Verdict.FAIL
    assert result.evidence.synthetic
    assert "out of memory" in result.message


def test_they_do_not_outvote_a_live_request_that_failed(place, plane):
    begin(place, plane, Phase.SHIFTING)
    server = place.servers["a"]
    splitter = server.models.splitters[f"{NAME}_splitter"]
    plane.run(lambda: told(plane)["weight"] > 20, "a larger share", turns=300)
    server.versions[2] = Behaviour(answer_error="no memory for that")
    splitter._draw.random = lambda: 0.0  # the one request of a client meets the candidate
    server.infer(NAME, None, QUERY, 1.0, "a-client")
    assert splitter.counts["failed"] == 1
    server.versions[2] = Behaviour()
    plane.run(lambda: plane.service.decision.why.reason is Reason.HOLDING, "it holds")
    assert "no memory for that" in told(plane)["message"]
    plane.live(2)


def test_scores_need_no_more_requests_than_there_are(place, plane):
    """Six pairs are wanted, and the golden set has three requests: asked again they tell nothing new."""
    begin(place, plane)
    plane.run(lambda: (g := gate(plane)) is not None and g.verdict is Verdict.PASS, "it goes on")
    assert gate(plane).evidence.samples.pairs == 3
    assert gate(plane).evidence.synthetic >= 6, "errors and latency have enough of them"


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ({"golden": ()}, "`golden`"),
        ({"on_no_traffic": "hold"}, 'on_no_traffic = "hold"'),
    ],
)
def test_where_nothing_stands_in_it_waits_and_says_what_to_do(place, traffic, words):
    plane = plane_of(place, **traffic)
    begin(place, plane)
    plane.run(lambda: words in told(plane)["message"], words)
    for _ in range(60):
        plane.turn()
        place.now += 1.0
    assert plane.phase() is Phase.SHADOWING
    assert own(place) == 0
    plane.app.promote(None, None, full=True, who="ann")
    plane.live(2)
    plane.close()


def test_a_golden_request_that_gets_no_answer_is_told(place, plane, monkeypatch):
    def late(*_: object) -> None:
        raise TimedOut("a request to ranker took longer than 10 s.")

    begin(place, plane)
    monkeypatch.setattr(plane.service.split._probing.client, "announce", late)
    plane.run(lambda: "a request to ranker took longer" in told(plane)["message"], "the reason")
    assert plane.phase() is Phase.SHADOWING


def test_what_golden_requests_showed_grows_old(place, monkeypatch):
    """They get no answers any more: what they showed before lets nothing go on."""

    def late(*_: object) -> None:
        raise TimedOut("a request to ranker took longer than 10 s.")

    plane = plane_of(place, shadow_for=300.0)
    begin(place, plane)
    plane.run(lambda: (g := gate(plane)) is not None and g.verdict is Verdict.PASS, "it goes on")
    monkeypatch.setattr(plane.service.split._probing.client, "announce", late)
    plane.run(lambda: plane.service.decision.why.reason is Reason.HOLDING, "it holds")
    assert "a request to ranker took longer" in told(plane)["message"]
    plane.close()


def test_a_clock_that_is_set_back_keeps_nobody_waiting(place, plane):
    begin(place, plane)
    place.now -= 3600.0
    plane.run(lambda: own(place) >= 1, "a golden request", turns=60)


def test_a_paused_control_plane_sends_none(place, plane):
    begin(place, plane)
    plane.app.pause(who="ann")
    for _ in range(30):
        plane.turn()
        place.now += 1.0
    assert own(place) == 0


def test_every_server_is_asked(place):
    two = Place(place.root / "two", servers=2)
    plane = plane_of(two)
    begin(two, plane)
    plane.run(lambda: own(two) >= 4, "some")
    assert {s.models.splitters[f"{NAME}_splitter"].counts["own"] for s in two.servers.values()} == {2}
    plane.live(2)
    plane.close()
