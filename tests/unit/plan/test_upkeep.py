"""What comes before everything else: repairs, then what is wrong with the record, then what the record lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.plan.rollouts import ROLLOUT

from baton.domain import Gate, GateResult, Model, Phase, Verdict
from baton.plan import (
    AdoptVersion,
    AskAgain,
    BrokenConfig,
    Effect,
    RecordLoaded,
    RepairConfig,
    SetBackClock,
    View,
)
from baton.plan.upkeep import REPAIR_AFTER_S, upkeep
from baton.reasons import Reason

NOW = 1000.0
HELD = {Gate.OUTPUT: GateResult(Gate.OUTPUT, Verdict.HOLD, "no golden set")}
ALL = View(
    "ranker",
    NOW,
    frozenset({1}),
    1,
    (),
    rollout=replace(ROLLOUT, phase=Phase.WAITING, phase_since=NOW + 5.0, gates=HELD),
    just_started=True,
    repairs=(BrokenConfig(Model.ALIAS, "It is empty.", NOW - REPAIR_AFTER_S),),
    unrecorded=(RecordLoaded(), AdoptVersion()),
)
"""Everything at once."""


def effect_of(view: View) -> Effect | None:
    decision = upkeep(view)
    return None if decision is None else decision.effect


def test_one_thing_after_the_other():
    view, done = ALL, []
    for settled in (
        {"repairs": ()},
        {"rollout": replace(ALL.rollout, phase_since=NOW)},
        {"rollout": replace(ALL.rollout, phase_since=NOW, gates={})},
        {"unrecorded": (AdoptVersion(),)},
        {"unrecorded": ()},
    ):
        done.append(effect_of(view))
        view = replace(view, **settled)
    assert done == [RepairConfig(Model.ALIAS), SetBackClock(), AskAgain(), RecordLoaded(), AdoptVersion()]
    assert effect_of(view) is None


@pytest.mark.parametrize("field", ["phase_since", "progressed_at", "renewed_at"])
def test_no_time_of_the_rollout_lies_in_the_future(field):
    view = replace(ALL, repairs=(), rollout=replace(ROLLOUT, phase=Phase.WAITING, **{field: NOW + 0.1}))
    assert effect_of(view) == SetBackClock()
    assert effect_of(replace(view, now=NOW + 0.1)) != SetBackClock()


def test_a_file_that_just_broke_is_left_to_whoever_writes_it_and_nothing_is_decided_meanwhile():
    view = replace(ALL, repairs=(BrokenConfig(Model.ENGINE, "It is empty.", NOW - REPAIR_AFTER_S + 0.1),))
    decision = upkeep(view)
    assert decision is not None
    assert (decision.phase, decision.effect, decision.why.reason) == (Phase.DEGRADED, None, Reason.CONFIG_BROKEN)
    assert effect_of(replace(view, repairs=view.repairs + ALL.repairs)) == RepairConfig(Model.ALIAS), "which is due"


def test_gates_are_asked_again_only_by_one_that_just_started():
    view = replace(ALL, repairs=(), unrecorded=(), rollout=replace(ROLLOUT, phase=Phase.WAITING, gates=HELD))
    assert effect_of(view) == AskAgain()
    assert effect_of(replace(view, just_started=False)) != AskAgain()
    assert effect_of(replace(view, rollout=replace(ROLLOUT, phase=Phase.VALIDATING, gates=HELD))) != AskAgain()
