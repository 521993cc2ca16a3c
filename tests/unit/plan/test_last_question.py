"""Before all traffic moves the candidate answers once more; one that does not answer goes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.settings import rollout_settings
from tests.unit.plan import rollouts
from tests.unit.plan.rollouts import READY

from baton.domain import Folder, Kind, ModelState, Outcome, Phase, Step
from baton.plan import Halt, ServerView, SetAlias, Unhealthy, View, plan
from baton.reasons import Reason, because

SETTINGS = rollout_settings(steps=(Step(weight=50.0, hold=10.0),), lease=15.0)
ROLLOUT = replace(rollouts.ROLLOUT, progress=10.0, progressed_at=90.0, renewed_at=99.0)


def view(**given) -> View:
    server = ServerView(
        "s0",
        live=True,
        engine={1: READY, 2: READY},
        alias={1: READY},
        split=True,
        splitter=ModelState.READY,
        steered=99.5,
    )
    return View(
        "ranker",
        now=100.0,
        version_policy=frozenset({1, 2}),
        alias=1,
        servers=(server,),
        split=True,
        splitter=1,
        folders={v: Folder(str(v), v, f"f{v}") for v in (1, 2)},
        loaded={1: "f1", 2: "f2"},
        rollout=ROLLOUT,
        **given,
    )


@pytest.mark.parametrize("answered", [{}, {("s0", 2): 89.0}, {("s0", 1): 99.0}])
def test_without_an_answer_after_its_last_step_nothing_moves(answered):
    decision = plan(view(answered=answered), SETTINGS)
    assert decision.effect is None
    assert decision.why == because(Reason.ASKED_ONCE_MORE, version=2, waiting=("s0",))


@pytest.mark.parametrize(
    ("why", "settings"), [({"full": True}, SETTINGS), ({"progressed_at": None}, rollout_settings(steps=()))]
)
def test_so_it_is_without_steps(why, settings):
    rollout = replace(ROLLOUT, **why)
    assert plan(replace(view(answered={("s0", 2): 40.0}), rollout=rollout), settings).effect is None
    assert plan(replace(view(answered={("s0", 2): 99.0}), rollout=rollout), settings).effect == SetAlias(2)


@pytest.mark.parametrize("why", [{"kind": Kind.ROLLBACK}, {"previous": None}])
def test_a_way_back_and_a_first_version_wait_for_nothing(why):
    seen = replace(view(answered={}), rollout=replace(ROLLOUT, progressed_at=None, **why))
    assert plan(seen, SETTINGS).effect == SetAlias(2)


@pytest.mark.parametrize("answered", [{("s0", 2): 90.5}, None])
def test_with_one_it_moves_and_where_nobody_can_be_asked(answered):
    assert plan(view(answered=answered), SETTINGS).effect == SetAlias(2)


@pytest.mark.parametrize(
    ("phase", "outcome"), [(Phase.SHADOWING, Outcome.REJECTED), (Phase.SHIFTING, Outcome.ROLLED_BACK)]
)
def test_one_that_does_not_answer_goes_back(phase, outcome):
    seen = replace(
        view(answered={}, unhealthy={("s0", 2): Unhealthy(98.0, "stub process is not healthy")}),
        rollout=replace(ROLLOUT, phase=phase),
    )
    effect = plan(seen, replace(SETTINGS, shadow_share=25.0, shadow_for=30.0)).effect
    assert isinstance(effect, Halt)
    assert effect.stop.outcome is outcome
    assert effect.stop.why == because(Reason.NO_ANSWER, version=2, server="s0", error="stub process is not healthy")
