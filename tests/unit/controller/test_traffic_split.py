"""Traffic comes to a candidate by steps: what the loop writes down, sends and shows on the way."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.evidence import rests_on
from tests.unit.controller.plane import ENGINE, MANY, NAME, Crash, Full, Fuse, Machine, Place, Plane

from baton.codec import encode
from baton.config import LiveConfig, TrafficConfig
from baton.domain import Gate, ModelState, Outcome, Phase, Step, Verdict
from baton.errors import InvalidRequest, TimedOut, TritonError
from baton.evidence import LiveEvidence
from baton.metrics import ControlCollector
from baton.plan import Steer, traffic
from baton.reasons import Reason, because
from baton.testing import Behaviour, FakeSplitter
from baton.triton.key import token_file

SPLITTER = f"{NAME}_splitter"
STEPS = (Step(20.0, hold=10.0), Step(50.0, over=10.0))
PAUSED = (Step(20.0, hold=5.0), Step(pause=True), Step(50.0, hold=5.0))
LEASE = 15.0
QUERY = {
    "query": np.array([[b'{"text": "red"}']], dtype=np.object_),
    "documents": np.array([[b'{"text": "a"}', b'{"text": "b"}']], dtype=np.object_),
}


def splitting(place: Place, steps: tuple[Step, ...] = STEPS, **traffic: Any) -> Plane:
    options = TrafficConfig(steps=steps, shadow_share=0.0, lease=LEASE, **traffic)
    return Plane(place, traffic=options, live=LiveConfig(min_requests=3))


@pytest.fixture
def plane(place):
    made = splitting(place)
    yield made
    made.close()


@pytest.fixture
def pausing(place):
    made = splitting(place, PAUSED)
    yield made
    made.close()


def asked(place: Place, requests: int = 20) -> set[int]:
    """Clients ask the alias of every server; the versions that answered. Every one of them is answered."""
    answers = [s.infer(NAME, None, QUERY, 1.0) for s in place.servers.values() for _ in range(requests)]
    return {int(a["model_version"][0, 0]) for a in answers}


def turns(place: Place, plane: Plane, count: int, *, clients: bool = True) -> list[dict[str, Any]]:
    """So many seconds of the loop; what the status said in each."""
    seen = []
    for _ in range(count):
        if clients:
            asked(place)
        plane.turn()
        seen.append(encode(plane.app.status().services[0]))
        place.now += 1.0
    return seen


def until(place: Place, plane: Plane, condition: Callable[[], object], what: str) -> list[dict[str, Any]]:
    """Turn with clients about until a condition holds; what the status said on the way."""
    seen: list[dict[str, Any]] = []
    while not condition():
        assert len(seen) < 150, f"never: {what}; {plane.service.decision}"
        seen += turns(place, plane, 1)
    return seen


def split(place: Place, plane: Plane) -> None:
    """Version 2 has its first share of the traffic of version 1 on every server."""
    place.drop(1)
    plane.live(1)
    place.drop(2)
    until(place, plane, lambda: shares(place) == {20.0}, "the first share")


def shares(place: Place) -> set[float]:
    """The candidate's share of traffic, in percent, on the servers."""
    splitters = [s.models.splitters.get(SPLITTER) for s in place.servers.values()]
    return {0.0 if s is None else s.weight() for s in splitters}


def progress(plane: Plane) -> float:
    rollout = plane.journal.rollouts.current(NAME)
    assert rollout is not None
    return rollout.progress


def events(plane: Plane, kind: str) -> list[dict[str, Any]]:
    return [e for e in plane.journal.events.newest(service=NAME, limit=1000) if e["kind"] == kind]


def nothing_left(place: Place, version: int) -> None:
    assert not place.files.splitter_dir.exists()
    assert asked(place) == {version}
    for server in place.servers.values():
        states = {m.state for m in server.index().get(SPLITTER, {}).values()}
        assert states <= {ModelState.UNAVAILABLE}
        assert server.step(NAME) == ENGINE


