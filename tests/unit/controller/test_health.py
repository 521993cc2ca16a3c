"""What an ended process tells about a version, before any question could."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness.waiting import until
from tests.support.toy import engine_config
from tests.unit.controller.plane import ENGINE, NAME, Machine

from baton.config import HealthConfig, ServiceConfig
from baton.controller.health import Health
from baton.controller.tasks import Tasks
from baton.domain import ModelState
from baton.errors import TimedOut, Unreachable
from baton.reasons import Reason, Why, because
from baton.testing import Behaviour, DiskRepository, FakeTriton
from baton.triton.quarantine import QuarantineTriton

PAIR = {"query": np.array([[b"q"]], dtype=np.object_), "documents": np.array([[b"{}"]], dtype=np.object_)}


class Bench:
    """Health over one fake server on which version 1 serves."""

    def __init__(self, root: Path) -> None:
        self.now = 1_000_000.0
        engine = root / ENGINE
        engine.mkdir()
        (engine / "config.pbtxt").write_text(engine_config(ENGINE, [1]))
        (engine / "1").mkdir()
        self.server = FakeTriton("a", DiskRepository(root), clock=lambda: self.now)
        self.server.load(ENGINE, 1.0)
        self.machine = Machine()
        self.tasks = Tasks(NAME, lambda: self.now, lambda: None)
        self.told: list[Why] = []
        self.asked = 0
        config = ServiceConfig(NAME, ENGINE, health=HealthConfig(every=600.0, timeout=5.0, failures=4))
        ports: Any = SimpleNamespace(servers={"a": self.server}, engines=self.machine, clock=lambda: self.now)
        self.health = Health(config, ports, self._ask, self.tasks, self._tell)

    def _ask(self, server: Any, version: int, timeout_s: float) -> None:
        self.asked += 1
        server.infer(ENGINE, version, PAIR, timeout_s)

    def _tell(self, why: Why, _figures: Any) -> None:
        self.told.append(why)

    def look(self) -> dict[tuple[str, int], str]:
        """One look by the loop, and what it finds; no time goes by."""
        server = SimpleNamespace(name="a", serving=lambda: frozenset({1}), ready=lambda: frozenset({1}))
        view: Any = SimpleNamespace(now=self.now, rollout=None, running=frozenset(), live=lambda: [server])
        view.servers = [server]
        self.health.watch(view)
        until(lambda: not self.tasks.running(), "the question is answered")
        return {key: unhealthy.reason for key, unhealthy in self.health.unhealthy().items()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    assert bench.look() == {}
    assert bench.asked == 1
    yield bench
    bench.tasks.close()


def test_an_ended_process_is_found_at_once_and_without_a_question(bench):
    bench.machine.runs = 0
    assert bench.look() == {("a", 1): "its process has ended"}
    assert bench.asked == 1, "who waits for an answer of the dead waits for the whole of the time"
    assert bench.told == [because(Reason.FOUND_SILENT, version=1, server="a", error="its process has ended")]
    assert bench.look() == {("a", 1): "its process has ended"}, "no haste to ask again"
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0))
    assert bench.machine.ended == 1
    assert bench.look() == {}
    assert bench.server.loads[ENGINE, 1] == 2


def test_one_of_several(bench, monkeypatch):
    monkeypatch.setattr(bench.server, "instances", lambda _model, _version: 4)
    bench.machine.runs = bench.machine.known = 4
    assert bench.look() == {}
    bench.machine.runs = 3
    assert bench.look() == {("a", 1): "1 of its 4 processes ended"}
    bench.now += 1.0
    assert bench.look() == {("a", 1): "1 of its 4 processes ended"}, "although the others answer"
    bench.now += 60.0
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0))
    assert bench.server.loads[ENGINE, 1] == 2, "however well the others answer"


def test_a_version_that_triton_loaded_anew_is_well(bench):
    bench.machine.known = 2
    assert bench.look() == {}
    assert bench.asked == 2, "it is asked, and watched anew"
    assert bench.machine.known == 1


def test_a_version_that_triton_gave_up_is_loaded_again_without_another_question(bench):
    bench.now += 600.0  # its turn has come
    bench.health.ports.servers = {
        "a": QuarantineTriton(bench.server, lambda server, _model, version: bench.machine.end(server, version))
    }
    bench.server.versions[1] = Behaviour(answer_error="Stub process 'x' is not healthy.")
    assert list(bench.look()) == [("a", 1)], "at once, and not after so many failures"
    assert bench.machine.ended == 1, "before it can wake"
    bench.now += 60.0
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0) or bench.server.versions.clear())
    assert bench.server.loads[ENGINE, 1] == 2
    assert bench.machine.ended == 2
    assert bench.look() == {}


def test_without_a_question_an_ended_process_is_found_and_loaded_again(bench):
    bench.health.question = None
    assert bench.look() == {}
    bench.machine.runs = 0
    assert bench.look() == {("a", 1): "its process has ended"}
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0))
    assert bench.server.loads[ENGINE, 1] == 2
    again = bench.told[-1]
    assert (again.reason, again.figures["version"], again.figures["server"]) == (Reason.LOADED_AGAIN, 1, "a")
    assert bench.look() == {}
    assert bench.asked == 1
    assert bench.health.answered() is None


def test_what_came_back_while_it_was_being_judged_is_left_alone(bench, monkeypatch):
    index = bench.server.index

    def slow():
        if bench.machine.runs == 0:
            bench.now += 30.0
            bench.machine.runs = bench.machine.known = 1  # the server restarted meanwhile
        return index()

    monkeypatch.setattr(bench.server, "index", slow)
    bench.machine.runs = 0
    assert bench.look() == {("a", 1): "its process has ended"}
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0))
    assert bench.server.loads[ENGINE, 1] == 1
    assert bench.told[-1] == because(Reason.ANSWERS_AGAIN, version=1, server="a")


def test_a_question_that_this_process_slept_through_is_put_again(bench, monkeypatch):
    def sleep(_server, _version, _timeout_s):
        bench.now += 60.0
        raise TimedOut("no answer in time")

    with monkeypatch.context() as slept:
        slept.setattr(bench.health, "question", sleep)
        while not bench.look():
            bench.now += 1.0
    bench.health.reload("a", 1, lambda: bench.server.load(ENGINE, 1.0))
    assert bench.server.loads[ENGINE, 1] == 1
    assert bench.told[-1] == because(Reason.ANSWERS_AGAIN, version=1, server="a")


def test_a_version_that_leaves_is_not_sick(bench, monkeypatch):
    bench.machine.runs = 0
    slot = bench.server.models.slots[ENGINE][1]
    slot.state = ModelState.UNLOADING
    assert bench.look() == {}
    assert bench.told == []


def test_a_server_that_went_away_with_its_processes(bench):
    bench.machine.runs = 0
    bench.server.reachable = False
    with pytest.raises(Unreachable):
        bench.server.index()
    assert bench.look() == {}
    assert bench.told == []


def late(bench: Bench, monkeypatch: pytest.MonkeyPatch, *, works: bool) -> bool:
    """Whether a version that answers nobody in time is called sick within 20 questions."""

    def wait(_server, _version, _timeout_s):
        if works:
            bench.server.versions[1] = Behaviour(heartbeats=bench.server.versions[1].heartbeats + 1)
        raise TimedOut("no answer in time")

    bench.server.versions[1] = Behaviour(heartbeats=7.0)
    monkeypatch.setattr(bench.health, "question", wait)
    for _ in range(20):
        bench.now += 600.0
        if bench.look():
            return True
    return False


def test_a_version_that_works_is_busy_however_late_it_is(bench, monkeypatch):
    assert not late(bench, monkeypatch, works=True)
    assert bench.told == []


def test_a_version_that_hangs_is_found_by_its_want_of_signs(bench, monkeypatch):
    assert late(bench, monkeypatch, works=False)


def test_where_no_signs_are_to_be_had_the_answers_decide_alone(bench, monkeypatch):
    monkeypatch.setattr(bench.server, "_metrics", False)
    assert late(bench, monkeypatch, works=True)
    monkeypatch.setattr(bench.server, "_metrics", True)
    monkeypatch.setattr(bench.server, "heartbeats", lambda: (_ for _ in ()).throw(Unreachable("no metrics")))
    bench.health._records.clear()
    assert late(bench, monkeypatch, works=True)
