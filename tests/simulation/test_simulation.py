"""The whole control plane under every fault that a seed can think of; and that this notices what it must not overlook.

``BATON_STEPS`` sets how many steps are taken (default 150,000).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.story import Story
from tests.simulation.tell import Failure, played, shortened, tell

from baton.domain import Kind, Rollout, Verdict
from baton.engine import service
from baton.engine.service import Service
from baton.engine.split import Split
from baton.journal import Journal
from baton.plan import Advance, Decision, Policy, SetAlias, SetPolicy, View, plan
from baton.plan.view import ServerView
from baton.triton.repository import ServiceFiles

STEPS = int(os.environ.get("BATON_STEPS", "150000"))
FIND_WITHIN = 60_000
"""Steps within which each planted defect must be found. Seeds are fixed, but the order of sets is not."""


def test_stories():
    tally = tell(0, lambda so_far: so_far.steps < STEPS)
    if tally.failure is not None:
        pytest.fail(str(shortened(tally.failure)), pytrace=False)
    missing = {"live", "verified", "rolled_back", "rejected", "aborted", "superseded"} - set(tally.outcomes)
    assert not missing or STEPS < 50_000, f"no story ended {missing}: the stories are too tame"


def test_a_seed_tells_the_same_story_again():
    with_faults = Story.of(11)
    first, second = ([], [])
    for trace in (first, second):
        tally = tell(11, lambda so_far: so_far.stories < 1)
        trace.append((tally.steps, tally.outcomes))
    assert first == second
    assert Story.of(11) == with_faults


def found() -> Failure:
    """What the simulation says of a planted defect."""
    tally = tell(0, lambda so_far: so_far.steps < FIND_WITHIN)
    assert tally.failure is not None, f"not found in {tally.steps} steps"
    return tally.failure


def planted(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(service, "plan", mutant)


def test_a_version_that_leaves_before_the_public_name_did_is_found(monkeypatch):
    def hasty(view: View, policy: Policy) -> Decision:
        one = view.rollout
        decision = plan(view, policy)
        if one is not None and isinstance(decision.effect, SetAlias) and decision.effect.version == one.candidate:
            return replace(decision, effect=SetPolicy(frozenset({one.candidate})))
        return decision

    planted(monkeypatch, hasty)
    assert "which the public name on" in found().why or "lacks the alias's version" in found().why


def test_a_version_that_serves_unproved_is_found(monkeypatch):
    """The verdict that failed is not written down, and the next gate is asked."""

    def record(self: Journal, rollout: Rollout, result: Any, at: float) -> None:
        real(self, rollout, replace(result, verdict=Verdict.PASS), at)

    real = Journal.record
    monkeypatch.setattr(Journal, "record", record)
    failure = found()
    assert "nobody asked" in failure.why
    assert any("is to serve, and nobody asked" in line for line in str(failure).splitlines())


def test_a_lease_that_is_counted_from_when_it_is_sent_is_found(monkeypatch):
    def steer(self: Split, view: View) -> None:
        one = view.rollout
        real(self, view if one is None or one.renewed_at is None else replace(view, rollout=replace(one, renewed_at=view.now + 600.0)))

    real = Split.steer
    monkeypatch.setattr(Split, "steer", steer)
    monkeypatch.setattr("baton.engine.split.min", lambda *given: given[0], raising=False)
    assert "holds a lease of" in found().why


def test_a_restart_that_forgets_the_rollout_is_found(monkeypatch):
    """The policy on disk is written before the journal is asked whether the version is still wanted."""

    def set_alias(self: ServiceFiles, version: int | None, *, split: bool = False) -> None:
        if version is not None and not split:
            (self.alias_dir / "config.pbtxt").unlink(missing_ok=True)
        real(self, version, split=split)

    real = ServiceFiles.set_alias
    monkeypatch.setattr(ServiceFiles, "set_alias", set_alias)
    failure = found()
    assert "find nobody" in failure.why or "lead" in failure.why or "never" in failure.why


def test_a_dead_version_that_nobody_notices_is_found(monkeypatch):
    monkeypatch.setattr("baton.engine.health.Health.watch", lambda *_: None)
    assert "its process is gone" in found().why


def test_a_stopped_rollout_that_goes_on_is_found(monkeypatch):
    def deaf(view: View, policy: Policy) -> Decision:
        one = view.rollout
        return plan(view if one is None else replace(view, rollout=replace(one, stop=None)), policy)

    planted(monkeypatch, deaf)
    assert "stopped" in found().why


__all__ = ["Advance", "Kind", "Mapping", "ServerView", "Service", "played"]