def test_the_whole_way_on_two_servers(place):
    two = Place(place.root / "two", servers=2)
    plane = splitting(two)
    split(two, plane)
    assert asked(two, 100) == {1, 2}
    seen = until(two, plane, lambda: plane.rests_at(2), "version 2 live")
    weights = [s["weight"] for s in seen if s["phase"] == "shifting"]
    assert weights == sorted(weights)
    assert weights[0] == 20
    assert any(20 < w < 50 for w in weights)
    nothing_left(two, 2)
    rollout = plane.journal.rollouts.newest(service=NAME)[0]
    assert (rollout.outcome, rollout.progress) == (Outcome.LIVE, 20.0)
    assert rollout.gates[Gate.LIVE].verdict is Verdict.PASS
    samples = rests_on(rollout.gates[Gate.LIVE], LiveEvidence).samples
    assert samples is not None
    assert samples.candidate >= 3
    plane.close()


def test_what_the_status_shows(place, plane):
    split(place, plane)
    asked(place, 100)
    shown = turns(place, plane, 2)[-1]
    assert (shown["phase"], shown["stable"], shown["candidate"], shown["weight"]) == ("shifting", 1, 2, 20)
    assert shown["step"]["index"] == 1
    assert shown["step"]["count"] == 3
    assert shown["step"]["name"] == "20 % for 10 s"
    assert shown["steps"] == ["20 % for 10 s", "to 50 % over 10 s", "100 %"]
    traffic = shown["traffic"]
    assert traffic["weight"] == 20
    assert 5 < traffic["observed"] < 40
    assert traffic["requests"]["candidate"] > 0
    assert 0 < traffic["lease_left_s"] <= traffic["lease_s"] == LEASE
    assert 0 < traffic["eta_s"] <= 20
    assert "live" in [g["name"] for g in shown["gates"]]
    plane.app.abort(None, who="ann")
    shown = until(place, plane, lambda: plane.ended(2), "the end")[-1]
    assert (shown["weight"], shown["traffic"], shown["candidate"]) == (0, None, None)
    assert plane.ended(2) is Outcome.ROLLED_BACK
    nothing_left(place, 1)


def test_no_route_is_sent_for_longer_than_the_journal_says(place, plane, monkeypatch):
    """Renewed first, then sent: what is not written down holds nowhere."""
    sent: list[float] = []
    too_long: list[str] = []
    control = FakeSplitter.control

    def looking(self: FakeSplitter, inputs: Any, under_way: Any) -> Any:
        route = json.loads(inputs["baton_control"].reshape(-1)[0])["route"]
        if route["candidate"] is not None:
            rollout = plane.journal.rollouts.current(NAME)
            end = place.now + route["lease_s"]
            sent.append(end)
            if rollout is None or rollout.renewed_at is None or end > rollout.renewed_at + LEASE + 0.001:
                too_long.append(f"until {end}, renewed {rollout and rollout.renewed_at}")
        return control(self, inputs, under_way)

    monkeypatch.setattr(FakeSplitter, "control", looking)
    split(place, plane)
    until(place, plane, lambda: plane.rests_at(2), "version 2 live")
    assert len(set(sent)) > 3, "it was renewed again and again"
    assert not too_long


def test_a_route_that_is_sent_late_makes_no_lease_longer(place, plane, monkeypatch):
    """The control plane was stopped after it decided: what goes out when it wakes is of before."""
    held: list[Callable[[], Any]] = []

    def start(effect: Any, work: Callable[[Any], Any]) -> None:
        if isinstance(effect, Steer):
            held.append(lambda: work(None))

    split(place, plane)
    with monkeypatch.context() as patched:
        patched.setattr(plane.service.tasks, "start", start)
        place.now += 2.0
        plane.loop.once()
    assert held, "a route was about to be sent"
    place.now += LEASE + 1.0
    held[0]()
    assert shares(place) == {0.0}


def test_a_clock_that_is_set_back_makes_no_lease_longer(place, plane):
    split(place, plane)
    place.now -= 3600.0
    for server in place.servers.values():
        server.models.splitters[SPLITTER]._until = 0.0
    plane.service.splitter_client.forget("a")
    plane.turn()
    ends = {s.models.splitters[SPLITTER]._until - place.now for s in place.servers.values()}
    assert 0.0 < max(ends) <= LEASE


