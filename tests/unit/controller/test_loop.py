"""The loop carries out what the plan says: written down first, one thing at a time, and again after every crash."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from harness.waiting import until
from tests.unit.controller.plane import ENGINE, MANY, NAME, Ask, Crash, Full, Fuse, Place, Plane, Sync

from baton.controller.tasks import ROW_S, Tasks
from baton.domain import Folder, Gate, GateResult, Kind, Model, ModelState, Outcome, Phase, Rollout, Verdict
from baton.errors import Refused, RepositoryError, TritonError, Unreachable
from baton.facts import ServerStatus
from baton.probe import Cancelled
from baton.reasons import Reason, because
from baton.testing import Behaviour
from baton.triton.repository import ServiceFiles


@pytest.fixture
def plane(place):
    made = Plane(place)
    yield made
    made.close()


def serving(place: Place, version: int | None) -> None:
    """What is true at rest: every server does what the files say, and holds nothing else."""
    for server in place.servers.values():
        index = server.index()
        ready = {
            name: {v for v, m in index.get(name, {}).items() if m.state is ModelState.READY} for name in (ENGINE, NAME)
        }
        wanted = set() if version is None else {version}
        assert ready == {ENGINE: wanted, NAME: wanted}
    assert place.files.policy() == (frozenset() if version is None else {version})


def test_first_version_then_the_next(place, plane):
    place.drop(1)
    plane.live(1)
    serving(place, 1)
    place.drop(2)
    plane.live(2)
    serving(place, 2)
    assert [r.outcome for r in plane.journal.rollouts.newest(service=NAME)] == [Outcome.LIVE] * 2
    assert place.servers["a"].loads == {(ENGINE, 1): 1, (ENGINE, 2): 1, (NAME, 1): 1, (NAME, 2): 1}


def test_files_that_are_ahead_of_the_clock_hold_up_nothing(place, plane):
    """As first version, as the next one, and while a rollout is aborted."""
    for version in (1, 2):
        place.drop(version)
        folder, ahead = place.files.folder(version), time.time() + 7200 * version
        for path in (folder, *folder.iterdir()):
            os.utime(path, (ahead, ahead))
        plane.live(version)
        serving(place, version)
    place.drop(3)
    plane.run(lambda: plane.phase() in (Phase.VALIDATING, Phase.SHIFTING, Phase.BAKING), "version 3 is loaded")
    plane.app.abort(None, who="ann")
    plane.run(lambda: plane.ended(3), "the end of the abort")
    serving(place, 2)
    place.drop(4)
    plane.live(4)
    serving(place, 4)
    assert {v: n for (model, v), n in place.servers["a"].loads.items() if model == ENGINE} == dict.fromkeys(
        range(1, 5), 1
    )


def test_a_server_that_answers_is_told_so_although_its_service_can_t_be_read(place, plane):
    place.drop(1)
    config = place.files.engine_dir / "config.pbtxt"
    good = config.read_text()
    config.write_text(good.replace("max_batch_size: 8", "max_batch_size: ${max}"))
    plane.turn()
    status = plane.app.status()
    assert status.services[0].phase == Phase.DEGRADED
    (server,) = status.servers
    assert (server.live, server.in_sync) == (True, False)
    assert f"{config} can't be parsed: 3:" in server.message
    assert "Mend that line" in server.message
    config.write_text(good)
    plane.live(1)
    (server,) = plane.app.status().servers
    assert replace(server, grpc="") == ServerStatus("a", "", live=True, in_sync=True)
    config.write_text("}} half of a")  # also later on, when there was a picture before
    plane.turn()
    (server,) = plane.app.status().servers
    assert (server.live, server.in_sync) == (True, False)
    assert "can't be parsed" in server.message


def test_a_server_that_can_load_nothing_is_at_fault_and_not_the_version(place, plane):
    """It is tried again by itself, the whole of Triton's words are kept, and a restart of Triton finds what serves."""
    place.drop(1)
    plane.live(1)
    words = "Internal: ModuleNotFoundError: No module named 'torch'\n\nAt:\n  model.py(3): <module>\n"
    place.servers["a"].versions[2] = Behaviour(load_error=words)
    place.drop(2)
    plane.run(lambda: plane.service.decision.why.reason is Reason.MACHINE_RESTS, "the server is blamed")
    error = plane.service.decision.why.figures["error"]
    assert "ModuleNotFoundError: No module named 'torch'. " in error
    assert "lacks `torch`" in error
    assert "model.py" not in error
    plane.run(lambda: place.files.policy() == {1}, "what serves alone is named")
    for _ in range(35):
        plane.turn()
        place.now += 1.0
    told = [e for e in plane.journal.events.newest(service=NAME, limit=1000) if e["kind"] == "refused"]
    assert len(told) == 1, "once, although it was tried again"
    assert "model.py(3)" in told[0]["data"]["triton"]
    assert place.servers["a"].loads[ENGINE, 2] == 2
    place.servers["a"].versions[2] = Behaviour()
    plane.live(2)


