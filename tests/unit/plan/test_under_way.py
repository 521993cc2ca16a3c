"""A call that ran while the servers were looked at: what it did is not seen yet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.settings import rollout_settings
from tests.unit.plan.rollouts import READY, ROLLOUT

from baton.domain import Folder, Gate, Model, ModelState, Outcome, Phase, Stop
from baton.plan import Failure, Halt, ServerView, SetPolicy, Steer, Sync, View, plan
from baton.reasons import Reason, because

MOVING = Sync("s0", Model.ALIAS)


def back(previous: int | None, running: frozenset[Sync]) -> View:
    """Version 2 was stopped as its files were written. They say what they said before, and so does the server."""
    rollout = replace(
        ROLLOUT,
        previous=previous,
        phase=Phase.ROLLING_BACK,
        stop=Stop(Outcome.ABORTED, "ann", because(Reason.ABORTED, who="ann")),
    )
    versions = frozenset({2} if previous is None else {previous, 2})
    leads = {} if previous is None else {previous: READY}
    return View(
        "ranker",
        now=60.0,
        version_policy=versions,
        alias=previous,
        servers=(ServerView("s0", live=True, engine=dict.fromkeys(versions, READY), alias=leads),),
        folders={v: Folder(str(v), v, f"f{v}") for v in versions},
        loaded={v: f"f{v}" for v in versions},
        rollout=rollout,
        running=running,
    )


@pytest.mark.parametrize("previous", [None, 1])
def test_nothing_is_dropped_until_it_is(previous):
    decision = plan(back(previous, frozenset({MOVING})), rollout_settings())
    assert decision.effect is None
    assert decision.why.reason in (Reason.MOVING_ALIAS, Reason.REMOVING_ALIAS)
    kept = frozenset() if previous is None else frozenset({previous})
    assert plan(back(previous, frozenset()), rollout_settings()).effect == SetPolicy(kept)


def test_a_splitter_that_is_still_being_loaded_is_waited_for():
    view = replace(back(1, frozenset({Sync("s0", Model.SPLITTER)})), version_policy=frozenset({1}))
    decision = plan(view, rollout_settings())
    assert decision.effect is None
    assert decision.why == because(Reason.REMOVING_SPLITTER, server="s0")


@pytest.mark.parametrize(("refused", "reason"), [(True, Reason.SPLITTER_REFUSED), (False, Reason.SPLITTER_NOT_LOADED)])
def test_a_splitter_that_does_not_load_says_what_to_do(refused, reason):
    failure = Failure(59.5, 3, "loading took too long.", refused=refused)
    rollout = replace(ROLLOUT, phase=Phase.SHADOWING, stop=None)
    view = replace(back(1, frozenset()), rollout=rollout, splitter=1, failed={Sync("s0", Model.SPLITTER): failure})
    decision = plan(view, rollout_settings(shadow_share=10.0, shadow_for=10.0))
    assert decision.effect is None
    assert (decision.why.reason, decision.why.figures["error"]) == (reason, "loading took too long.")


@pytest.mark.parametrize(("refused", "count", "ends"), [(True, 1, True), (False, 1, False), (False, 3, True)])
def test_a_splitter_that_dies_before_anybody_depends_on_it(refused, count, ends):
    view = back(1, frozenset())
    servers = (replace(view.servers[0], splitter=ModelState.READY),)
    rollout = replace(ROLLOUT, phase=Phase.SHADOWING, stop=None)
    failed = {Steer("s0"): Failure(59.5, count, "its process is gone.", refused=refused)}
    view = replace(view, rollout=rollout, servers=servers, splitter=1, failed=failed)
    effect = plan(view, rollout_settings(shadow_share=10.0, shadow_for=10.0)).effect
    why = because(Reason.SPLITTER_SILENT, server="s0", error="its process is gone.")
    assert effect == (Halt(Stop(Outcome.ABORTED, "engine", why)) if ends else None)


@pytest.mark.parametrize("phase", [Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING, Phase.WAITING])
def test_a_stable_version_that_a_load_call_took_out_comes_back_before_anything_else(phase):
    """The call read a config.pbtxt that a person had just written, and the candidate is READY all the same."""
    view = back(1, frozenset())
    gone = replace(view.servers[0], engine={2: READY}, alias={})
    rollout = replace(ROLLOUT, phase=phase, stop=None)
    view = replace(view, rollout=rollout, servers=(gone,))
    load = Sync("s0", Model.ENGINE)
    assert plan(view, rollout_settings()).effect == load
    under_way = plan(replace(view, running=frozenset({load})), rollout_settings())
    assert (under_way.effect, under_way.why) == (None, because(Reason.LOADING, version=1, server="s0"))
    loaded = replace(view, servers=(replace(gone, engine={1: READY, 2: READY}),))
    assert plan(loaded, rollout_settings()).effect == MOVING


def test_a_candidate_may_mend_what_the_stable_version_no_longer_can():
    view = back(1, frozenset())
    gone = replace(view.servers[0], engine={2: READY}, alias={})
    failed = {Sync("s0", Model.ENGINE): Failure(59.5, 1, "broken", refused=True)}
    rollout = replace(ROLLOUT, phase=Phase.VALIDATING, stop=None)
    decision = plan(replace(view, rollout=rollout, servers=(gone,), failed=failed), rollout_settings())
    assert decision.why == because(Reason.GATE_LOOKS, gate=Gate.WARMUP, version=2)