def test_a_journal_that_cannot_be_written_lets_the_lease_end(place, plane):
    split(place, plane)
    disk = plane.journal.database.connection = Full(plane.journal.database.connection)  # type: ignore[assignment]
    disk.full = True
    before = progress(plane)
    turns(place, plane, 5)
    assert shares(place) == {20.0}, "the lease holds for a while"
    assert "disk is full" in plane.service.decision.message
    turns(place, plane, int(LEASE))
    assert shares(place) == {0.0}
    assert asked(place) == {1}
    assert progress(plane) == before
    disk.full = False
    until(place, plane, lambda: shares(place) == {20.0}, "the split goes on")
    assert len(events(plane, "lapse")) == 1
    until(place, plane, lambda: plane.rests_at(2), "version 2 live")
    nothing_left(place, 2)


@pytest.mark.parametrize("on_lapse", ["resume", "rollback"])
def test_a_control_plane_that_is_away_for_longer_than_the_lease(place, on_lapse):
    first = splitting(place, on_lapse=on_lapse)
    split(place, first)
    first.abandon()
    place.now += 40.0
    assert shares(place) == {0.0}
    assert asked(place, 100) == {1}, "stable alone, with nobody's help"
    second = splitting(place, on_lapse=on_lapse)
    until(place, second, lambda: second.ended(2), "the end")
    if on_lapse == "resume":
        [lapse] = events(second, "lapse")
        assert lapse["data"]["away_s"] > 40
        assert lapse["why"].reason is Reason.LEASE_LAPSED
        assert second.ended(2) is Outcome.LIVE
    else:
        assert not events(second, "lapse")
        assert second.ended(2) is Outcome.ROLLED_BACK
        assert second.journal.rollouts.newest(service=NAME)[0].ended_why.reason is Reason.LEASE_ENDED
    nothing_left(place, 2 if on_lapse == "resume" else 1)
    second.close()


def test_a_control_plane_that_starts_again_within_the_lease_goes_on(place):
    first = splitting(place)
    split(place, first)
    turns(place, first, 7)
    before = progress(first)
    first.abandon()
    assert before > 0
    place.now += 5.0
    assert shares(place) == {20.0}
    second = splitting(place)
    turns(place, second, 1)
    assert shares(place) == {20.0}
    assert progress(second) == before, "evidence is gathered anew first"
    until(place, second, lambda: second.rests_at(2), "version 2 live")
    assert not events(second, "lapse")
    second.close()


def test_promote_lets_it_past_a_pause_step(place, pausing):
    split(place, pausing)
    until(place, pausing, lambda: pausing.phase() is Phase.WAITING, "the pause")
    shown = turns(place, pausing, 20)[-1]
    assert (shown["phase"], shown["weight"], shown["step"]["index"]) == ("waiting", 20, 2)
    assert shown["step"]["name"] == "pause"
    assert shown["traffic"]["eta_s"] is None
    assert pausing.service.decision.why.reason is Reason.PAUSE_STEP
    assert shares(place) == {20.0}, "the lease is kept up for a person who takes long"
    pausing.app.promote(None, None, full=False, who="ann")
    seen = until(place, pausing, lambda: pausing.rests_at(2), "version 2 live")
    assert sum(s["weight"] == 50 for s in seen) >= 5, "the whole of the next step"
    assert pausing.journal.rollouts.newest(service=NAME)[0].approvals == 1
    assert [e["who"] for e in events(pausing, "promote")] == ["ann"]


def test_promote_before_a_pause_step_lets_nothing_past_it(place, pausing):
    split(place, pausing)
    pausing.app.promote(None, None, full=False, who="ann")
    until(place, pausing, lambda: pausing.phase() is Phase.WAITING, "the pause")
    turns(place, pausing, 10)
    assert pausing.phase() is Phase.WAITING


def test_full_skips_the_steps_that_remain(place, pausing):
    split(place, pausing)
    pausing.app.promote(None, None, full=True, who="ann")
    turns(place, pausing, 3)
    assert place.files.alias() == 2
    until(place, pausing, lambda: pausing.rests_at(2), "version 2 live")
    rollout = pausing.journal.rollouts.newest(service=NAME)[0]
    assert rollout.full
    assert rollout.progress < 10
    nothing_left(place, 2)