def test_a_server_that_nobody_mends_ends_the_rollout_and_refuses_no_version(place, plane):
    place.drop(1)
    plane.live(1)
    place.servers["a"].versions[2] = Behaviour(load_error="OSError: [Errno 28] No space left on device")
    place.drop(2)
    plane.run(lambda: plane.ended(2), "the end of the rollout")
    assert plane.ended(2) is Outcome.ABORTED
    serving(place, 1)
    (row,) = [v for v in plane.app.versions(None) if v.version == 2]
    assert row.state == "on_disk"
    why = plane.journal.versions.records(NAME)[2].reason
    assert row.reason == str(why)
    assert why.reason is Reason.MACHINE_GIVEN_UP
    assert "disk of this server is full" in why.figures["error"]
    place.servers["a"].versions[2] = Behaviour()
    plane.app.retry(None, 2, release=None, who="ann")
    plane.live(2)


def test_since_when_an_effect_fails():
    """Failures in a row count from the first of them; what nobody wanted for a while begins a row anew."""
    now, effect, errors = [0.0], Sync("a", Model.ENGINE), [TritonError("no")]

    def work() -> None:
        if errors:
            raise errors[0]

    tasks = Tasks("ranker", lambda: now[0], lambda: None)
    for now[0] in (1.0, 2.0, 30.0):
        assert not tasks.attempt(effect, work)
    assert (tasks.failed()[effect].since, tasks.failed()[effect].count) == (1.0, 3)
    now[0] += ROW_S + 1.0
    tasks.attempt(effect, work)
    assert tasks.failed()[effect].since == now[0]
    errors.clear()
    tasks.attempt(effect, work)
    assert tasks.failed() == {}
    tasks.close()


def test_every_action_is_written_down_first(place, plane, monkeypatch):
    acted: list[str] = []

    def told(kind: str, words: str) -> None:
        newest = plane.journal.events.newest(service=NAME, limit=1)[-1]
        assert newest["kind"] == kind, f"{kind} {words} follows {newest}"
        assert words in newest["message"]
        acted.append(kind)

    policy, alias = ServiceFiles.set_policy, ServiceFiles.set_alias

    def set_policy(self: ServiceFiles, versions: frozenset[int]) -> None:
        told("policy", str(sorted(versions)))
        policy(self, versions)

    def set_alias(self: ServiceFiles, version: int | None, *, split: bool = False) -> None:
        told("alias", f"version {version}")
        alias(self, version, split=split)

    server = place.servers["a"]
    begin = server.begin

    def call(verb: str, model: str) -> Any:
        kinds = [e for e in plane.journal.events.newest(service=NAME, limit=2) if e["kind"] == "sync"]
        assert any(model in e["message"] for e in kinds), f"{verb} of {model} without its record"
        acted.append("call")
        return begin(verb, model)

    monkeypatch.setattr(ServiceFiles, "set_policy", set_policy)
    monkeypatch.setattr(ServiceFiles, "set_alias", set_alias)
    monkeypatch.setattr(server, "begin", call)
    place.drop(1)
    plane.live(1)
    place.drop(2)
    plane.live(2)
    assert acted.count("alias") == 2
    assert acted.count("policy") >= 2
    assert acted.count("call") >= 6


