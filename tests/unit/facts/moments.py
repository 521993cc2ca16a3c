"""What the real controller tells at the moments of its life: the loop, plan, journal and facade over the fake Triton.

``moment(name)`` lives through one of ``MOMENTS`` once and keeps what was told. Faces are tested on these.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from harness.waiting import until
from tests.unit.cli.verdicts import CASES
from tests.unit.controller.plane import Place, Plane, tmpfs
from tests.unit.controller.test_lost_journal import spoil
from tests.unit.controller.test_traffic_split import asked, split, splitting, turns

from baton.codec import encode
from baton.config import LiveConfig, TrafficConfig
from baton.controller.memory import VersionMemory
from baton.controller.probing import Probing
from baton.domain import EngineInfo, Evidence, Gate, GateResult, Phase, Step, Verdict
from baton.facts import ControlHealth, Paused, RolloutFacts, RolloutStory, Status, Ticket, VersionOnDisk
from baton.testing import Behaviour
from baton.watch.memory import Usage

WHO = "ann@host via ctl"


@dataclass(frozen=True)
class Moment:
    """All that the facade tells at one moment. ``ticket`` is what the last verb answered."""

    status: Status
    versions: tuple[VersionOnDisk, ...]
    history: tuple[RolloutFacts, ...]
    stories: tuple[RolloutStory, ...]
    health: ControlHealth
    counts: dict[tuple[str, str], int]
    loop_at: float
    ticket: Ticket | None = None
    paused: Paused | None = None

    def as_programs_get_it(self) -> dict[str, list[Any]]:
        """By call of the API."""
        facts = {
            "status": [self.status], "versions": [self.versions], "history": [self.history],
            "rollout": list(self.stories), "health": [self.health],
            "promote": [self.ticket] if self.ticket else [], "pause": [self.paused] if self.paused else [],
        }  # fmt: skip
        read: dict[str, list[Any]] = json.loads(json.dumps(encode(facts), allow_nan=False))
        return read


def told(plane: Plane, said: Ticket | Paused | None = None) -> Moment:
    app = plane.app
    history = app.history()
    return Moment(
        app.status(),
        app.versions(),
        history,
        tuple(app.rollout(one.id) for one in history[:5]),
        app.health(),
        app.counts(),
        app.loop_at(),
        said if isinstance(said, Ticket) else None,
        said if isinstance(said, Paused) else None,
    )


Life = Callable[[Place], Iterator[Plane | tuple[Plane, Ticket | Paused]]]
MOMENTS: dict[str, tuple[Life, int]] = {}
"""By name: what leads to the moment, and the number of servers."""


def moment_of(name: str, *, servers: int = 1) -> Callable[[Life], Life]:
    def keep(life: Life) -> Life:
        MOMENTS[name] = life, servers
        return life

    return keep


@contextmanager
def a_place(servers: int) -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="baton-moment-"))
    home = tmpfs(root)
    place = Place(home, servers=servers)
    try:
        yield place
    finally:
        place.now += 3600.0  # what still loads or leaves comes to its end: a thread waits for it
        shutil.rmtree(home)
        shutil.rmtree(root, ignore_errors=True)


@cache
def moment(name: str) -> Moment:
    """Made once in a test run: tests/unit/conftest.py says where. Raises what the controller raises."""
    if (shared := os.environ.get("SHARED_MOMENTS")) is None:
        return _lived(name)
    kept = Path(shared) / f"{list(MOMENTS).index(name)}.pickle"
    if not kept.is_file():
        written = kept.with_suffix(f".{os.getpid()}")
        written.write_bytes(pickle.dumps(_lived(name)))
        written.rename(kept)
    found: Moment = pickle.loads(kept.read_bytes())
    return found


def _lived(name: str) -> Moment:
    life, servers = MOMENTS[name]
    with a_place(servers) as place:
        for found in life(place):
            plane, said = found if isinstance(found, tuple) else (found, None)
            try:
                return told(plane, said)
            finally:
                plane.close()
    raise AssertionError(f"nothing happened: {name}")


def serving(place: Place, **rollout: Any) -> Plane:
    """Version 1 serves."""
    plane = Plane(place, **rollout)
    place.drop(1)
    plane.run(lambda: plane.rests_at(1) or plane.phase() is Phase.WAITING, "version 1 live, or it waits for a person")
    if plane.phase() is Phase.WAITING:
        plane.app.promote(None, 1, full=False, who=WHO)
    plane.live(1)
    return plane


def gate_says(place: Place, gate: Gate, verdict: Verdict, **more: Any) -> None:
    place.answers.order[gate] = lambda _rollout, _cancelled: GateResult(gate, verdict, f"{gate} says so.", **more)


@contextmanager
def a_gate_that_takes_long(place: Place, gate: Gate) -> Iterator[None]:
    """It is asked, and has not answered."""
    over = threading.Event()

    def ask(_rollout: Any, cancelled: Callable[[], bool]) -> GateResult:
        while not cancelled() and not over.wait(0.01):
            pass
        return GateResult(gate, Verdict.PASS, "passed")

    place.answers.order[gate] = ask
    try:
        yield
    finally:
        over.set()


def running(plane: Plane, gate: Gate) -> bool:
    shown = {g.gate: g.verdict for g in plane.app.status().services[0].gates}
    return shown.get(gate) is Verdict.RUNNING


def _while_asked(place: Place, gate: Gate) -> Iterator[Plane]:
    plane = serving(place)
    with a_gate_that_takes_long(place, gate):
        place.drop(2)
        for _ in range(100):
            plane.turn(wait=False)
            place.now += 1.0
            until(lambda: running(plane, gate) or not plane.service.tasks.running(), "what was begun ends")
            if running(plane, gate):
                break
        assert running(plane, gate)
        yield plane


@moment_of("empty")
def _empty(place: Place) -> Iterator[Plane]:
    plane = Plane(place)
    plane.turn()
    yield plane


@moment_of("steady")
@moment_of("steady on two servers", servers=2)
def _steady(place: Place) -> Iterator[Plane]:
    yield serving(place)


@moment_of("one of two servers is away", servers=2)
def _one_away(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    place.servers["b"].reachable = False
    plane.turn()
    yield plane


@moment_of("the first version is proved")
def _first(place: Place) -> Iterator[Plane]:
    plane = Plane(place)
    place.drop(1)
    plane.run(lambda: plane.phase() is Phase.VALIDATING, "it is loaded")
    yield plane


@moment_of("verifying")
def _verifying(place: Place) -> Iterator[Plane]:
    yield from _while_asked(place, Gate.INTEGRITY)


@moment_of("validating")
def _validating(place: Place) -> Iterator[Plane]:
    yield from _while_asked(place, Gate.LATENCY)


@moment_of("loading", servers=2)
def _loading(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    place.servers["b"].versions[2] = Behaviour(load_s=30.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.LOADING, "it loads")
    plane.turn(wait=False)
    yield plane


@moment_of("shadowing")
def _shadowing(place: Place) -> Iterator[Plane]:
    traffic = TrafficConfig(steps=(Step(20.0, hold=10.0),), shadow_share=50.0, shadow_for=20.0)
    plane = Plane(place, traffic=traffic, live=LiveConfig(min_requests=3, min_pairs=3))
    place.drop(1)
    plane.live(1)
    place.drop(2)
    for _ in range(100):
        turns(place, plane, 1)
        shown = plane.app.status().services[0]
        if shown.traffic is not None and shown.traffic.shadowed > 3:
            break
    assert plane.phase() is Phase.SHADOWING
    yield plane


def _shifting(place: Place) -> Plane:
    plane = splitting(place)
    split(place, plane)
    turns(place, plane, 3)
    return plane


@moment_of("shifting")
@moment_of("shifting on two servers", servers=2)
def _shifts(place: Place) -> Iterator[Plane]:
    yield _shifting(place)


@moment_of("nobody asks")
def _nobody(place: Place) -> Iterator[Plane]:
    plane = _shifting(place)
    turns(place, plane, 60, clients=False)
    yield plane


@moment_of("too little traffic")
def _too_little(place: Place) -> Iterator[Plane]:
    traffic = TrafficConfig(steps=(Step(20.0, hold=10.0),), shadow_share=0.0)
    plane = Plane(place, traffic=traffic, live=LiveConfig(min_requests=500))
    split(place, plane)
    turns(place, plane, 5)
    assert {(w.gate, w.need) for w in plane.app.status().services[0].waits_for} == {(Gate.LIVE, 500)}
    yield plane


@moment_of("a pause step")
def _pause_step(place: Place) -> Iterator[Plane]:
    plane = splitting(place, (Step(20.0, hold=3.0), Step(pause=True), Step(50.0, hold=5.0)))
    split(place, plane)
    while plane.phase() is not Phase.WAITING:
        turns(place, plane, 1)
    yield plane


@moment_of("waiting for a person")
def _waiting(place: Place) -> Iterator[Plane]:
    plane = serving(place, promotion="manual")
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "it waits")
    yield plane


def _without_golden_set(place: Place) -> Plane:
    plane = serving(place)
    gate_says(place, Gate.OUTPUT, Verdict.HOLD, evidence=Evidence(missing="golden"))
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "it waits")
    return plane


@moment_of("waiting for a golden set")
def _golden(place: Place) -> Iterator[Plane]:
    plane = _without_golden_set(place)
    assert [one.what for one in plane.app.status().services[0].waits_for] == ["golden"]
    yield plane


@moment_of("ended while a gate held")
def _held_to_the_end(place: Place) -> Iterator[Plane]:
    plane = _without_golden_set(place)
    plane.app.abort(None, who=WHO)
    plane.run(lambda: plane.ended(2), "it is aborted")
    yield plane


@moment_of("baking")
def _baking(place: Place) -> Iterator[Plane]:
    plane = serving(place, keep_previous=600.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "it bakes")
    yield plane


@moment_of("retiring")
def _retiring(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    place.servers["a"].versions[1] = Behaviour(leave_s=20.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.RETIRING, "the old one leaves")
    yield plane


@moment_of("rolling back")
def _rolling_back(place: Place) -> Iterator[tuple[Plane, Ticket]]:
    plane = _shifting(place)
    ticket = plane.app.abort(None, who=WHO)
    plane.run(lambda: plane.phase() is Phase.ROLLING_BACK, "it goes back")
    yield plane, ticket


@moment_of("degraded")
def _degraded(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    (place.files.engine_dir / "config.pbtxt").write_text("}} half of a")
    plane.turn()
    yield plane


@moment_of("paused")
def _paused(place: Place) -> Iterator[tuple[Plane, Paused]]:
    plane = _shifting(place)
    paused = plane.app.pause(who=WHO)
    plane.turn()
    yield plane, paused


@moment_of("something lies beside the versions")
def _unexpected(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    (place.files.engine_dir / "2a").mkdir()
    plane.turn()
    yield plane


@moment_of("a damaged journal")
def _damaged(place: Place) -> Iterator[Plane]:
    plane = serving(place, keep_previous=600.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "it bakes")
    spoil(plane)
    plane.turn()
    plane.run(lambda: plane.rests_at(2), "it is adopted")
    yield plane


@moment_of("ended live")
def _live(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    place.drop(2)
    plane.live(2)
    yield plane


@moment_of("ended verified")
def _verified(place: Place) -> Iterator[tuple[Plane, Ticket]]:
    plane = serving(place, promotion="manual")
    plane.app.pause(who=WHO)
    place.drop(2)
    plane.turn()
    ticket = plane.app.verify(None, 2, who=WHO)
    plane.run(lambda: plane.ended(2), "it is verified")
    yield plane, ticket


@moment_of("ended rejected")
def _rejected(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    gate_says(place, Gate.OUTPUT, Verdict.FAIL)
    place.drop(2)
    plane.run(lambda: plane.ended(2), "it is rejected")
    yield plane


@moment_of("ended rejected by Triton")
def _not_loaded(place: Place) -> Iterator[Plane]:
    plane = serving(place)
    place.servers["a"].versions[2] = Behaviour(load_error="failed to load: the weights are of another model")
    place.drop(2)
    plane.run(lambda: plane.ended(2), "it is rejected")
    yield plane


@moment_of("ended rolled back")
def _rolled_back(place: Place) -> Iterator[Plane]:
    plane = _shifting(place)
    plane.app.rollback(None, None, who=WHO)
    plane.run(lambda: plane.ended(2), "it is rolled back")
    yield plane


@moment_of("ended aborted")
def _aborted(place: Place) -> Iterator[Plane]:
    plane = serving(place, promotion="manual")
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "it waits")
    plane.app.abort(None, who=WHO)
    plane.run(lambda: plane.ended(2), "it is aborted")
    yield plane


@moment_of("ended superseded")
def _superseded(place: Place) -> Iterator[Plane]:
    plane = serving(place, promotion="manual", on_newer="supersede")
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "it waits")
    place.drop(3)
    plane.run(lambda: plane.ended(2), "it is superseded")
    yield plane


@moment_of("a way back")
def _way_back(place: Place) -> Iterator[tuple[Plane, Ticket]]:
    plane = serving(place)
    place.drop(2)
    plane.live(2)
    ticket = plane.app.rollback(None, 1, who=WHO)
    plane.turn()
    yield plane, ticket


@moment_of("it runs in less than was asked for")
def _lowered(place: Place) -> Iterator[Plane]:
    info = EngineInfo("cpu", "fp32", "cpu", "cuda:0", "bf16")
    plane = serving(place)
    place.servers["a"].versions[1] = Behaviour(info=info)
    plane.engines.look()
    plane.turn()
    yield plane


def _verdict_of(case: str) -> GateResult:
    folder = Path(tempfile.mkdtemp(prefix="baton-case-"))
    try:
        return CASES[case](folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judged(case: str) -> Life:
    """A verification meets what the real judge says; the live gate a rollout, memory a version that serves."""

    def life(place: Place) -> Iterator[Plane]:
        result = _verdict_of(case)
        if result.gate is Gate.LIVE:
            with mock.patch.object(Probing, "judge", return_value=result):
                plane = splitting(place)
                split_until(place, plane, lambda: result in plane.app.status().services[0].gates)
                yield plane
        elif result.gate is Gate.MEMORY:
            plane = serving(place)
            usage = Usage(412_000_000, None, 430_000_000, frozenset({1}))
            plane.app.memory = lambda _service: {1: VersionMemory(usage, result)}
            yield plane
        else:
            plane = serving(place)
            place.answers.order[result.gate] = lambda _rollout, _cancelled: result
            plane.app.pause(who=WHO)
            place.drop(2)
            plane.turn()
            plane.app.verify(None, 2, who=WHO)
            plane.run(lambda: plane.ended(2), "the verification ends")
            yield plane

    return life


def split_until(place: Place, plane: Plane, condition: Callable[[], object]) -> None:
    place.drop(1)
    plane.live(1)
    place.drop(2)
    for _ in range(100):
        asked(place)
        plane.turn()
        if condition():
            return
        place.now += 1.0
    raise AssertionError(plane.service.decision)


for _case in CASES:
    if not _case.startswith("load ") and not _case.endswith((" goes on", " begins")):
        MOMENTS[_case] = _judged(_case), 1