@pytest.mark.parametrize("promoted", [False, True])
def test_pause_freezes_the_share(place, plane, promoted):
    """Also that of a rollout which a person promoted before: the last word counts."""
    split(place, plane)
    if promoted:
        plane.app.promote(None, None, full=False, who="ann")
    plane.app.pause(who="ann")
    before = progress(plane)
    turns(place, plane, 20)
    assert plane.service.decision.why.reason is Reason.PAUSED_ON_ITS_WAY
    assert progress(plane) == before
    assert shares(place) == {20.0}
    plane.app.resume(who="ann")
    until(place, plane, lambda: plane.rests_at(2), "version 2 live")


def test_without_traffic_nothing_is_promoted(place, plane):
    split(place, plane)
    place.now += 60.0  # what clients said before says nothing any more
    turns(place, plane, 3, clients=False)
    before = progress(plane)
    shown = turns(place, plane, 40, clients=False)[-1]
    assert shown["weight"] == 20
    assert plane.service.decision.why.reason is Reason.HOLDING
    assert shown["traffic"]["waiting_for"]
    assert progress(plane) == before
    assert plane.journal.rollouts.current(NAME).gates[Gate.LIVE].verdict is Verdict.HOLD
    until(place, plane, lambda: plane.rests_at(2), "version 2 live, with clients again")


def test_a_candidate_that_fails_under_traffic_goes_back(place, plane):
    split(place, plane)
    place.servers["a"].versions[2] = Behaviour(answer_error="out of memory")
    until(place, plane, lambda: plane.ended(2), "the end")
    rollout = plane.journal.rollouts.newest(service=NAME)[0]
    assert rollout.outcome is Outcome.ROLLED_BACK
    assert rollout.gates[Gate.LIVE].verdict is Verdict.FAIL
    assert rollout.stop.gate is Gate.LIVE
    assert "out of memory" in str(rollout.ended_why)
    nothing_left(place, 1)
    turns(place, plane, 5)
    assert plane.journal.rollouts.current(NAME) is None, "only a person brings it again"


def test_a_splitter_that_refuses_its_route_is_taken_out(place, plane, monkeypatch):
    def refuse(*_: object) -> None:
        raise TritonError("baton_control: the process is broken")

    split(place, plane)
    monkeypatch.setattr(FakeSplitter, "control", refuse)
    until(place, plane, lambda: plane.ended(2), "the end")
    rollout = plane.journal.rollouts.newest(service=NAME)[0]
    assert rollout.outcome is Outcome.ROLLED_BACK
    assert rollout.ended_why.reason is Reason.SPLITTER_SILENT
    nothing_left(place, 1)


def test_a_splitter_whose_process_ended_is_asked_nothing(place, plane, monkeypatch):
    """Its queue would tell late: Triton fails each request in it after a second."""
    plane.service.split._processes = machine = Machine()
    split(place, plane)
    monkeypatch.setattr(FakeSplitter, "control", lambda *_: pytest.fail("it was asked"))
    machine.runs = 0
    until(place, plane, lambda: plane.ended(2), "the end")
    rollout = plane.journal.rollouts.newest(service=NAME)[0]
    assert rollout.outcome is Outcome.ROLLED_BACK
    assert rollout.ended_why == because(Reason.SPLITTER_SILENT, server="a", error="its process has ended.")
    nothing_left(place, 1)


def test_a_server_that_restarts_in_mid_split_joins_it_again(place):
    two = Place(place.root / "two", servers=2)
    plane = splitting(two)
    split(two, plane)
    two.servers["b"].restart()
    assert two.servers["b"].models.splitters[SPLITTER].weight() == 0.0, "it knows no route yet"
    turns(two, plane, 1, clients=False)
    until(two, plane, lambda: len(shares(two)) == 1, "both follow the same route")
    until(two, plane, lambda: plane.rests_at(2), "version 2 live")
    nothing_left(two, 2)
    plane.close()


