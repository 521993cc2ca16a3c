"""Sentences that can be reached by several ways, and say of each what is so."""

from __future__ import annotations

from baton.domain import FILE_GATES, GATES_OF, Gate, Rollout
from baton.evidence import synthetic
from baton.plan.traffic import shadowed
from baton.plan.view import Policy, View


def files_proved(rollout: Rollout) -> str:
    """The gates that look at the folder and the machine have passed."""
    if (gate := rollout.gates.get(Gate.CAPACITY)) is not None and gate.skipped:
        return "The files are whole and fit; whether there is room for them could not be told."
    return "The files are whole, fit, and there is room."


def gates_passed(rollout: Rollout) -> str:
    """All gates have, as a sentence without its full stop. Of one that was skipped it may not be said."""
    gates = (g for g in GATES_OF[rollout.kind] if g not in FILE_GATES)
    skipped = [str(g) for g in gates if (result := rollout.gates.get(g)) is not None and result.skipped]
    if not skipped:
        return "every gate passed"
    return f"every gate passed but those that were skipped ({', '.join(skipped)})"


def shadow_over(rollout: Rollout, policy: Policy) -> str:
    """Nothing more is mirrored before traffic comes."""
    version, gate = rollout.candidate, rollout.gates.get(Gate.LIVE)
    if rollout.full:
        return f"Version {version} is promoted in full: what was left of the shadow is skipped."
    if not shadowed(policy):
        return f"No requests are mirrored to version {version} any more: so it is configured now."
    if count := synthetic(gate):
        return (
            f"Version {version} answered mirrored requests well, in the end {count} golden ones for want of live ones."
        )
    return f"Version {version} answered mirrored requests well."


def past_pause(rollout: Rollout) -> str:
    """It stood at a pause step, and does no longer."""
    if rollout.full:
        return "The rest of its way is skipped."
    if rollout.approvals:
        return "A person let it go past the pause."
    return "Its way has no pause here any more: so it is configured now."


def kept(view: View, rollout: Rollout, policy: Policy) -> str:
    """The time for an instant way back is over."""
    previous = rollout.previous
    if not loaded(view, previous):
        return f"Version {previous}, which was to be kept for an instant way back, is not loaded any more."
    if policy.keep_previous <= 0:
        return f"Version {previous} is not kept: keep_previous is 0."
    if view.now - rollout.phase_since < policy.keep_previous:
        return f"Version {previous} is kept no longer: a newer version arrived, and supersedes it."
    return f"Version {previous} was kept for its time."


def keeping(view: View, rollout: Rollout, until: str) -> str:
    """The previous version is kept for an instant way back."""
    version, previous = rollout.candidate, rollout.previous
    if not loaded(view, previous):
        return f"Version {version} serves; version {previous} is not loaded, so the way back takes as long as a load."
    return f"Version {version} serves; version {previous} stays loaded for an instant way back {until}."


def loaded(view: View, version: int | None) -> bool:
    """Whether every server that answers has it READY."""
    return all(version in s.ready() for s in view.live())
