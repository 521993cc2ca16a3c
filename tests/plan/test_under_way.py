"""A call that moves the public name and ran while the servers were looked at: what it did is not seen yet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollouts import READY, ROLLOUT

from baton.domain import Folder, Model, Outcome, Phase, Stop
from baton.plan import Policy, ServerView, SetPolicy, Sync, View, plan

MOVING = Sync("s0", Model.ALIAS)


def back(previous: int | None, running: frozenset[Sync]) -> View:
    """Version 2 was stopped as its files were written. They say what they said before, and so does the server."""
    rollout = replace(
        ROLLOUT, previous=previous, phase=Phase.ROLLING_BACK, stop=Stop(Outcome.ABORTED, "ann", "aborted by ann")
    )
    versions = frozenset({2} if previous is None else {previous, 2})
    leads = {} if previous is None else {previous: READY}
    return View(
        "ranker",
        now=60.0,
        policy=versions,
        alias=previous,
        servers=(ServerView("s0", live=True, engine=dict.fromkeys(versions, READY), alias=leads),),
        folders={v: Folder(str(v), v, f"f{v}") for v in versions},
        loaded={v: f"f{v}" for v in versions},
        rollout=rollout,
        running=running,
    )


@pytest.mark.parametrize("previous", [None, 1])
def test_nothing_is_dropped_until_it_is(previous):
    decision = plan(back(previous, frozenset({MOVING})), Policy())
    assert decision.effect is None
    assert "public name" in decision.message
    kept = frozenset() if previous is None else frozenset({previous})
    assert plan(back(previous, frozenset()), Policy()).effect == SetPolicy(kept)