@pytest.mark.slow
def test_a_crash_before_any_act_of_a_split(place):
    """One version after the other comes; the control plane dies a little later each time, and another one goes on."""

    def brisk() -> Plane:
        return splitting(place, (Step(50.0, hold=2.0),), interval=1.0)

    first = brisk()
    place.drop(1)
    first.live(1)
    first.close()
    for version, blows_at in enumerate(range(1, 400, 1 if MANY else 4), 2):
        plane = brisk()
        place.drop(version)
        with pytest.MonkeyPatch.context() as patched:
            fuse = Fuse(plane, patched, blows_at)
            with contextlib.suppress(Crash):
                until(place, plane, lambda p=plane, f=fuse, v=version: f.blown or p.ended(v), "the end, or the crash")
        plane.abandon()
        second = brisk()
        until(place, second, lambda p=second, v=version: p.rests_at(v), f"version live after act {blows_at}")
        turns(place, second, 1)
        second.close()
        nothing_left(place, version)
        assert {n for (model, _), n in place.servers["a"].loads.items() if model == ENGINE} == {1}
        shutil.rmtree(place.files.folder(version - 1))
        if not fuse.blown:
            break
    else:
        pytest.fail("a rollout has no end")
    assert blows_at > 50, "every act was met"


def sent_salts(place: Place) -> set[str]:
    """What the splitters of all servers hash ids with."""
    routes = [s.models.splitters[SPLITTER]._route for s in place.servers.values()]
    return {route["salt"] for route in routes if route is not None}


def test_ids_stay_where_they_are_when_the_control_plane_comes_back(place, plane):
    split(place, plane)
    (salt,) = sent_salts(place)
    plane.abandon()
    after = splitting(place)
    turns(place, after, 3)
    assert sent_salts(place) == {salt}
    assert shares(place) == {20.0}
    after.close()


def test_the_salt_is_told_to_the_splitters_alone(place, plane):
    split(place, plane)
    (salt,) = sent_salts(place)
    assert len(bytes.fromhex(salt)) >= 16, "nobody guesses it"
    turns(place, plane, 2)
    row = plane.app.history(NAME)[0]
    facts = plane.app.status(), plane.app.rollout(row.id), plane.app.history(NAME)
    shown = [encode(facts), plane.journal.events.newest()]
    assert salt not in json.dumps(shown, default=lambda why: why.data())
    registry = CollectorRegistry()
    registry.register(ControlCollector(plane.app))
    assert salt not in generate_latest(registry).decode()
    for file in place.root.rglob("*"):
        if file.is_file() and "state" not in file.relative_to(place.root).parts:
            assert salt.encode() not in file.read_bytes(), file


def test_another_rollout_sends_the_same_ids_other_ways(place, plane):
    split(place, plane)
    (salt,) = sent_salts(place)
    plane.app.abort(None, who="ann")
    until(place, plane, lambda: plane.ended(2), "the end")
    place.drop(3)
    until(place, plane, lambda: shares(place) == {20.0}, "the first share")
    assert sent_salts(place).isdisjoint({salt})


def told_of(plane: Plane) -> tuple[list[dict[str, Any]], list[str]]:
    """What the status says the splitters do, and what it warns of."""
    shown = encode(plane.app.status().services[0])
    return (shown["traffic"] or {}).get("splitters", []), shown["problems"]


def steer_as(place: Place, token: str, **route: Any) -> None:
    """Somebody else sends server a's splitter a route."""
    asked = {"candidate": 2, "weight": 20.0, "shadow": 0.0, "contents": False, "lease_s": 5.0} | route
    text = json.dumps({"token": token, "route": asked}).encode()
    place.servers["a"].infer(SPLITTER, 1, {"baton_control": np.array([[text]], dtype=np.object_)}, 1.0)


def token_of(place: Place) -> str:
    return token_file(place.root / "state", NAME).read_text().strip()


def test_the_status_shows_what_the_splitter_does_by_its_own_word(place, plane):
    split(place, plane)
    [does], problems = told_of(plane)
    assert does == {
        "server": "a",
        "candidate": 2,
        "weight": 20.0,
        "shadow": 0.0,
        "contents": False,
        "lease_left_s": does["lease_left_s"],
        "answered_s": does["answered_s"],
    }
    assert 0 < does["lease_left_s"] <= LEASE
    assert problems == []