def roll_out(place: Place, version: int, blows_at: int) -> Fuse:
    """A control plane takes the version up, and dies when the fuse blows."""
    plane = Plane(place)
    place.drop(version)
    with pytest.MonkeyPatch.context() as patched:
        fuse = Fuse(plane, patched, blows_at)
        with contextlib.suppress(Crash):
            plane.run(lambda: fuse.blown or plane.ended(version), "the end, or the crash")
        plane.abandon()
    return fuse


@pytest.mark.slow
@pytest.mark.parametrize("refused", [False, True], ids=["goes live", "is refused"])
def test_a_crash_before_any_act(place, refused):
    """One version after the other comes; the control plane dies a little later each time, and another one goes on."""
    if refused:
        other = GateResult(Gate.OUTPUT, Verdict.FAIL, "other scores")
        place.answers.order[Gate.OUTPUT] = lambda rollout, _: (
            other if rollout.candidate > 1 else GateResult(Gate.OUTPUT, Verdict.PASS, "first")
        )
    first = Plane(place)
    place.drop(1)
    first.live(1)
    first.close()
    for version, blows_at in enumerate(range(1, 200, 1 if MANY else 2), 2):
        fuse = roll_out(place, version, blows_at)
        wanted = 1 if refused else version
        second = Plane(place)
        try:
            second.run(partial(second.ended, version), f"the end after act {blows_at}")
            second.run(partial(second.rests_at, wanted), f"rest after act {blows_at}")
            second.turn()
            second.turn()
        finally:
            second.close()
        serving(place, wanted)
        assert set(place.servers["a"].loads.values()) == {1}, "nothing was ever loaded twice"
        if wanted > 2:
            shutil.rmtree(place.files.folder(wanted - 1))
        if not fuse.blown:
            break
    else:
        pytest.fail("a rollout has no end")
    assert blows_at > 30, "every act was met"


@pytest.mark.parametrize("phase", [Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING, Phase.SHIFTING, Phase.RETIRING])
def test_nothing_is_done_that_cannot_be_written_down(place, plane, phase):
    place.drop(1)
    plane.live(1)
    disk = plane.journal.database.connection = Full(plane.journal.database.connection)  # type: ignore[assignment]
    place.drop(2)
    real_step = plane.service.step

    def step(view: Any) -> bool:
        if view.rollout is not None and view.rollout.phase is phase and not met:
            met.append(True)
            disk.full = True
        return real_step(view)

    met: list[bool] = []
    plane.service.step = step  # type: ignore[method-assign]
    plane.run(lambda: met, f"{phase} is met")
    until(lambda: not plane.service.tasks.running(), "what was under way ends")
    policy, alias, calls = place.files.policy(), place.files.alias(), list(place.servers["a"].calls)
    for _ in range(5):
        plane.turn()
        place.now += 1.0
    assert (place.files.policy(), place.files.alias(), place.servers["a"].calls) == (policy, alias, calls)
    assert "disk is full" in plane.service.decision.message
    disk.full = False
    plane.live(2)
    plane.turn()
    serving(place, 2)


def test_a_server_that_goes_away_under_a_gate_is_no_verdict(place, plane):
    left = [Unreachable("gone"), Unreachable("gone")]

    def latency(*_: object) -> GateResult:
        if left:
            raise left.pop()
        return GateResult(Gate.LATENCY, Verdict.PASS, "fast")

    place.answers.order[Gate.LATENCY] = latency
    place.drop(1)
    plane.live(1)
    assert place.answers.asked[Gate.LATENCY] == 3


def test_a_gate_that_breaks_is_no_verdict_either(place, plane):
    left = [ZeroDivisionError()]

    def latency(*_: object) -> GateResult:
        if left:
            raise left.pop()
        return GateResult(Gate.LATENCY, Verdict.PASS, "fast")

    place.answers.order[Gate.LATENCY] = latency
    place.drop(1)
    plane.live(1)
    assert place.answers.asked[Gate.LATENCY] == 2


