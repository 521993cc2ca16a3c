"""Observing changes nothing: whatever writes, calls Triton or starts something while a view is built is found.

What is found to need a repair or a record becomes an effect, and is there one step later.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from tests.unit.cli.verdicts import CASES
from tests.unit.controller.plane import ENGINE, NAME, Plane
from tests.unit.facts.moments import MOMENTS, a_place, gate_says, serving

from baton.controller.health import Health
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.controller.ports import UNSEEN
from baton.controller.service import Service
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Tasks
from baton.domain import Evidence, Gate, Model, Phase, ReleaseStatus, Verdict
from baton.journal import Journal
from baton.journal.database import Database
from baton.plan import (
    AdoptVersion,
    AskAgain,
    Effect,
    Judge,
    RecordConfig,
    RecordLoaded,
    RepairConfig,
    SetBackClock,
    View,
)
from baton.plan.upkeep import REPAIR_AFTER_S
from baton.removal import Removal
from baton.testing import FakeTriton

PHASES = {
    "verifying": Phase.VERIFYING,
    "loading": Phase.LOADING,
    "validating": Phase.VALIDATING,
    "waiting for a person": Phase.WAITING,
    "shadowing": Phase.SHADOWING,
    "shifting": Phase.SHIFTING,
    "baking": Phase.BAKING,
    "retiring": Phase.RETIRING,
    "rolling back": Phase.ROLLING_BACK,
}
"""The moments in which a rollout is in each phase."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = frozenset({
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.setxattr", "os.removexattr", "os.kill", "os.posix_spawn", "os.system", "subprocess.Popen",
})  # fmt: skip
"""Python's audit events of what changes something outside of this process."""
METHODS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Database, ("transaction",)),
    (Journal, ("start_over",)),
    (FakeTriton, ("load", "unload", "infer")),
    (Tasks, ("start", "attempt", "cancel")),
    (SplitterClient, ("exchange", "announce", "forget", "unlock", "begin_counts")),
    (LiveEvidenceCollector, ("begin", "add")),
    (Health, ("note", "watch", "reload")),
    (type(UNSEEN), ("guard", "watch", "end")),
    (Removal, ("take_out", "delete")),
    (threading.Thread, ("start",)),
)


class Changed(BaseException):
    """Something was changed while a view was built. No ``except Exception`` hides it."""


class _Observing(threading.local):
    """Of each thread by itself: what runs in the background may write meanwhile."""

    on = False


observing = _Observing()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if observing.on and (event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING)):
        raise Changed(event, *args)


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_audit)  # for as long as this process lives; it is idle but while a view is built