def test_a_lease_that_ran_out_is_told(place, plane, monkeypatch):
    """What was asked for is 20 %; what happens is none."""
    split(place, plane)
    monkeypatch.setattr(plane.service.split, "steer", lambda _view: None)
    place.now += LEASE + 1.0
    plane.turn()
    [does], [problem] = told_of(plane)
    assert (does["candidate"], does["weight"], does["lease_left_s"]) == (None, 0.0, 0.0)
    assert problem == (
        "The splitter on server a follows no route (the stable version alone answers), and was asked for 20 % to "
        "version 2, 0 % mirrored, no documents kept."
    )


def test_somebody_else_who_steers_is_told_of_and_replaced(place, plane, caplog):
    split(place, plane)
    steer_as(place, token_of(place), weight=7.0)
    assert shares(place) == {7.0}
    turns(place, plane, 2)
    assert shares(place) == {20.0}
    _, [problem] = told_of(plane)
    assert "followed a route that this control plane did not send: 7 % to version 2" in problem
    assert "Somebody else has its token" in problem
    assert caplog.text.count("did not send") == 1
    assert plane.service.decision.phase is Phase.SHIFTING


def test_one_whose_route_may_have_come_is_nobody_else(place, plane, monkeypatch):
    """The answer to it was lost, and the share goes on in the meantime."""
    split(place, plane)
    control, lost = FakeSplitter.control, [True] * 5

    def answers_too_late(self: FakeSplitter, inputs: Any, under_way: Any) -> Any:
        answer = control(self, inputs, under_way)
        if lost:
            lost.pop()
            raise TimedOut("no answer within a second")
        return answer

    place.now += 10.0
    monkeypatch.setattr(FakeSplitter, "control", answers_too_late)
    monkeypatch.setattr(traffic, "UNANSWERED_ROUTES", 100)
    seen = turns(place, plane, 30)
    assert not lost
    assert [s["problems"] for s in seen if any("did not send" in p for p in s["problems"])] == []


@pytest.mark.parametrize("more", [{"weight": 51.0}, {"shadow": 1.0}, {"lease_s": LEASE + 1}, {"contents": True}])
def test_nobody_gets_more_than_is_configured(place, plane, more):
    split(place, plane)
    with pytest.raises(InvalidRequest):
        steer_as(place, token_of(place), **more)
    assert shares(place) == {20.0}


@pytest.mark.parametrize("how", ["lost", "other caps"])
def test_files_that_no_longer_fit_are_renewed_in_mid_split(place, how):
    first = splitting(place)
    split(place, first)
    before = token_of(place)
    first.abandon()
    if how == "lost":
        token_file(place.root / "state", NAME).unlink()
    second = splitting(place, contents=how == "other caps")
    until(
        place,
        second,
        lambda: not place.servers["a"].models.splitters[SPLITTER].weight(),
        "the new one knows no route yet",
    )
    seen = until(place, second, lambda: shares(place) == {20.0}, "the split goes on")
    assert len(seen) < 5
    assert token_of(place) != before
    turns(place, second, 3)
    [does], problems = told_of(second)
    assert (does["weight"], does["contents"], problems) == (20.0, how == "other caps", [])
    assert place.servers["a"].loads[SPLITTER, 1] == 2
    until(place, second, lambda: second.rests_at(2), "version 2 live")
    second.close()


def test_a_splitter_that_never_takes_the_token_ends_the_split(place, plane, monkeypatch):
    def refuse(*_: object) -> None:
        raise InvalidRequest("baton_control: the token is missing or wrong")

    split(place, plane)
    monkeypatch.setattr(FakeSplitter, "control", refuse)
    seen = until(place, plane, lambda: plane.ended(2), "the end")
    rollout = plane.journal.rollouts.newest(service=NAME)[0]
    assert rollout.outcome is Outcome.ROLLED_BACK
    assert rollout.ended_why.reason is Reason.SPLITTER_SILENT
    assert "the token is missing or wrong" in rollout.ended_why.figures["error"]
    assert any("takes no route from this control plane" in p for s in seen for p in s["problems"])
    assert len(events(plane, "sync")) < 20
    nothing_left(place, 1)