def test_a_gate_that_holds_is_asked_again_and_left_to_a_person_in_the_end(place, plane):
    verdicts = [Verdict.PASS, Verdict.HOLD, Verdict.HOLD]
    place.answers.order[Gate.LATENCY] = lambda *_: GateResult(Gate.LATENCY, verdicts.pop(), "few samples")
    place.drop(1)
    plane.live(1)
    assert verdicts == []
    place.answers.order[Gate.LATENCY] = lambda *_: GateResult(Gate.LATENCY, Verdict.HOLD, "few samples")
    place.answers.asked.clear()
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.WAITING, "version 2 waits")
    assert place.answers.asked[Gate.LATENCY] == 3
    assert plane.journal.rollouts.newest(service=NAME)[0].gates[Gate.LATENCY].evidence.attempts == 3
    for _ in range(20):
        plane.turn()
        place.now += 10.0
    figures = {"version": 2, "gate": Gate.LATENCY, "said": "few samples"}
    assert plane.service.decision.why == because(Reason.UNJUDGED, **figures, previous=1)
    for full in (False, True):
        with pytest.raises(Refused) as refused:
            plane.app.promote(None, 2, full=full, who="ann")
        assert refused.value.reason is Reason.NOT_PROMOTED
        assert "`ctl retry 2`" in str(refused.value.mend)
    assert place.files.alias() == 1
    assert place.answers.asked[Gate.LATENCY] == 3
    place.answers.order.clear()
    plane.app.retry(None, 2, release=None, who="ann")
    plane.live(2)


def test_an_abort_calls_off_the_running_gate_within_one_request(place, plane):
    requests: list[bool] = []
    next_request = threading.Semaphore(3)
    ended = threading.Event()

    def latency(_rollout: Rollout, cancelled: Callable[[], bool]) -> GateResult:
        while True:
            next_request.acquire()
            if cancelled():
                ended.set()
                raise Cancelled("called off")
            requests.append(True)

    place.drop(1)
    plane.live(1)
    place.answers.order[Gate.LATENCY] = latency
    place.drop(2)
    while Ask(Gate.LATENCY) not in plane.service.tasks.running():
        plane.turn(wait=False)
    until(lambda: len(requests) == 3, "three requests are made")
    rollout = plane.journal.rollouts.current(NAME)
    assert rollout is not None
    with plane.loop.lock:
        plane.service.halt(rollout, Outcome.ABORTED, "ann", because(Reason.ABORTED, who="ann"))
    next_request.release()
    assert ended.wait(60)
    assert len(requests) == 3
    plane.run(lambda: plane.ended(2), "the end")
    assert plane.ended(2) is Outcome.ABORTED
    assert plane.journal.versions.records(NAME)[2].status == "withdrawn"
    serving(place, 1)


def test_a_load_that_never_ends(place, plane):
    place.drop(1)
    plane.live(1)
    place.servers["a"].versions[2] = Behaviour(load_s=float("inf"))
    place.drop(2)
    for _ in range(90):
        plane.turn(wait=False)
        place.now += 1.0
    plane.run(lambda: plane.phase() is Phase.ROLLING_BACK, "the load gate failed")
    assert place.files.policy() == {1}
    place.servers["a"].restart()
    plane.run(lambda: plane.ended(2), "the end")
    assert plane.ended(2) is Outcome.REJECTED
    plane.turn()
    serving(place, 1)


def test_lost_answers_are_asked_for_again(place, plane):
    place.drop(1)
    plane.live(1)
    place.drop(2)
    for _ in range(200):
        if plane.ended(2):
            break
        place.servers["a"].lost_answers = 1 if place.now % 2 else 0
        plane.turn()
        place.now += 1.0
    assert plane.ended(2) is Outcome.LIVE
    place.servers["a"].lost_answers = 0
    serving(place, 2)
    assert place.servers["a"].loads[ENGINE, 2] == 1