@pytest.fixture(autouse=True)
def views(monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """Every view that is built, each without changing anything."""
    seen: list[View] = []
    real = Service.observe

    def observe(self: Service, *args: Any, **options: Any) -> View:
        observing.on = True
        try:
            seen.append(real(self, *args, **options))
        finally:
            observing.on = False
        return seen[-1]

    monkeypatch.setattr(Service, "observe", observe)
    for owner, names in METHODS:
        for name in names:
            monkeypatch.setattr(owner, name, _raising(getattr(owner, name), f"{owner.__name__}.{name}"))
    return seen


def _raising(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if observing.on:
            raise Changed(name)
        return method(*args, **options)

    return call


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[Effect]:
    """Every effect that was carried out at once."""
    done: list[Effect] = []
    real = Tasks.attempt

    def attempt(self: Tasks, effect: Effect, work: Callable[[], Any]) -> bool:
        went = real(self, effect, work)
        done.extend([effect] if went else [])
        return went

    monkeypatch.setattr(Tasks, "attempt", attempt)
    return done


@pytest.mark.parametrize("name", [name for name in MOMENTS if name not in CASES])
def test_in_every_phase_and_outcome(name, views):
    life, servers = MOMENTS[name]
    with a_place(servers) as place:
        for found in life(place):
            (found[0] if isinstance(found, tuple) else found).close()
            break
    assert views, "it was observed"
    phases = {view.rollout.phase for view in views if view.rollout is not None}
    assert PHASES.get(name) in {None, *phases}


def test_each_phase_of_a_rollout_is_among_them():
    assert set(PHASES.values()) == set(Phase) - {Phase.EMPTY, Phase.STEADY, Phase.DEGRADED}


def test_a_view_cannot_be_changed(place, views):
    serving(place).close()
    for field in fields(View):
        with pytest.raises(FrozenInstanceError):
            setattr(views[-1], field.name, None)


def test_a_first_start_records_what_it_finds(place, acts):
    """An engine that served before there was a Baton: what Triton loaded, and the usable files."""
    place.drop(1)
    place.servers["a"].load(ENGINE, 1.0)
    plane = Plane(place)
    plane.turn()
    assert acts[:2] == [
        RecordLoaded(),
        RecordConfig(Model.ENGINE, (place.files.engine_dir / "config.pbtxt").read_text()),
    ]
    assert set(plane.journal.notes.loaded().get(NAME)) == {1}
    assert plane.journal.notes.unexpected().get(NAME) == {}
    plane.close()


@pytest.mark.parametrize("model", [Model.ENGINE, Model.ALIAS])
def test_a_broken_file_is_repaired_by_an_effect(place, acts, model):
    plane = serving(place)
    folder = place.files.engine_dir if model is Model.ENGINE else place.files.alias_dir
    path = folder / "config.pbtxt"
    good = path.read_text()
    path.write_text("}} half of a")
    plane.turn()
    assert path.read_text() == "}} half of a", "somebody may be at work on it"
    assert plane.service.decision.phase is Phase.DEGRADED
    assert plane.service.blind
    del acts[:]
    place.now += REPAIR_AFTER_S
    plane.turn()
    assert acts[0] == RepairConfig(model)
    assert path.read_text() == good
    assert plane.service.decision.phase is Phase.STEADY
    assert not plane.service.blind
    assert [e["kind"] for e in plane.journal.events.newest()][-1] == "mend"
    plane.close()


def test_the_alias_folder_is_made_again_by_an_effect(place, acts):
    plane = serving(place)
    shutil.rmtree(place.files.alias_dir / "1")
    del acts[:]
    plane.turn()
    assert acts == [RepairConfig(Model.ALIAS)]
    assert (place.files.alias_dir / "1").is_dir()
    plane.close()


def test_a_repair_that_fails_is_tried_again_and_nothing_else_is_done(place, acts, monkeypatch):
    plane = serving(place)
    shutil.rmtree(place.files.alias_dir / "1")
    (place.files.alias_dir / "1").write_text("in the way")
    place.drop(2)
    del acts[:]
    for _ in range(3):
        plane.turn()
        place.now += 1.0
    assert acts == []
    assert "File exists" in plane.service.decision.message
    (place.files.alias_dir / "1").unlink()
    plane.live(2)
    assert acts[0] == RepairConfig(Model.ALIAS)
    plane.close()


def test_a_lost_journal_learns_what_served_before(place, acts):
    plane = serving(place, keep_previous=600.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "it bakes")
    plane.close()
    shutil.rmtree(place.root / "state")
    del acts[:]
    plane = Plane(place, keep_previous=600.0)
    plane.turn()
    assert acts.count(RecordLoaded()) == 1
    assert AdoptVersion() in acts
    records = plane.journal.versions.records(NAME)
    assert {v: r.status for v, r in records.items()} == {1: ReleaseStatus.RELEASED, 2: ReleaseStatus.ADOPTED}
    text = (place.files.alias_dir / "config.pbtxt").read_text()
    assert plane.journal.notes.config_text(Model.ALIAS).get(NAME) == text
    plane.close()


def test_a_journal_that_was_lost_while_the_server_was_away(place, acts):
    """Nothing is known yet of what Triton has loaded; that is recorded once, and again when the server is back."""
    serving(place).close()
    shutil.rmtree(place.root / "state")
    del acts[:]
    place.servers["a"].reachable = False
    plane = Plane(place)
    for _ in range(3):
        plane.turn()
    assert acts.count(RecordLoaded()) == 1
    place.servers["a"].reachable = True
    plane.turn()
    assert set(plane.journal.notes.loaded().get(NAME)) == {1}
    plane.close()


def test_a_clock_that_was_set_back(place, acts):
    plane = serving(place, keep_previous=600.0)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "it bakes")
    place.now -= 5000.0
    del acts[:]
    plane.turn()
    assert acts == [SetBackClock()]
    assert plane.journal.rollouts.current(NAME).phase_since <= place.now
    assert "clock" in [e["kind"] for e in plane.journal.events.newest()]
    plane.close()


def test_gates_that_held_are_asked_again_by_the_next_control_plane(place, acts):
    plane = serving(place)
    gate_says(place, Gate.OUTPUT, Verdict.HOLD, evidence=Evidence(missing="golden"))
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "it waits")
    plane.close()
    asked = place.answers.asked[Gate.OUTPUT]
    plane = Plane(place)
    plane.run(lambda: plane.phase() is Phase.WAITING and place.answers.asked[Gate.OUTPUT] > asked, "it waits again")
    for _ in range(3):
        plane.turn()
    assert acts.count(AskAgain()) == 1, "not by the same one"
    plane.close()


PLANTED: dict[str, Callable[[Plane], object]] = {
    "a file": lambda plane: (plane.place.files.engine_dir / "x").write_text(""),
    "a folder": lambda plane: (plane.place.files.alias_dir / "1").mkdir(exist_ok=True),
    "a rename": lambda plane: plane.place.files.folder(1).rename(plane.place.files.folder(9)),
    "a file that goes": lambda plane: (plane.place.files.engine_dir / "config.pbtxt").unlink(),
    "a line in the journal": lambda plane: plane.journal.notes.loaded().put(NAME, {}),
    "a load call": lambda plane: plane.place.servers["a"].load(ENGINE, 1.0),
    "an unload call": lambda plane: plane.place.servers["a"].unload(ENGINE, 1.0),
    "a request": lambda plane: plane.place.servers["a"].infer(ENGINE, 1, {}, 1.0),
    "a task": lambda plane: plane.service.tasks.start(Judge(), lambda _task: None),
    "a thread": lambda _plane: threading.Thread(target=lambda: None).start(),
    "a guard": lambda _plane: UNSEEN.guard("a", [1], 0.0),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_change_is_found(place, monkeypatch, what):
    plane = serving(place)
    plant, real = PLANTED[what], Health.unhealthy

    def unhealthy(self: Health) -> Any:
        plant(plane)
        return real(self)

    monkeypatch.setattr(Health, "unhealthy", unhealthy)
    with pytest.raises(Changed):
        plane.turn()
    plane.close()
