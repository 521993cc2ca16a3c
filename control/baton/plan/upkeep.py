"""What comes first in every phase: repair the files that Triton reads, and record what the journal lacks."""

from __future__ import annotations

from baton.domain import Phase
from baton.plan.effects import AskAgain, Decision, RepairConfig, SetBackClock
from baton.plan.view import View
from baton.reasons import Reason, because

REPAIR_AFTER_S = 2.0
"""An editor that saves in place leaves a file half-written for a moment."""


def upkeep(view: View) -> Decision | None:
    """The first thing to put in order, or None when all is. While a file is broken nothing else is decided."""
    if view.repairs:
        due = (b for b in view.repairs if view.now - b.since >= REPAIR_AFTER_S)
        broken = next(due, None)
        why = because(Reason.CONFIG_BROKEN, error=(broken or view.repairs[0]).problem)
        return Decision(Phase.DEGRADED, why, None if broken is None else RepairConfig(broken.model))
    rollout = view.rollout
    if rollout is not None:
        if view.now < max(rollout.phase_since, rollout.progressed_at or 0, rollout.renewed_at or 0):
            return Decision(rollout.phase, because(Reason.CLOCK_SET_BACK), SetBackClock())
        if view.just_started and rollout.phase is Phase.WAITING and rollout.held() is not None:
            return Decision(rollout.phase, because(Reason.STARTED_AGAIN), AskAgain())
    if view.unrecorded:
        resting = Phase.EMPTY if view.alias is None else Phase.STEADY
        return Decision(resting if rollout is None else rollout.phase, because(Reason.RECORDING), view.unrecorded[0])
    return None