def test_an_empty_state_adopts_what_is_served(place):
    before = Plane(place)
    place.drop(1)
    before.live(1)
    before.close()
    (place.root / "state" / "journal.db").rename(place.root / "old.db")
    calls = len(place.servers["a"].calls)
    after = Plane(place)
    for _ in range(5):
        after.turn()
        place.now += 1.0
    assert after.service.decision.phase is Phase.STEADY
    assert len(place.servers["a"].calls) == calls, "nothing is touched"
    place.drop(2)
    after.live(2)
    serving(place, 2)
    after.close()


def test_a_server_that_restarts_comes_back_as_the_files_say(place, plane):
    place.drop(1)
    plane.live(1)
    place.servers["a"].restart()
    plane.turn()
    serving(place, 1)
    place.servers["a"]._boot = ()
    place.servers["a"].restart()
    plane.turn()
    assert plane.service.decision.phase is Phase.DEGRADED
    plane.run(lambda: plane.service.decision.phase is Phase.STEADY, "it is mended")
    serving(place, 1)


def test_the_standby_is_there_again_after_a_restart_of_triton(place):
    plane = Plane(place, keep_previous=60.0)
    place.drop(1)
    plane.live(1)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "version 2 bakes")
    place.files.set_policy(frozenset({2}))  # as a local Triton is started again: with what serves, nothing else
    place.servers["a"].restart()
    plane.turn()
    plane.run(lambda: 1 in plane.service.view.servers[0].ready(), "version 1 is loaded again", turns=20)
    assert plane.phase() is Phase.BAKING
    assert place.files.policy() == {1, 2}
    plane.live(2)
    serving(place, 2)
    plane.close()


def test_a_standby_that_does_not_come_back_is_given_up(place):
    plane = Plane(place, keep_previous=60.0)
    place.drop(1)
    plane.live(1)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.BAKING, "version 2 bakes")
    place.files.set_policy(frozenset({2}))
    place.servers["a"].versions[1] = Behaviour(load_error="weights are gone")
    place.servers["a"].restart()
    plane.run(plane.service.tasks.failed, "version 1 is refused")
    plane.run(lambda: place.files.policy() == {2}, "no restart may stumble over it")
    assert plane.phase() is Phase.BAKING
    plane.live(2)
    serving(place, 2)
    plane.close()


def test_a_new_version_takes_the_place_of_one_that_is_lost(place, plane):
    place.drop(1)
    plane.live(1)
    place.servers["a"].versions[1] = Behaviour(load_error="weights are gone")
    place.servers["a"].restart()
    plane.run(plane.service.tasks.failed, "version 1 is refused")
    place.drop(2)
    for _ in range(3):
        plane.turn()
    assert plane.service.decision.phase is Phase.DEGRADED
    assert "weights are gone" in plane.service.decision.message
    view = plane.service.observe(plane.loop.indexes, paused=False)
    assert view.stable() is None
    with plane.loop.lock:
        plane.service.begin(view, Kind.ROLLOUT, 2, view.stable(), "ann", because(Reason.PROMOTED), promoted=True)
    plane.live(2)
    serving(place, 2)


def test_when_that_one_fails_as_well_the_next_may_still_come(place, plane):
    place.drop(1)
    plane.live(1)
    for version in (1, 2):
        place.servers["a"].versions[version] = Behaviour(load_error="weights are gone")
    place.servers["a"].restart()
    plane.run(plane.service.tasks.failed, "version 1 is refused")
    for version, outcome in ((2, Outcome.REJECTED), (3, Outcome.LIVE)):
        place.drop(version)
        plane.turn()
        view = plane.service.observe(plane.loop.indexes, paused=False)
        with plane.loop.lock:
            plane.service.begin(
                view, Kind.ROLLOUT, version, view.stable(), "ann", because(Reason.PROMOTED), promoted=True
            )
        plane.run(lambda v=version: plane.ended(v), "its end")
        assert plane.ended(version) is outcome
    serving(place, 3)


def test_a_policy_that_a_person_wrote_names_what_serves_again(place, plane):
    place.drop(1)
    plane.live(1)
    place.files.set_policy(frozenset({7}))
    plane.turn()
    serving(place, 1)


