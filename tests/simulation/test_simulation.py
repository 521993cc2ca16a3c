"""The whole control plane under every fault that a seed can think of; and that this notices what it must not overlook.

``make test`` has PYTHONHASHSEED=0, so that a seed tells the same story each time; new stories are looked for by
``python -m tests.simulation`` and ``make chaos``. ``BATON_STEPS`` sets how many steps are taken (default 30,000).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.story import WEIGHTS, Story, play, yard_of
from tests.simulation.tell import Failure, shortened, tell

from baton.controller import service
from baton.controller.splitter_client import SplitterClient
from baton.domain import Rollout, Route, Verdict
from baton.journal.rollouts import Rollouts
from baton.plan import Decision, RolloutSettings, SetAlias, SetPolicy, View, plan, prune
from baton.reasons import Reason, Why
from baton.triton.key import Caps
from baton.triton.repository import ServiceFiles

pytestmark = pytest.mark.slow

STEPS = int(os.environ.get("BATON_STEPS", "30000"))
PRUNED_FROM = 5000
"""The first of the stories in which versions are removed although they are needed."""
FIND_WITHIN = 60_000
"""Steps within which each planted defect must be found, from the seed on that found it before."""


def test_stories():
    tally = tell(1000, lambda so_far: so_far.steps < STEPS)
    if tally.failure is not None:
        pytest.fail(str(shortened(tally.failure)), pytrace=False)
    missing = {"live", "verified", "rolled_back", "rejected", "aborted", "superseded"} - set(tally.outcomes)
    assert not missing or STEPS < 30_000, f"no story ended {missing}: the stories are too tame"
    assert tally.pruned or STEPS < 30_000, "no version was removed from disk: the stories are too tame"


def test_a_seed_tells_the_same_story_again():
    def trace() -> list[str]:
        story = Story.of(11)
        with yard_of(story) as yard:
            play(yard, story.moves)
            return yard.trace

    assert trace() == trace()


def found(seed: int) -> Failure:
    """What the simulation says of a planted defect. ``seed``: of the first story that is told."""
    tally = tell(seed, lambda so_far: so_far.steps < FIND_WITHIN)
    assert tally.failure is not None, f"not found in {tally.steps} steps"
    return tally.failure


def planted(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(service, "plan", mutant)


def test_a_version_that_leaves_before_the_alias_did_is_found(monkeypatch):
    def hasty(view: View, settings: RolloutSettings) -> Decision:
        one = view.rollout
        decision = plan(view, settings)
        moves = isinstance(decision.effect, SetAlias) and decision.effect.version not in (None, view.alias)
        if one is not None and moves and view.alias is not None:
            return replace(decision, effect=SetPolicy(frozenset({one.candidate})))
        return decision

    planted(monkeypatch, hasty)
    assert "which the alias on" in (why := found(0).why) or "lacks the alias's version" in why


def test_a_version_that_serves_unproved_is_found(monkeypatch):
    """The verdict that failed is not written down, and the next gate is asked."""

    def record(self: Rollouts, rollout: Rollout, result: Any, at: float) -> None:
        real(self, rollout, replace(result, verdict=Verdict.PASS), at)

    real = Rollouts.record
    monkeypatch.setattr(Rollouts, "record", record)
    failure = found(12)
    assert "nobody asked" in failure.why
    assert any("is to serve, and nobody asked" in line for line in str(failure).splitlines())


def test_a_lease_that_a_route_makes_longer_is_found(monkeypatch):
    def exchange(self: SplitterClient, server: str, route: Route | None, lease_s: float, *rest: Any) -> None:
        real(self, server, route, lease_s + 10.0, *rest)

    real, caps = SplitterClient.exchange, Caps.of
    monkeypatch.setattr(SplitterClient, "exchange", exchange)
    # The splitter's own cap would stop it.
    monkeypatch.setattr(Caps, "of", lambda traffic: replace(caps(traffic), lease_s=3600.0))
    assert "holds a lease of" in found(0).why


def test_a_file_that_is_missing_for_a_moment_is_found(monkeypatch):
    """A crash in that moment leaves no alias on disk."""

    def set_alias(self: ServiceFiles, version: int | None, *, split: bool = False) -> None:
        if version is not None:
            (self.alias_dir / "config.pbtxt").unlink(missing_ok=True)
        real(self, version, split=split)

    real = ServiceFiles.set_alias
    monkeypatch.setattr(ServiceFiles, "set_alias", set_alias)
    monkeypatch.setitem(WEIGHTS, "fuse", 40)  # the moment is short
    assert "the alias is gone from the disk" in found(1).why


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        (Reason.SERVES, "and it serves"),
        (Reason.STAYS_WAY_BACK, "and a rollback goes to it"),
        (Reason.STAYS_WAITING, "and its rollout has not begun"),
    ],
)
def test_a_version_that_is_removed_although_it_is_needed_is_found(monkeypatch, needs, why):
    def careless(*given: Any) -> Why | None:
        found = real(*given)
        return None if found is not None and found.reason is needs else found

    real = prune.needed
    monkeypatch.setattr(prune, "needed", careless)
    assert why in found(PRUNED_FROM).why


def test_a_stopped_rollout_that_goes_on_is_found(monkeypatch):
    def deaf(view: View, settings: RolloutSettings) -> Decision:
        one = view.rollout
        return plan(view if one is None else replace(view, rollout=replace(one, stop=None)), settings)

    planted(monkeypatch, deaf)
    why = found(102).why
    assert "stopped" in why or "never ends" in why
