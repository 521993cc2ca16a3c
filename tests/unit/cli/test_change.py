"""The verbs that change something, on a real control plane: how they wait, and with which code they end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, World, tidy
from tests.unit.facts.moments import gate_says, moment
from tests.unit.facts.recorder import PRUNED, Recorder

from baton import verbs
from baton.cli import follow, output
from baton.cli.output import duration
from baton.codec import encode
from baton.config import LiveConfig, TrafficConfig
from baton.domain import Evidence, Gate, Outcome, Phase, Step, Verdict
from baton.errors import BatonError, GateFailed, Refused, RepositoryError, TritonError, Unreachable
from baton.evidence import synthetic
from baton.facts import Pruned
from baton.removal import Removal
from baton.testing import Behaviour

BEGIN = Callable[..., World]
SPLIT = {"traffic": TrafficConfig(steps=(Step(20.0, hold=5.0),), shadow_share=0.0), "live": LiveConfig(min_requests=3)}
PAUSING = {
    **SPLIT,
    "traffic": TrafficConfig(steps=(Step(20.0, hold=3.0), Step(pause=True), Step(50.0, hold=3.0)), shadow_share=0.0),
}


def _said(text: str) -> str:
    return " ".join(text.split())


def waiting(world: World) -> None:
    world.new(until=Phase.WAITING)


def arrived(world: World) -> None:
    """A version is there, and nothing begins by itself."""
    world.app.pause(who="ann")
    world.new()


def failing(world: World, verdict: Verdict = Verdict.FAIL) -> None:
    gate_says(world.place, Gate.OUTPUT, verdict, evidence=Evidence(missing="golden"))
    arrived(world)


def rejected(world: World) -> None:
    gate_says(world.place, Gate.OUTPUT, Verdict.FAIL)
    world.new()
    world.plane.run(lambda: world.plane.ended(2), "it is rejected")


def rejected_for_a_moment(world: World) -> None:
    rejected(world)
    del world.place.answers.order[Gate.OUTPUT]


def held(world: World) -> None:
    gate_says(world.place, Gate.OUTPUT, Verdict.HOLD, evidence=Evidence(missing="golden"))
    waiting(world)


def live(world: World) -> None:
    world.new()
    world.plane.live(2)


def live_and_the_old_one_broken(world: World) -> None:
    live(world)
    world.place.servers["a"].versions[1] = Behaviour(load_error="failed to load: it is gone")


def shifting(world: World) -> None:
    world.new(until=Phase.SHIFTING)


def skipping(world: World) -> None:
    gate_says(world.place, Gate.OUTPUT, Verdict.PASS, skipped=True)
    arrived(world)


def stopped_meanwhile(world: World) -> None:
    arrived(world)
    world.once(Phase.VALIDATING, lambda: world.app.abort(None, who="bob"))


def taken_back_meanwhile(world: World) -> None:
    arrived(world)
    world.once(Phase.SHIFTING, lambda: world.app.rollback(None, None, who="bob"))


MANUAL = {"promotion": "manual"}


@pytest.mark.parametrize(
    ("settings", "before", "args", "code", "text"),
    [
        (MANUAL, waiting, ["promote"], 0, "ranker: version 2 is live, "),
        (MANUAL, waiting, ["promote", "2", "--full"], 0, "ranker: version 2 is live, "),
        (MANUAL, failing, ["promote"], 4, "Version 2 of ranker was rejected: output says so."),
        (SPLIT, stopped_meanwhile, ["promote"], 4, "was aborted: aborted by bob."),
        (SPLIT, taken_back_meanwhile, ["promote"], 4, "was rolled back: rolled back by bob."),
        ({}, held, ["promote"], 3, "not promoted"),
        ({}, rejected, ["promote", "2"], 3, "was refused"),
        ({}, rejected, ["retry"], 4, "was rejected: output says so."),
        ({}, rejected_for_a_moment, ["retry"], 0, "ranker: version 2 is live, "),
        ({}, rejected_for_a_moment, ["retry", "2", "--release", "retrained"], 0, "ranker: version 2 is live, "),
        (MANUAL, rejected_for_a_moment, ["retry"], 0, "ranker: version 2 passed every gate and waits"),
        (PAUSING, rejected_for_a_moment, ["retry"], 0, "ranker: version 2 has 20 % of the traffic and waits for"),
        ({}, held, ["abort"], 0, "ranker: version 2 was aborted; version 1 serves."),
        ({}, held, ["rollback"], 0, "ranker: version 2 was aborted; version 1 serves."),
        ({}, held, ["retry"], 0, "is not live: gate output does not have enough evidence."),
        (MANUAL, arrived, ["verify", "2"], 0, "ranker: version 2 passed every gate."),
        (MANUAL, skipping, ["verify", "2"], 0, "passed every gate but those that were skipped (output)."),
        (MANUAL, failing, ["verify", "2"], 4, "was rejected: output says so."),
        (MANUAL, stopped_meanwhile, ["verify", "2"], 4, "was aborted: aborted by bob."),
        (MANUAL, waiting, ["abort"], 0, "ranker: version 2 was aborted; version 1 serves."),
        (SPLIT, shifting, ["abort"], 0, "ranker: version 2 was rolled back; version 1 serves."),
        (SPLIT, shifting, ["rollback"], 0, "ranker: version 2 was rolled back; version 1 serves."),
        ({}, live, ["rollback"], 0, "ranker: version 1 is live, "),
        ({}, live_and_the_old_one_broken, ["rollback", "--to", "1"], 4, "Version 1 of ranker was rejected: "),
        ({}, live, ["abort"], 3, "No rollout"),
        ({}, live, ["promote", "9"], 3, "version 9"),
    ],
)
def test_how_it_ends(
    begin: BEGIN, ctl: Ctl, settings: Any, before: Callable[[World], None], args: list[str], code: int, text: str
) -> None:
    world = begin(**settings)
    before(world)
    done = ctl(*args)
    assert done.exit_code == code, done.output
    assert text in _said(done.stdout if code == 0 else done.stderr), done.output
    tidy(done.stdout)
    tidy(done.stderr)


def test_a_wait_tells_what_happens(begin: BEGIN, ctl: Ctl) -> None:
    world = begin(**PAUSING)
    arrived(world)
    world.once(Phase.WAITING, lambda: world.app.promote(None, 2, who="bob"))
    done = ctl("promote", "2")
    took = world.app.history()[0].time_to_live_s
    assert done.stdout == f"ranker: version 2 is live, {duration(took)} after it began.\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "The rollout of version 2 begins."
    told = [line[10:] for line in lines[1:]]
    assert told[:2] == ["rollout of version 2: promoted", "✔ integrity     pass     passed"]
    steps = [line for line in told if line.startswith("step")]
    assert steps == [
        "step 1/4: 20 % for 3 s", "step 2/4: pause", "step 3/4: 50 % for 3 s", "step 4/4: 100 %",
    ]  # fmt: skip
    assert world.app.rollout(2).who.endswith("via ctl")


def test_a_wait_that_begins_in_the_middle(begin: BEGIN, ctl: Ctl) -> None:
    """Who turns a rollout back knows what came before."""
    world = begin(**SPLIT)
    shifting(world)
    done = ctl("rollback")
    assert "Back to version 1." in done.stderr
    assert "rolled_back" in done.stderr
    assert "integrity" not in done.stderr


def test_json_prints_the_rollout(begin: BEGIN, ctl: Ctl) -> None:
    world = begin(**MANUAL)
    waiting(world)
    done = ctl("--output", "json", "promote")
    assert json.loads(done.stdout)["outcome"] == world.app.rollout(2).outcome
    failing_done = ctl("promote", "--output", "json", "--timeout", "60")
    assert (failing_done.exit_code, failing_done.stdout) == (3, "")


def test_a_failed_rollout_still_prints_its_json(begin: BEGIN, ctl: Ctl) -> None:
    world = begin(**MANUAL)
    failing(world)
    done = ctl("promote", "--output", "json")
    assert done.exit_code == 4
    assert json.loads(done.stdout) == encode(world.app.rollout(2))
    assert json.loads(done.stdout)["outcome"] == Outcome.REJECTED


def test_no_wait(begin: BEGIN, ctl: Ctl) -> None:
    world = begin(**MANUAL)
    waiting(world)
    done = ctl("promote", "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "The rollout of version 2 continues.\n")
    assert "rollout 2" in done.stderr
    ticket = json.loads(ctl("promote", "--no-wait", "--output", "json").stdout)
    assert ticket == {
        "service": "ranker",
        "rollout": 2,
        "until": "live",
        "message": "The rollout of version 2 continues.",
    }


def test_timeout(begin: BEGIN, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    world = begin(**MANUAL)
    arrived(world)
    clock = SimpleNamespace(monotonic=lambda: world.place.now, sleep=world.wait)
    monkeypatch.setattr(follow, "time", clock)
    done = ctl("promote", "--timeout", "2.5")
    assert done.exit_code == 6
    assert "ranker: not done after 2.5 s; the rollout's phase is: " in _said(done.stderr)
    assert "ctl abort" in _said(done.stderr)


def test_interrupted(begin: BEGIN, ctl: Ctl) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    world = begin(**MANUAL)
    arrived(world)
    world.meanwhile.append(press)
    done = ctl("promote")
    assert done.exit_code == 130
    assert "What was begun goes on" in done.stderr


# What the answers alone decide


def test_a_rollout_that_no_client_met_says_so() -> None:
    live = moment("ended live").stories[0]
    unmet = moment("live has no traffic").status.services[0]
    assert any(map(synthetic, unmet.gates)) is bool(follow._no_traffic(moment("live has no traffic").stories[0]))
    assert follow._no_traffic(live) == ""


def test_it_went_live_before_it_could_be_stopped() -> None:
    failure = follow._failure(moment("ended live").stories[0], follow.BACK)
    assert isinstance(failure, Refused)
    assert "went live before it could be stopped" in str(failure)


def test_the_service_is_passed_on(served: Recorder, ctl: Ctl) -> None:
    ctl("--service", "a", "promote", "--no-wait")
    ctl("promote", "--service", "b", "--no-wait")
    assert served.calls == [verbs.Promote("a"), verbs.Promote("b")]


def test_a_restart_of_the_control_plane_is_waited_out(
    served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.at("ended verified")
    turns = iter([Unreachable("It is away."), Unreachable("It is away."), None])
    story = moment("ended verified").stories[0]
    monkeypatch.setattr(follow, "_done", lambda *_: next(turns, "over") == "over")
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: setattr(served, "error", next(turns, None)))
    monkeypatch.setattr(follow, "time", clock)
    done = ctl("verify", str(story.candidate))
    assert done.exit_code == 0, done.output
    assert done.stderr.count("It is away.") == 1


def test_a_control_plane_that_stays_away(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def go(_: float) -> None:
        served.error = Unreachable("It is away.")

    monkeypatch.setattr(follow, "PATIENCE_S", 0.02)
    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=time.monotonic, sleep=go))
    served.at("rolling back")
    assert ctl("abort").exit_code == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [(Refused("No."), 3), (GateFailed("No."), 4), (Unreachable("No."), 5), (TritonError("No."), 1)],
)
def test_what_the_control_plane_raises(served: Recorder, ctl: Ctl, error: BatonError, code: int) -> None:
    served.error = error
    for args in (*VERBS, ["status"]):
        done = ctl(*args)
        assert (done.exit_code, done.stdout, done.stderr) == (code, "", "Error: No.\n")


@pytest.mark.parametrize(
    "args",
    [["promote", "x"], ["promote", "0"], ["verify"], ["nothing"], ["promote", "--timeout", "0"], ["--output", "xml"]],
)
def test_usage(served: Recorder, ctl: Ctl, args: list[str]) -> None:
    done = ctl(*args)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_pause_and_resume(begin: BEGIN, ctl: Ctl) -> None:
    world = begin()
    done = ctl("pause", "--yes", "--wait")
    assert (done.exit_code, world.app.status().paused) == (0, True)
    assert done.stdout.startswith("Paused")
    answer = json.loads(ctl("--output", "json", "resume").stdout)
    assert (answer["paused"], world.app.status().paused) == (False, False)


VERBS = [["promote"], ["rollback"], ["abort"], ["retry"], ["verify", "2"], ["pause"], ["resume"]]


@pytest.mark.parametrize("args", VERBS)
def test_a_person_is_asked_first(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    monkeypatch.setattr(follow, "can_ask", lambda: True)
    done = ctl(*args, "--no-wait", input="n\n")
    assert done.exit_code == 130
    assert "Nothing was done." in done.stderr
    assert served.calls == []
    assert ctl(*args, "--no-wait", input="y\n").exit_code == 0
    assert len(served.calls) == 1
    assert "?" not in ctl(*args, "--no-wait", "--yes").stderr


def test_a_pipe_is_never_asked(served: Recorder, ctl: Ctl) -> None:
    assert not output.can_ask()
    assert "?" not in ctl("promote", "--no-wait").stderr


def test_a_defect_is_one_line_unless_it_is_debugged(
    served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("baton.cli.change.follow", broken)
    done = ctl("promote")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ZeroDivisionError: oh.")
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("BATON_DEBUG", "1")
    assert isinstance(ctl("promote").exception, ZeroDivisionError)


def kept(world: World, *versions: int) -> set[int]:
    """Versions that went live one after the other, and what is on disk then."""
    for version in versions:
        world.place.drop(version)
        world.plane.live(version)
    return on_disk(world)


def on_disk(world: World) -> set[int]:
    return {int(p.name) for p in world.place.files.engine_dir.iterdir() if p.name.isdigit()}


def test_prune_shows_what_would_go_and_why_the_rest_stays(begin: BEGIN, ctl: Ctl) -> None:
    world = begin()
    assert kept(world, 2, 3, 4) == {1, 2, 3, 4}
    done = ctl("prune", "ranker", "--keep", "1", "--dry-run")
    assert done.exit_code == 0, done.output
    tidy(done.stdout)
    said = _said(done.stdout)
    assert said.startswith("ranker: version 1 would be removed, which frees ")
    for why in ("It is one of the 1 newest of the others.", "`ctl rollback` goes back to it.", "Version 4 serves."):
        assert why in said
    assert on_disk(world) == {1, 2, 3, 4}


def test_prune_removes_and_waits_until_it_is_done(begin: BEGIN, ctl: Ctl) -> None:
    world = begin()
    kept(world, 2, 3, 4)
    done = ctl("--output", "json", "prune", "--keep", "0", "--yes")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [v["version"] for v in answer["versions"] if v["goes"]] == [1, 2]
    assert answer["under_way"] is False
    assert on_disk(world) == {3, 4}
    again = ctl("prune", "--keep", "0")
    assert again.exit_code == 0
    assert _said(again.stdout).startswith("ranker: nothing to remove.")
    assert "removed from disk" in _said(ctl("history").stdout)
    assert "Removed versions 1 and 2 from disk" in _said(ctl("status").stdout)


def test_prune_without_a_number_is_refused_unless_it_is_configured(begin: BEGIN, ctl: Ctl) -> None:
    begin()
    done = ctl("prune")
    assert done.exit_code == 3
    assert "--keep N" in done.stderr


def test_prune_that_can_not_remove_says_why(begin: BEGIN, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Removal, version: int) -> None:
        raise RepositoryError(f"Version {version} can't be removed: Read-only file system.")

    world = begin()
    kept(world, 2, 3)
    monkeypatch.setattr(Removal, "take_out", refuse)
    done = ctl("prune", "--keep", "0", "--yes")
    assert done.exit_code == 3
    assert "version 1 stayed on disk. Version 1 can't be removed: Read-only file system." in _said(done.stderr)
    assert on_disk(world) == {1, 2, 3}


def test_prune_says_what_it_waits_for(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    away = replace(PRUNED, under_way=True, doing="Server b does not answer.")
    answers = iter([PRUNED, away, away, away, away, replace(PRUNED, versions=())])
    monkeypatch.setattr(served, "_answer", lambda _verb: next(answers))
    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))
    done = ctl("prune", "--yes")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("Server b does not answer.") == 1


def test_prune_waits_out_a_restart_of_the_control_plane(
    served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Pruned:
        raise Unreachable("It is away.")

    asked = replace(PRUNED, under_way=True)
    answers = iter([lambda: PRUNED, lambda: asked, away, away, lambda: asked, lambda: replace(PRUNED, versions=())])
    monkeypatch.setattr(served, "_answer", lambda _verb: next(answers)())
    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))
    done = ctl("prune", "--yes")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("It is away.") == 1