@pytest.mark.parametrize("model", [Model.ALIAS, Model.ENGINE])
def test_a_file_that_changed_after_a_call_was_decided_on_takes_nothing_out_of_traffic(place, plane, model):
    place.drop(1)
    plane.live(1)
    plane.turn()
    view, calls = plane.service.view, list(place.servers["a"].calls)
    if model is Model.ALIAS:
        (place.files.alias_dir / "config.pbtxt").unlink()
    else:
        place.files.set_policy(frozenset())
    with pytest.raises(RepositoryError, match="changed just before a load call"):
        plane.service._actor.loader.sync(Sync("a", model), view)
    assert place.servers["a"].calls == calls


def test_a_first_version_does_not_fail_for_one_that_the_policy_names_and_that_never_was(tmp_path):
    place = Place(tmp_path, servers=2)
    assert place.files.policy() == {1}
    plane = Plane(place)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.LOADING, "loading")
    place.servers["b"].reachable = False
    for _ in range(3):
        plane.turn()
    place.servers["b"].reachable = True
    plane.live(2)
    assert plane.ended(2) is Outcome.LIVE
    plane.close()


def test_a_server_that_was_away_holds_the_version_as_it_was(tmp_path):
    """Its folder held something else when an earlier rollout loaded it there: that must not count as loaded."""
    place = Place(tmp_path, servers=2)
    plane = Plane(place)
    away = place.servers["b"]
    place.drop(1)
    plane.live(1)
    place.drop(2)
    plane.run(lambda: plane.phase() is Phase.VALIDATING, "version 2 is loaded")
    away.reachable = False
    shutil.rmtree(place.files.folder(2))
    place.drop(2, "other weights")
    plane.run(lambda: plane.ended(2) is not None, "its folder was changed")
    plane.app.retry(None, 2, release=None, who="ann")
    plane.app.promote(None, 2, full=False, who="ann")
    for _ in range(20):
        plane.turn()
        place.now += 1.0
    why = plane.service.decision.why
    assert (why.reason, why.figures["servers"][0][0]) == (Reason.LOADS_ONCE_ALL_ANSWER, "b")
    assert away.loads[ENGINE, 2] == 1
    away.reachable = True
    plane.live(2)
    assert away.loads[ENGINE, 2] == 2
    plane.close()


def test_folders_that_were_never_seen_are_not_gone(place, monkeypatch):
    before = Plane(place)
    place.drop(1)
    before.live(1)
    place.drop(2)
    before.run(lambda: before.phase() is Phase.LOADING, "version 2 loads")
    before.close()

    frozen, real = [True], place.scan

    def scan() -> list[Folder]:
        if frozen:
            raise RepositoryError("The engine's directory can't be listed.")
        return real()

    monkeypatch.setattr(place, "scan", scan)
    after = Plane(place)
    for scanned in (True, False, False):
        after.loop.once(scan=scanned)
        assert after.service.decision.message == "The engine's directory can't be listed."
    frozen.clear()
    after.live(2)
    after.close()


def test_a_verdict_that_comes_while_the_control_plane_looks_is_not_asked_for_again(place, monkeypatch):
    plane = Plane(place)
    place.drop(1)
    plane.live(1)
    asked, go = place.answers.asked[Gate.WARMUP], threading.Event()

    def warmup(*_: object) -> GateResult:
        assert go.wait(60)
        return GateResult(Gate.WARMUP, Verdict.PASS, "passed")

    place.answers.order[Gate.WARMUP] = warmup
    place.drop(2)
    while Ask(Gate.WARMUP) not in plane.service.tasks.running():
        plane.turn(wait=False)
        place.now += 1.0
    version_records = plane.journal.versions.records

    def after_the_rollout_was_read(name: str) -> object:
        go.set()
        until(lambda: not plane.service.tasks.running(), "the verdict")
        return version_records(name)

    monkeypatch.setattr(plane.journal.versions, "records", after_the_rollout_was_read)
    plane.live(2)
    assert place.answers.asked[Gate.WARMUP] == asked + 1
    plane.close()
