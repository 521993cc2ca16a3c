"""A rollout that began in place of a version that is lost, and that ends badly."""

from __future__ import annotations

from dataclasses import replace

from tests.support.settings import rollout_settings
from tests.unit.plan.rollouts import READY, ROLLOUT

from baton.domain import Folder, Outcome, Phase, Stop
from baton.plan import End, ServerView, SetPolicy, View, plan
from baton.reasons import Reason, because

STOP = Stop(Outcome.REJECTED, "gate", because(Reason.OTHER, text="too slow"))


def going(policy: set[int], held: set[int]) -> View:
    """Version 1 is nowhere, and the alias's files lead to it; version 2 turns back."""
    return View(
        "ranker",
        now=60.0,
        version_policy=frozenset(policy),
        alias=1,
        servers=(ServerView("s0", live=True, engine=dict.fromkeys(held, READY)),),
        folders={v: Folder(str(v), v, f"f{v}") for v in (1, 2)},
        rollout=replace(ROLLOUT, previous=None, phase=Phase.ROLLING_BACK, stop=STOP),
    )


def test_the_policy_does_not_name_what_is_lost_until_the_candidate_has_left():
    assert plan(going({2}, {2}), rollout_settings()).effect == SetPolicy(frozenset())
    assert plan(going(set(), set()), rollout_settings()).effect == SetPolicy(frozenset({1}))
    assert plan(going({1}, set()), rollout_settings()).effect == End(STOP.outcome, STOP.why)
