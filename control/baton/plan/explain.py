"""Reasons of which several hold by different ways: of each it is told only what is so."""

from __future__ import annotations

from baton.domain import FILE_GATES, GATES_OF, Gate, Rollout
from baton.evidence import synthetic
from baton.plan.traffic import shadowed
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, Why, because


def files_proved(rollout: Rollout) -> Why:
    """The gates that look at the folder and the machine have passed."""
    gate = rollout.gates.get(Gate.CAPACITY)
    return because(Reason.FILES_PROVED_ROOM_UNKNOWN if gate is not None and gate.skipped else Reason.FILES_PROVED)


def skipped(rollout: Rollout) -> tuple[str, ...]:
    """Of the gates of answers: those that had nothing to compare with."""
    gates = (g for g in GATES_OF[rollout.kind] if g not in FILE_GATES)
    return tuple(str(g) for g in gates if (result := rollout.gates.get(g)) is not None and result.skipped)


def shadow_over(rollout: Rollout, settings: RolloutSettings) -> Why:
    """Nothing more is mirrored before traffic comes."""
    version, gate = rollout.candidate, rollout.gates.get(Gate.LIVE)
    if rollout.full:
        return because(Reason.SHADOW_SKIPPED, version=version)
    if not shadowed(settings):
        return because(Reason.SHADOW_OFF, version=version)
    return because(Reason.SHADOW_GOOD, version=version, golden=synthetic(gate))


def past_pause(rollout: Rollout) -> Why:
    """It stood at a pause step, and does no longer."""
    if rollout.full:
        return because(Reason.WAY_SKIPPED)
    return because(Reason.PAUSE_PASSED if rollout.approvals else Reason.PAUSE_GONE)


def kept(view: View, rollout: Rollout, settings: RolloutSettings) -> Why:
    """The time of the standby is over."""
    previous = rollout.previous
    if not loaded(view, previous):
        return because(Reason.STANDBY_LOST, version=previous)
    if settings.keep_previous <= 0:
        return because(Reason.NOT_KEPT, version=previous)
    early = view.now - rollout.phase_since < settings.keep_previous
    return because(Reason.STANDBY_SUPERSEDED if early else Reason.KEPT, version=previous)


def keeping(view: View, rollout: Rollout, left_s: float) -> Why:
    """The previous version is the standby: for a time, or until a person resumes."""
    version, previous, hold = rollout.candidate, rollout.previous, view.hold_reason()
    if not loaded(view, previous):
        return because(Reason.KEEPING_NOTHING, version=version, previous=previous, hold=hold)
    return because(Reason.KEEPING, version=version, previous=previous, left_s=max(0.0, left_s), hold=hold)


def loaded(view: View, version: int | None) -> bool:
    """Whether every server that answers has it READY."""
    return all(version in s.ready() for s in view.live())
