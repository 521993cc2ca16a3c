"""What engine versions run in, as ``ctl status`` tells it, and the alarm where that is less than was asked for."""

from __future__ import annotations

import logging
import threading

import pytest
from tests.unit.controller.plane import ENGINE, NAME, Full, Place, Plane

from baton.controller.engine_info import EngineInfoMonitor, lowered
from baton.controller.periodic import PeriodicRunner
from baton.domain import EngineInfo
from baton.errors import Unreachable
from baton.reasons import Reason, because
from baton.testing import Behaviour, FakeTriton

GPU = EngineInfo("cuda:0", "bf16", "none", "cuda:0", "bf16")
LOWERED = EngineInfo("cpu", "fp32", "cpu", "cuda:0", "bf16")
KEYS = ("device", "dtype", "fallback")


@pytest.fixture
def two(place):
    """Two servers, version 1 live on both."""
    stage = Place(place.root / "two", servers=2)
    stage.drop(1)
    plane = Plane(stage)
    yield stage, plane
    plane.close()


def runs(plane: Plane) -> dict[int, tuple[str | None, ...]]:
    plane.engines.look()
    return {v.version: tuple(getattr(v, key) for key in KEYS) for v in plane.app.status().services[0].versions}


def problems(plane: Plane) -> list[str]:
    return list(plane.app.status().services[0].problems)


def alarms(plane: Plane) -> list[str]:
    return [e["message"] for e in plane.journal.events.newest(service=NAME) if e["kind"] == "fallback"]


def says(server: FakeTriton, info: EngineInfo | None) -> None:
    server.versions[1] = Behaviour(info=info)


def test_what_runs_is_told_by_version(two):
    place, plane = two
    for server in place.servers.values():
        server.versions[1], server.versions[2] = Behaviour(info=GPU), Behaviour(info=EngineInfo("cpu", None, None))
    plane.live(1)
    assert runs(plane) == {1: ("cuda:0", "bf16", "none")}
    place.drop(2)
    plane.live(2)
    assert runs(plane) == {1: (None, None, None), 2: ("cpu", None, None)}, "version 1 is loaded no more"
    assert problems(plane) == []
    assert alarms(plane) == []


def test_an_engine_that_tells_nothing_is_left_alone(two):
    _place, plane = two
    plane.live(1)
    before = plane.app.status()
    assert runs(plane) == {1: (None, None, None)}
    assert plane.app.status() == before
    assert problems(plane) == []


def test_less_than_was_asked_for_is_a_problem_and_told_once(two, caplog):
    place, plane = two
    says(place.servers["a"], GPU)
    says(place.servers["b"], LOWERED)
    plane.live(1)
    with caplog.at_level(logging.WARNING, "baton.controller.engine_info"):
        assert runs(plane) == {1: ("cpu, cuda:0", "bf16, fp32", "cpu")}
        assert runs(plane) == {1: ("cpu, cuda:0", "bf16, fp32", "cpu")}
    told = str(lowered(1, "b", LOWERED))
    assert problems(plane) == [told]
    assert alarms(plane) == [told]
    assert [r.getMessage() for r in caplog.records] == [f"{NAME}: {told}"]
    says(place.servers["b"], GPU)
    assert runs(plane) == {1: ("cuda:0", "bf16", "none")}
    assert problems(plane) == []
    says(place.servers["b"], LOWERED)
    runs(plane)
    assert alarms(plane) == [told, told], "it is lowered anew"


def test_what_is_not_told_is_not_made_up(two):
    place, plane = two
    says(place.servers["a"], EngineInfo(fallback="lower_dtype"))
    plane.live(1)
    assert runs(plane) == {1: (None, None, "lower_dtype")}
    why = because(Reason.RUNS_IN_LESS, server="a", version=1, fallback="lower_dtype", runs="", asked="")
    assert problems(plane) == [str(why)]


def test_one_question_a_server_and_none_where_nothing_is_loaded(two, monkeypatch):
    place, plane = two
    asked: list[str] = []
    real = FakeTriton.engine_infos
    monkeypatch.setattr(FakeTriton, "engine_infos", lambda self: asked.append(self.name) or real(self))
    plane.turn()
    plane.engines.look()
    assert asked == []
    plane.live(1)
    both = {NAME: plane.config, "other": plane.config}
    EngineInfoMonitor(both, place.servers, lambda: plane.loop.indexes, plane.journal, place.clock).look()
    assert sorted(asked) == ["a", "b"], "for two services"
    asked.clear()
    place.servers["b"].reachable = False
    plane.turn()
    plane.engines.look()
    assert asked == ["a"]
    plane.app.status()
    assert asked == ["a"], "a status asks nobody"


def test_what_was_known_stands_while_the_metrics_do_not_answer(two, monkeypatch, caplog):
    place, plane = two
    for server in place.servers.values():
        says(server, LOWERED)
    plane.live(1)
    runs(plane)
    known = problems(plane)
    assert len(known) == 2

    def silent(self: FakeTriton) -> None:
        raise Unreachable(f"The metrics of server {self.name} can't be read: refused.")

    monkeypatch.setattr(FakeTriton, "engine_infos", silent)
    with caplog.at_level(logging.WARNING, "baton.controller.engine_info"):
        assert runs(plane) == {1: ("cpu", "fp32", "cpu")}
        runs(plane)
    assert problems(plane) == known
    assert [r.getMessage()[:30] for r in caplog.records if "can't" in r.getMessage()] == [
        "The metrics of server a can't ",
        "The metrics of server b can't ",
    ], "each server once, not every ten seconds"
    place.servers["b"].reachable = False
    plane.turn()
    runs(plane)
    assert problems(plane) == known[:1], "of a server that is gone nothing is known"
    monkeypatch.undo()
    place.servers["b"].reachable = True
    plane.turn()
    runs(plane)
    assert problems(plane) == known


def test_a_full_disk_keeps_nobody_from_knowing(two):
    place, plane = two
    says(place.servers["a"], LOWERED)
    plane.live(1)
    disk = Full(plane.journal.database.connection)
    plane.journal.database.connection = disk  # type: ignore[assignment]
    disk.full = True
    assert runs(plane) == {1: ("cpu", "fp32", "cpu")}
    disk.full = False
    assert len(problems(plane)) == 1


def test_a_look_that_breaks_neither_ends_the_others_nor_itself(monkeypatch, caplog):
    monkeypatch.setattr("baton.controller.periodic.EVERY_S", 0.001)
    looks: list[str] = []
    enough = threading.Event()

    def broken() -> None:
        looks.append("broken")
        raise KeyError("a defect")

    def whole() -> None:
        looks.append("whole")
        if looks.count("whole") >= 3:
            enough.set()

    rounds = PeriodicRunner(broken, whole)
    rounds.start()
    assert enough.wait(60)
    rounds.stop()
    assert looks[:4] == ["broken", "whole"] * 2
    assert "KeyError" in caplog.text


def test_nothing_is_left_of_a_model_that_is_not_the_engine(two):
    place, plane = two
    says(place.servers["a"], GPU)
    plane.live(1)
    plane.engines.look()
    assert plane.engines.of(NAME) == {1: {"a": frozenset({GPU})}}
    assert place.servers["a"].engine_infos() == {ENGINE: {1: frozenset({GPU})}}
