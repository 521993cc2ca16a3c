"""Journals of a real control plane that was stopped in each phase, and the servers that it left, for later Batons.

One file a stage, in a folder named after the journal's format: the first line holds what lay beside the journal, the
rest is the journal as SQL. ``python -m tests.unit.journal.recorded`` writes those of the present format;
the ones of earlier formats stay as the Baton of that time wrote them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.unit.controller.plane import ENGINE, NAME, Place, Plane

from baton.config import LiveConfig, TrafficConfig
from baton.domain import Evidence, Folder, Gate, GateResult, ModelState, Outcome, Phase, Step, Verdict
from baton.testing import Behaviour
from baton.triton.key import token_file

HERE = Path(__file__).parent
SPLITTER = f"{NAME}_splitter"
STEPS = (Step(20.0, hold=10.0), Step(50.0, over=10.0))
PAUSE = (Step(20.0, hold=5.0), Step(pause=True), Step(50.0, hold=5.0))
QUERY = {
    "query": np.array([[b'{"text": "red"}']], dtype=np.object_),
    "documents": np.array([[b'{"text": "a"}', b'{"text": "b"}']], dtype=np.object_),
}


class Yard(Place):
    """A place whose folders look the same on every machine: by what they hold."""

    clients = True

    def scan(self) -> list[Folder]:
        found = []
        for folder in super().scan():
            files = sorted(p for p in (self.files.engine_dir / folder.name).rglob("*") if p.is_file())
            digest = hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:16]
            found.append(Folder(folder.name, folder.version, digest, (), folder.problem, 0.0, 0.0, folder.size))
        return found


@dataclass(frozen=True)
class Stage:
    """How a control plane is brought to a stage, and how its rollout of version 2 ends when a later one goes on."""

    reach: Callable[[Yard, Plane], None]
    outcome: Outcome | None
    serves: int | None
    options: Mapping[str, Any]
    traffic: TrafficConfig
    promotes: bool = False
    """It waits until a person promotes it."""
    clients: bool = True
    """Without them golden requests are sent in their place."""

    def plane(self, yard: Yard) -> Plane:
        yard.clients = self.clients
        golden = () if self.clients else (QUERY,)
        live = LiveConfig(min_requests=3, min_pairs=3)
        return Plane(yard, traffic=self.traffic, live=live, golden=golden, **self.options)


def ask(yard: Yard, requests: int = 20) -> None:
    """Clients ask the public name; every one of them is answered."""
    for server in yard.servers.values():
        for _ in range(requests):
            server.infer(NAME, None, QUERY, 1.0)


def until(yard: Yard, plane: Plane, condition: Callable[[], object], what: str) -> None:
    """Turn with clients about until a condition holds."""
    for _ in range(200):
        if condition():
            return
        if yard.clients and yard.files.alias() is not None and plane.service.view is not None:
            ask(yard)
        plane.turn()
        yard.now += 1.0
    raise AssertionError(f"never: {what}; {plane.service.decision}")


def next_one(yard: Yard, plane: Plane) -> None:
    """Version 1 serves, and the folder of version 2 is there."""
    yard.drop(1)
    until(yard, plane, lambda: plane.rests_at(1) or plane.phase() is Phase.WAITING, "version 1 passed its gates")
    if plane.phase() is Phase.WAITING:
        plane.app.promote(None, None, full=False, who="ann")
    plane.live(1)
    yard.drop(2)


def to(phase: Phase) -> Callable[[Yard, Plane], None]:
    def reach(yard: Yard, plane: Plane) -> None:
        next_one(yard, plane)
        until(yard, plane, lambda: plane.phase() is phase, phase)

    return reach


def _unproved(yard: Yard, plane: Plane) -> None:
    def few(_rollout: object, _cancelled: object) -> GateResult:
        return GateResult(Gate.OUTPUT, Verdict.HOLD, "No golden set is named.", evidence=Evidence(missing="golden"))

    yard.drop(1)
    plane.live(1)
    yard.answers.order[Gate.OUTPUT] = few
    yard.drop(2)
    until(yard, plane, lambda: plane.phase() is Phase.WAITING, "the gate holds")


def _rolling_back(yard: Yard, plane: Plane) -> None:
    to(Phase.SHIFTING)(yard, plane)
    until(yard, plane, yard.files.split, "the split")
    plane.app.abort(None, who="ann")
    plane.turn()
    assert plane.phase() is Phase.ROLLING_BACK


def _shifting(yard: Yard, plane: Plane) -> None:
    to(Phase.SHIFTING)(yard, plane)
    until(yard, plane, lambda: plane.app.status().services[0].weight == 20, "the first share")


def _adopting(yard: Yard, plane: Plane) -> None:
    """Version 1 is served without a public name, and is being adopted. Clients ask it meanwhile."""
    yard.drop(1)
    for server in yard.servers.values():
        server.load(ENGINE, 5.0)
    until(yard, plane, lambda: plane.phase() is Phase.VERIFYING, "it is taken up")


def _adopted(yard: Yard, plane: Plane) -> None:
    """Version 1 was found serving by an empty journal, and version 2 is on its way."""
    yard.drop(1)
    yard.files.set_alias(1)
    for server in yard.servers.values():
        server.load(ENGINE, 5.0)
        server.load(NAME, 5.0)
    plane.turn()
    yard.drop(2)
    until(yard, plane, lambda: plane.phase() is Phase.VERIFYING, "version 2 on its way")


def _history(yard: Yard, plane: Plane) -> None:
    """At rest on version 3, after every outcome that a rollout has; version 8 is next."""
    next_one(yard, plane)
    until(yard, plane, lambda: plane.rests_at(2), "version 2 live")
    plane.app.rollback(None, None, who="ann")  # version 2 is withdrawn, by a rollout of version 1
    until(yard, plane, lambda: plane.rests_at(1), "version 1 live again")
    yard.answers.order[Gate.OUTPUT] = lambda _r, _c: GateResult(Gate.OUTPUT, Verdict.FAIL, "worse", 0.5, 0.001)
    yard.drop(3)
    until(yard, plane, lambda: plane.ended(3) is Outcome.REJECTED, "version 3 rejected")
    yard.answers.order.clear()
    yard.drop(4)
    until(yard, plane, lambda: plane.phase() is Phase.SHIFTING and yard.files.split(), "version 4 on its way")
    plane.app.abort(None, who="ann")
    until(yard, plane, lambda: plane.ended(4) is Outcome.ROLLED_BACK, "version 4 rolled back")
    yard.drop(5)
    until(yard, plane, lambda: plane.phase() is Phase.VERIFYING, "version 5 on its way")
    yard.drop(6)
    until(yard, plane, lambda: plane.ended(5) is Outcome.SUPERSEDED, "version 5 superseded")
    plane.app.abort(None, who="ann")
    until(yard, plane, lambda: plane.ended(6) is Outcome.ABORTED, "version 6 aborted")
    for server in yard.servers.values():
        server.versions[7] = Behaviour(load_error="KeyError: lm_head")
    yard.drop(7)
    until(yard, plane, lambda: plane.ended(7) is not None, "version 7 did not load")
    yard.drop(8)
    plane.app.pause(who="bob")
    plane.turn()
    plane.app.verify(None, 8, who="bob")
    until(yard, plane, lambda: plane.ended(8) is Outcome.VERIFIED, "version 8 verified")
    plane.app.retry(None, 3, release="retrained", who="bob")
    plane.app.promote(None, 3, full=True, who="bob")
    until(yard, plane, lambda: plane.rests_at(3), "version 3 live")
    plane.app.resume(who="bob")


SHADOW = TrafficConfig(steps=STEPS, shadow_share=25.0, shadow_for=10.0, no_traffic_after=10.0)
SPLIT = TrafficConfig(steps=STEPS, shadow_share=0.0)
AT_ONCE = TrafficConfig(steps=(), shadow_share=0.0)
STAGES: Mapping[str, Stage] = {
    "verifying": Stage(to(Phase.VERIFYING), Outcome.LIVE, 2, {}, AT_ONCE),
    "loading": Stage(to(Phase.LOADING), Outcome.LIVE, 2, {}, AT_ONCE),
    "validating": Stage(to(Phase.VALIDATING), Outcome.LIVE, 2, {}, AT_ONCE),
    "shadowing": Stage(to(Phase.SHADOWING), Outcome.LIVE, 2, {}, SHADOW, clients=False),
    "shifting": Stage(_shifting, Outcome.LIVE, 2, {}, SPLIT),
    "waiting_for_evidence": Stage(_unproved, Outcome.LIVE, 2, {}, AT_ONCE),
    "waiting_for_a_person": Stage(to(Phase.WAITING), Outcome.LIVE, 2, {"promotion": "manual"}, AT_ONCE, promotes=True),
    "waiting_at_a_pause": Stage(
        to(Phase.WAITING), Outcome.LIVE, 2, {}, TrafficConfig(steps=PAUSE, shadow_share=0.0), promotes=True
    ),
    "baking": Stage(to(Phase.BAKING), Outcome.LIVE, 2, {"keep_previous": 30.0}, AT_ONCE),
    "retiring": Stage(to(Phase.RETIRING), Outcome.LIVE, 2, {}, AT_ONCE),
    "rolling_back": Stage(_rolling_back, Outcome.ROLLED_BACK, 1, {}, SPLIT),
    "adopting": Stage(_adopting, Outcome.LIVE, 1, {}, AT_ONCE),
    "adopted": Stage(_adopted, Outcome.LIVE, 2, {}, AT_ONCE),
    "at_rest": Stage(_history, None, 8, {"on_newer": "supersede"}, SPLIT),
}


def record(stage: Stage, root: Path) -> str:
    """Bring a control plane to the stage, end it as a crash does, and write down what it leaves."""
    yard = Yard(root)
    plane = stage.plane(yard)
    stage.reach(yard, plane)
    plane.abandon()
    shown = {p: p.read_text() for p in sorted(yard.repository.rglob("*")) if p.is_file()}
    token = token_file(root / "state", NAME)
    left = {
        "now": yard.now,
        "folders": [str(p.relative_to(yard.repository)) for p in sorted(yard.repository.rglob("*")) if p.is_dir()],
        "files": {str(p.relative_to(yard.repository)): text for p, text in shown.items()},
        "token": token.read_text() if token.exists() else None,
        "servers": {name: _serves(yard, name) for name in yard.servers},
    }
    with closing(sqlite3.connect(root / "state" / "journal.db")) as db:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        dump = "\n".join(db.iterdump())
    return f"-- {json.dumps(left)}\n{dump}\nPRAGMA user_version = {found};\n"


def _serves(yard: Yard, name: str) -> dict[str, Any]:
    server = yard.servers[name]
    ready = {
        model: sorted(v for v, m in versions.items() if m.state is ModelState.READY)
        for model, versions in server.index().items()
    }
    return {
        "engine": ready.get(ENGINE, []),
        "alias": next(iter(ready.get(NAME, [])), None),
        "splitter": bool(ready.get(SPLITTER)),
        "split": bool(ready.get(NAME)) and server.step(NAME) == SPLITTER,
    }


def opened(path: Path, root: Path) -> Yard:
    """The place that a recorded control plane left: its journal, files, and servers that serve what they served."""
    head, dump = path.read_text().split("\n", 1)
    left = json.loads(head.removeprefix("-- "))
    yard = Yard(root, servers=len(left["servers"]))
    yard.now = left["now"]
    for folder in left["folders"]:
        (yard.repository / folder).mkdir(parents=True, exist_ok=True)
    for name, server in yard.servers.items():
        serves = left["servers"][name]
        _write(yard, left["files"])
        yard.files.set_policy(frozenset(serves["engine"]))
        server.load(ENGINE, 5.0)
        if serves["splitter"]:
            server.load(SPLITTER, 5.0)
        if serves["alias"] is not None:
            yard.files.set_alias(serves["alias"], split=serves["split"])
            server.load(NAME, 5.0)
        assert _serves(yard, name) == serves
    _write(yard, left["files"])
    state = root / "state"
    state.mkdir(mode=0o700)
    if left["token"] is not None:
        token_file(state, NAME).write_text(left["token"])
        token_file(state, NAME).chmod(0o600)
    with closing(sqlite3.connect(state / "journal.db")) as db:
        db.executescript(dump)
    return yard


def _write(yard: Yard, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (yard.repository / name).write_text(text)
