"""What serves is asked all the time: what counts as dead, what does not, and what is done about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from harness.waiting import until
from tests.unit.controller.plane import ENGINE, NAME, Place, Plane

from baton.domain import Gate, GateResult, Outcome, Phase, Verdict
from baton.errors import BatonError, InvalidRequest, TimedOut, TritonError, Unreachable
from baton.reasons import Reason
from baton.triton.port import Counts, Triton


class Asked:
    """The question; it fails as it is told to, else as the server answers."""

    def __init__(self) -> None:
        self.error: BatonError | None = None
        self.times = 0

    def __call__(self, server: Triton, version: int, timeout_s: float) -> None:
        self.times += 1
        if self.error is not None:
            raise self.error
        item = np.array([[b'{"text": "red"}']], dtype=np.object_)
        server.infer(ENGINE, version, {"query": item, "documents": item}, timeout_s)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def plane(place: Place, asked: Asked) -> Iterator[Plane]:
    made = Plane(place)
    made.service.health.question = asked
    place.drop(1)
    made.live(1)
    made.run(lambda: made.service.health.status(1), "it is asked")
    yield made
    made.close()


def told(plane: Plane, kind: str = "health") -> list[Reason]:
    return [e["why"].reason for e in plane.journal.events.newest(service=NAME) if e["kind"] == kind]


def failures(plane: Plane, asked: Asked, most: int = 40) -> int | None:
    """How many failed questions in a row condemn what serves; None when so many do not."""
    before = asked.times
    for _ in range(10 * most):
        plane.turn()
        if told(plane):
            return asked.times - before
        if asked.times - before >= most:
            return None
        plane.place.now += 1.0
    raise AssertionError(f"it is hardly asked: {asked.times - before} times")


def unloads(place: Place) -> int:
    return place.servers["a"].calls.count(("unload", ENGINE))


def test_a_dead_version_is_found_loaded_again_and_told_of(place, plane):
    place.servers["a"].die(ENGINE, 1)
    plane.run(lambda: len(told(plane)) >= 2, "it is mended")
    assert told(plane)[:2] == [Reason.FOUND_SILENT, Reason.LOADED_AGAIN]
    assert told(plane, "reload") == [Reason.ENGINE_RELOADED]
    assert place.servers["a"].loads[ENGINE, 1] == 2
    plane.run(lambda: plane.service.decision.phase is Phase.STEADY, "rest")
    assert [one.healthy for one in plane.service.health.status(1)] == [True] * len(place.servers)


@pytest.mark.parametrize("met", [True, False])
def test_a_version_that_failed_somebody_is_asked_at_once(place, plane, asked, met):
    server = place.servers["a"]
    plane.turn()
    before = asked.times
    server.die(ENGINE, 1)
    if met:
        item = np.array([[b'{"text": "red"}']], dtype=np.object_)
        with pytest.raises(TritonError):
            server.infer(NAME, None, {"query": item, "documents": item}, 1.0)
    place.now += 1.0
    for _ in range(5):
        plane.turn()
    assert asked.times - before == int(met)


def test_two_errors_in_a_row_condemn(plane, asked):
    asked.error = TritonError("CUDA error: an illegal memory access was encountered")
    assert failures(plane, asked) == 2


def test_one_error_does_not(place, plane, asked):
    for _ in range(5):
        asked.error = TritonError("out of memory for a moment")
        before = asked.times
        while asked.times == before:
            plane.turn()
            place.now += 1.0
        asked.error = None
        before = asked.times
        while asked.times == before:
            plane.turn()
            place.now += 1.0
    assert told(plane) == []


def test_late_answers_condemn_when_nobody_was_answered_meanwhile(plane, asked):
    asked.error = TimedOut("took longer than 5 s")
    assert failures(plane, asked) == 3


def test_late_answers_condemn_later_where_nothing_is_counted(place, plane, asked, monkeypatch):
    def refused() -> None:
        raise TritonError("statistics: this protocol is restricted")

    monkeypatch.setattr(place.servers["a"], "counts", refused)
    asked.error = TimedOut("took longer than 5 s")
    assert failures(plane, asked) == 6


def test_what_answers_others_meanwhile_is_slow_and_left_alone(place, plane, asked, monkeypatch):
    asked.error = TimedOut("took longer than 5 s")
    monkeypatch.setattr(place.servers["a"], "counts", lambda: {ENGINE: {1: Counts(asked.times, 0)}})
    assert failures(plane, asked) is None
    assert unloads(place) == 0


@pytest.mark.parametrize("error", [InvalidRequest("documents: too long"), Unreachable("away")])
def test_no_word_against_the_version(place, plane, asked, error):
    asked.error = error
    assert failures(plane, asked) is None
    assert unloads(place) == 0


def test_a_version_that_is_not_ready_is_no_news(place, plane, asked):
    place.servers["a"].unload(ENGINE, 1.0)
    asked.error = TritonError("not found")
    health = plane.service.health
    assert health._bad(("a", 1), place.now, asked.error) is False
    assert health.unhealthy() == {}


def test_what_answers_again_by_itself_is_left_alone(place, plane, asked):
    health = plane.service.health
    asked.error = TritonError("Stub process is not healthy.")
    for _ in range(2):
        health._bad(("a", 1), place.now, asked.error)
    assert set(health.unhealthy()) == {("a", 1)}
    asked.error = None
    place.now += 30.0
    health.reload("a", 1, lambda: pytest.fail("it is loaded again"))
    assert health.unhealthy() == {}
    assert unloads(place) == 0
    assert told(plane)[-1] is Reason.ANSWERS_AGAIN


def test_a_reload_that_does_not_help_is_repeated_more_and_more_seldom(place, plane, asked):
    asked.error = TritonError("CUDA error")
    for _ in range(120):
        plane.turn()
        place.now += 1.0
    assert plane.service.decision.phase is Phase.DEGRADED
    why = plane.service.decision.why
    assert (why.reason, why.figures["failed"][:10]) == (Reason.RELOAD_FAILED, "CUDA error")
    assert 2 <= unloads(place) <= 4
    asked.error = None
    plane.run(lambda: plane.service.decision.phase is Phase.STEADY, "rest")
    assert told(plane)[-1] is Reason.ANSWERS_AGAIN


def test_a_gate_under_way_does_not_blame_its_candidate(place, plane):
    called_off = threading.Event()

    def latency(_rollout: object, cancelled: object) -> GateResult:
        assert callable(cancelled)
        until(cancelled, "the gate is called off")
        called_off.set()
        return GateResult(Gate.LATENCY, Verdict.FAIL, "the version is gone")

    place.answers.order[Gate.LATENCY] = latency
    place.drop(2)
    until(lambda: plane.turn(wait=False) or place.answers.asked[Gate.LATENCY], "the gate is asked")
    place.servers["a"].die(ENGINE, 1)

    def found() -> bool:
        plane.turn(wait=False)
        place.now += 0.5
        return bool(told(plane))

    until(found, "the death is found")
    until(lambda: plane.turn(wait=False) or called_off.is_set(), "the gate is called off")
    del place.answers.order[Gate.LATENCY]
    plane.live(2)
    assert plane.ended(2) is Outcome.LIVE
    assert place.answers.asked[Gate.LATENCY] >= 2, "it is asked anew"
