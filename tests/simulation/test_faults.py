"""Faults that need more than one move: that each does what it says, and that Baton comes out of it by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.simulation.events import HAPPENS, Move, _processes, make
from tests.simulation.hands import UNUSABLE, no_policy
from tests.simulation.servers import REFUSED_KEY, Processes
from tests.simulation.story import Story, quiet, yard_of
from tests.simulation.yard import Yard
from tests.support.reasons import within
from tests.support.rules import ALIAS, ENGINE, SPLITTER, Broken

from baton import plan as planning
from baton.config import RolloutConfig, TrafficConfig
from baton.controller.config_repairer import ConfigRepairer
from baton.domain import Phase, Step
from baton.reasons import Reason
from baton.triton.quarantine import QuarantineTriton
from baton.triton.repository import SPLITTER_VERSION

pytestmark = pytest.mark.slow
MODELS = (ENGINE, ENGINE, ALIAS, SPLITTER)
"""As the move ``edit`` chooses among them."""


def move(what: str, a: int = 0, b: int = 0, c: int = 0) -> Move:
    return Move(what, a, b, c)


def edit(model: str, kind: int, which: int = 0) -> Move:
    return move("edit", MODELS.index(model), kind, which)


def happen(yard: Yard, *moves: Move) -> None:
    for one in moves:
        make(yard, lambda one=one: HAPPENS[one.what](yard, one))  # type: ignore[misc]


@contextmanager
def split(*, near: bool = False) -> Iterator[Yard]:
    """Version 1 is live on two servers, and version 2 stands before a pause with a share of the traffic.

    ``near``: the control plane sees the servers' processes.
    """
    story = Story.of(4 if near else 0)
    traffic = TrafficConfig(steps=(Step(50.0, hold=5.0), Step(pause=True)), shadow_share=0.0)
    config = replace(
        story.config, rollout=RolloutConfig(settle=0.0, load_timeout=60.0, keep_previous=5.0), traffic=traffic
    )
    with yard_of(replace(story, servers=2, config=config)) as yard:
        play_to_split = [move("start"), move("arrive")] + [move("calm")] * 4 + [move("arrive", b=1)]
        happen(yard, *play_to_split, *[move("calm")] * 6)
        assert yard.files.split, yard.decision
        yield yard


@pytest.mark.parametrize(("model", "which"), [(m, n) for m, kinds in UNUSABLE.items() for n in range(len(kinds))])
def test_what_a_hand_made_unusable_is_put_back_and_the_split_goes_on(model, which):
    with split() as yard:
        happen(yard, edit(ENGINE, 5, 1), move("calm"), edit(model, 0, which))
        assert yard.wrong == {model}
        happen(yard, *[move("calm")] * 2)
        assert not yard.wrong
        assert yard.files.split
        quiet(yard)
        assert "by_hand" in (yard.files.hands.text(ENGINE) or "")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_policy_that_a_hand_wrote_names_what_serves_again(which, restarted):
    with split() as yard:
        before = yard.files.alias
        happen(yard, edit(ENGINE, 8, which))
        assert yard.wrong == {ENGINE}
        assert before not in yard.files.policy
        if restarted:
            happen(yard, move("restart", 0), move("restart", 1))
        happen(yard, move("calm"), move("calm"))
        assert before in yard.files.policy
        assert not yard.wrong
        quiet(yard)


def test_an_alias_that_a_hand_pointed_at_another_version_stays_there():
    with split() as yard:
        happen(yard, edit(ALIAS, 9))
        quiet(yard)
        assert yard.files.alias == 3
        assert any(Reason.OVERTAKEN in within(r.ended_why) for r in yard.plane.journal.rollouts.newest())


@pytest.mark.parametrize("how", range(3))
def test_a_frozen_repository_changes_nothing_and_the_split_goes_on(how):
    with split() as yard:
        happen(yard, edit(ENGINE, 5, 1), move("freeze", how, 22, how), *[move("loop", 1)] * 4)
        assert yard.decision.phase is Phase.DEGRADED
        assert os.strerror(yard.frozen_error) in yard.decision.message
        happen(yard, *[move("calm")] * 8)
        assert yard.files.split
        quiet(yard)
        assert "by_hand" in (yard.files.hands.text(ENGINE) or "")


def test_a_refused_key_costs_no_request_and_no_version():
    with split() as yard:
        happen(yard, move("refuse", 0, 1), move("refuse", 1, 1), *[move("loop", 1)] * 6)
        assert all(REFUSED_KEY in s.reason for s in yard.plane.service.view.servers)
        assert all(yard.answers(s) for s in yard.servers.values())
        happen(yard, *[move("calm")] * 8)
        assert yard.files.split
        quiet(yard)


def test_a_key_that_is_refused_between_a_look_and_a_load_call_is_not_held_against_the_version():
    with split() as yard:
        happen(yard, move("skip"), *[move("calm")] * 4, move("arrive", b=1))
        begun = len(yard.trace)
        while not any("-> sync engine on a" in line for line in yard.trace[begun:]):
            happen(yard, move("loop", 1) if yard.plane.round.run.dead else move("task"))
            assert yard.steps < 2000, yard.decision
        happen(yard, move("refuse", 0, 1), *[move("task")] * 9)
        assert any(REFUSED_KEY in line for line in map(str, yard.plane.service.tasks.failed().values()))
        quiet(yard)
        assert yard.files.alias == 4


def stand(yard: Yard, which: str) -> tuple[str, int]:
    """The process of the stable version, the candidate or the splitter stands still on the first server for 3 s."""
    assert yard.rollout is not None
    version = yard.files.alias if which == "stable" else yard.rollout.candidate
    assert version is not None
    what = (SPLITTER, SPLITTER_VERSION) if which == "splitter" else (ENGINE, version)
    happen(yard, move("stand", 0, _processes(yard.servers["a"]).index(what)), move("loop", 1), move("time", 12))
    return what


@pytest.mark.parametrize("which", ["stable", "candidate", "splitter"])
@pytest.mark.parametrize("near", [True, False])
def test_what_stands_still_in_a_split_and_goes_on_takes_nothing_down(which, near):
    with split(near=near) as yard:
        what = stand(yard, which)
        if near:
            happen(yard, move("wake"))
        else:  # nobody can end it: it goes on when clients ask it no more
            happen(yard, *[move("calm")] * 4)
            yard.servers["a"].wake(*what)
        happen(yard, *[move("calm")] * 4)
        quiet(yard)
        assert yard.servers["a"].aborted == 0


def test_a_process_that_nobody_ends_is_found(monkeypatch):
    monkeypatch.setattr(Processes, "guard", lambda *_: None)
    with split(near=True) as yard:
        stand(yard, "stable")
        happen(yard, move("loop", 1))
        with pytest.raises(Broken, match="a process that went on took a down"):
            happen(yard, move("wake"))


def test_another_question_to_what_was_given_up_is_found(monkeypatch):
    monkeypatch.setattr(QuarantineTriton, "infer", lambda self, *asked: self._triton.infer(*asked))
    with split() as yard:
        what = stand(yard, "candidate")
        while not yard.servers["a"].models.slots[ENGINE][what[1]].given_up:
            happen(yard, move("task"), move("time", 12))
            assert yard.steps < 2000, yard.decision
        happen(yard, *[move("task")] * 9)  # until that question has failed
        yard.servers["a"].wake(*what)
        with pytest.raises(Broken, match="a question of Baton's took server a down"):
            happen(yard, *[move("calm")] * 4)


def test_a_policy_that_nobody_puts_right_is_found(monkeypatch):
    monkeypatch.setattr(planning, "repair_version_policy", lambda _view: None)
    with split() as yard, pytest.raises(Broken, match="lacks the alias's version"):
        happen(yard, edit(ENGINE, 8, 1), *[move("calm")] * 2, move("skip"), move("calm"))


def test_an_edit_that_is_lost_is_found(monkeypatch):
    """The whole file is put back where only its policy was lacking."""

    monkeypatch.setattr(ConfigRepairer, "_repaired", lambda *given: (given[-1], "the whole file as it last was"))
    with split() as yard, pytest.raises(Broken, match="an edit by hand is lost"):
        happen(yard, edit(ENGINE, 5), edit(ENGINE, 0, UNUSABLE[ENGINE].index(no_policy)), *[move("calm")] * 2)
