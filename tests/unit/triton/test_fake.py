"""Faults that can be ordered of the fake, and restarts: what the real server can't be made to do on demand."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from harness.waiting import until

from baton.domain import ModelState
from baton.errors import TimedOut, TritonError, Unreachable
from baton.testing import Behaviour, FakeTriton, ModelFiles

ASKED = {
    "query": np.array([[b'{"text": "q"}']], dtype=np.object_),
    "documents": np.array([[b'{"text": "a"}', b'{"text": "b"}']], dtype=np.object_),
}


class Stage:
    """Files in memory and a clock: what the fake reads."""

    def __init__(self) -> None:
        self.now = 0.0
        self.policy = frozenset({1, 2})
        self.alias = 1
        self.server = FakeTriton("a", self, clock=lambda: self.now, boot=("public",))

    def read(self, model: str) -> ModelFiles | None:
        if model == "public":
            return ModelFiles(frozenset({self.alias}), {self.alias: ""}, {}, ("engine", self.alias))
        return ModelFiles(self.policy, {1: "one", 2: "two"}, {}) if model == "engine" else None

    def states(self, model: str = "engine") -> dict[int, ModelState]:
        return {v: m.state for v, m in self.server.index().get(model, {}).items()}


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.server.load("engine", 1.0)
    made.server.load("public", 1.0)
    return made


def test_a_restart_does_what_the_files_say(stage):
    stage.policy, stage.alias = frozenset({2}), 2
    stage.server.restart()
    assert stage.states() == {2: ModelState.READY}
    assert stage.states("public") == {2: ModelState.READY}
    assert stage.server.loads["engine", 2] == 2


def test_a_restart_with_one_broken_version_serves_none(stage):
    stage.server.versions[2] = Behaviour(load_error="out of memory")
    stage.server.restart()
    assert ModelState.READY not in {*stage.states().values(), *stage.states("public").values()}


def test_a_restart_loads_before_it_answers(stage):
    stage.server.versions[1] = Behaviour(load_s=5.0)
    stage.server.restart()
    with pytest.raises(Unreachable):
        stage.server.index()
    stage.now = 5.0
    assert stage.states("public") == {1: ModelState.READY}


def test_a_restart_without_boot_models_serves_nothing(stage):
    stage.server = FakeTriton("b", stage, clock=lambda: stage.now)
    stage.server.load("engine", 1.0)
    stage.server.restart()
    assert stage.server.index() == {}


def test_a_partition_goes_and_nothing_was_lost(stage):
    stage.server.reachable = False
    for call in (stage.server.index, lambda: stage.server.load("engine", 1.0), lambda: stage.server.inflight("engine")):
        with pytest.raises(Unreachable):
            call()
    with pytest.raises(Unreachable):
        stage.server.infer("public", None, ASKED, 1.0)
    stage.server.reachable = True
    assert stage.states("public") == {1: ModelState.READY}


def test_a_lost_answer_was_performed(stage):
    stage.policy = frozenset({1})
    stage.server.lost_answers = 1
    with pytest.raises(Unreachable):
        stage.server.load("engine", 1.0)
    assert stage.states()[2] is ModelState.UNAVAILABLE


@pytest.mark.parametrize("seconds", [10.0, math.inf])
def test_slow_and_endless_loads_follow_the_clock(stage, seconds):
    stage.policy = frozenset({1})
    stage.server.load("engine", 1.0)
    stage.policy = frozenset({1, 2})
    stage.server.versions[2] = Behaviour(load_s=seconds)
    call = stage.server.begin("load", "engine")
    stage.now = 9.0
    stage.server.advance()
    assert not call.done
    assert stage.states() == {1: ModelState.READY, 2: ModelState.LOADING}
    stage.now = 10.0
    stage.server.advance()
    assert call.done == (seconds == 10.0)


def test_a_call_times_out_by_the_clock_and_the_load_goes_on(stage):
    stage.policy = frozenset({1})
    stage.server.load("engine", 1.0)
    stage.policy = frozenset({1, 2})
    stage.server.versions[2] = Behaviour(load_s=10.0)
    errors: list[Exception] = []

    def load() -> None:
        try:
            stage.server.load("engine", 3.0)
        except TimedOut as error:
            errors.append(error)

    waiting = threading.Thread(target=load)
    waiting.start()
    until(lambda: len(stage.server.calls) == 4, "the call is under way")
    stage.now = 3.0
    waiting.join(60)
    assert len(errors) == 1
    stage.now = 10.0
    assert stage.states()[2] is ModelState.READY


def test_an_alias_waits_for_a_load_of_its_engine(stage):
    stage.policy = frozenset({1})
    stage.server.load("engine", 1.0)
    stage.policy = frozenset({1, 2})
    stage.server.versions[2] = Behaviour(load_s=10.0)
    stage.server.begin("load", "engine")
    call = stage.server.begin("load", "public")
    assert not call.done
    stage.now = 10.0
    stage.server.advance()
    assert call.done


@pytest.mark.parametrize("seconds", [4.0, math.inf])
def test_a_version_leaves_after_its_requests_and_its_time(stage, seconds):
    stage.server.versions[2] = Behaviour(leave_s=seconds)
    stage.policy = frozenset({1})
    with stage.server.request("engine", 2):
        assert stage.server.inflight("engine") == {1: 0, 2: 1}
        stage.server.load("engine", 1.0)
        stage.now = 50.0
        assert stage.states()[2] is ModelState.UNLOADING
    stage.now = 53.0
    assert stage.states()[2] is ModelState.UNLOADING
    stage.now = 54.0
    assert (stage.states()[2] is ModelState.UNAVAILABLE) == (seconds == 4.0)


def test_answers_to_order(stage):
    first = stage.server.infer("public", None, ASKED, 1.0)
    assert first["scores"].tolist() == stage.server.infer("engine", 2, ASKED, 1.0)["scores"].tolist()
    stage.server.versions[1] = Behaviour(score=math.nan)
    assert np.isnan(stage.server.infer("public", None, ASKED, 1.0)["scores"]).all()
    stage.server.versions[1] = Behaviour(score=0.5)
    assert stage.server.infer("public", None, ASKED, 1.0)["scores"].tolist() == [[0.5, 0.5]]
    stage.server.versions[1] = Behaviour(answer_error="CUDA out of memory")
    with pytest.raises(TritonError, match="CUDA out of memory"):
        stage.server.infer("public", None, ASKED, 1.0)


def test_a_server_without_metrics_knows_no_requests(stage):
    assert FakeTriton("a", stage, metrics=False).inflight("engine") is None
