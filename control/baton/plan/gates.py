"""The phases that ask gates: ``verifying``, ``validating``, and ``waiting`` for a person or for evidence."""

from __future__ import annotations

from baton.domain import FILE_GATES, GATES_OF, Gate, GateResult, Kind, Outcome, Phase, Rollout, Verdict
from baton.plan.converge import load, unload_all_but
from baton.plan.effects import Advance, Ask, Decision, halt
from baton.plan.loading import kept_loaded
from baton.plan.traffic import before_traffic, first_phase, position_of, progress_traffic
from baton.plan.view import RolloutSettings, View, backoff, failure_text
from baton.reasons import Reason, Why, because


def verifying(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The gates of files."""
    if (leftover := _unload_leftover(view, rollout, settings)) is not None:
        return leftover
    room = rollout.gates.get(Gate.CAPACITY)
    why = because(Reason.FILES_PROVED_ROOM_UNKNOWN if room is not None and room.skipped else Reason.FILES_PROVED)
    decision = _ask_gates(view, rollout, settings, FILE_GATES, Phase.LOADING, why)
    if isinstance(decision.effect, Advance) and view.unreachable():
        # A server that is away may hold an earlier state of the candidate, which would count as loaded.
        return Decision(Phase.VERIFYING, because(Reason.LOADS_ONCE_ALL_ANSWER, why=why, servers=view.unreachable()))
    return decision


def _unload_leftover(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What an earlier rollout left of the candidate is unloaded first: its folder may have held something else then.

    What the policy names stays: clients may ask the engine for it, or the journal that knew of it was lost.
    """
    version = rollout.candidate
    named = version in view.version_policy or version == view.alias
    if rollout.kind is Kind.ROLLBACK or named or not any(version in s.in_memory() for s in view.live()):
        return None
    return unload_all_but(view, Phase.VERIFYING, kept_loaded(view, rollout), rollout.phase_since, settings)


def validating(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The gates of answers, asked of the loaded candidate."""
    gates = tuple(g for g in GATES_OF[rollout.kind] if g not in FILE_GATES and g is not Gate.LOAD)
    missing = load(view, Phase.VALIDATING, rollout.candidate)
    if missing is not None and not any(isinstance(e, Ask) for e in view.running):
        return missing
    if rollout.kind is Kind.CHECK:
        why = because(Reason.CHECK_PASSED, skipped=skipped(rollout))
        return _ask_gates(view, rollout, settings, gates, Phase.RETIRING, why)
    why = because(Reason.GATES_PASSED, skipped=skipped(rollout))
    if rollout.kind is Kind.ROLLOUT and not settings.automatic and not rollout.promoted:
        return _ask_gates(view, rollout, settings, gates, Phase.WAITING, why)
    return _ask_gates(view, rollout, settings, gates, first_phase(rollout, settings), why)


def waiting(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """For a person: before traffic, or at a pause step. Or for evidence that a gate lacks."""
    phase, version = Phase.WAITING, rollout.candidate
    if not before_traffic(rollout):
        if position_of(rollout, settings).pause:
            held = progress_traffic(view, rollout, settings)
            assert held is not None  # noqa: S101 - at a pause step not all steps are done
            return held
        past = Reason.PAUSE_PASSED if rollout.approvals else Reason.PAUSE_GONE
        why = because(Reason.WAY_SKIPPED if rollout.full else past)
        return Decision(phase, why, Advance(Phase.SHIFTING, why))
    if (lacking := _lacks_evidence(view, rollout)) is not None:
        return lacking
    if rollout.promoted:
        why = because(Reason.PERSON_PROMOTED)
        return Decision(phase, why, Advance(first_phase(rollout, settings), why))
    why = because(Reason.WAITS_FOR_PROMOTION, version=version, skipped=skipped(rollout))
    return load(view, phase, version) or Decision(phase, why)


def _lacks_evidence(view: View, rollout: Rollout) -> Decision | None:
    """A gate holds, whoever promotes the rollout. When it is asked again, the rollout goes back to its gates."""
    version, phase = rollout.candidate, Phase.WAITING
    if (held := rollout.held()) is not None:
        missing = None if held.gate in FILE_GATES else load(view, phase, version)
        figures = {"version": version, "previous": rollout.previous}
        return missing or Decision(phase, because(Reason.UNJUDGED, **figures, gate=held.gate, said=held.message))
    unasked = next((g for g in GATES_OF[rollout.kind] if g not in rollout.gates), None)
    if unasked is None:
        return None
    why = because(Reason.GATE_AGAIN, gate=unasked)
    return Decision(phase, why, Advance(Phase.VERIFYING if unasked in FILE_GATES else Phase.VALIDATING, why))


def skipped(rollout: Rollout) -> tuple[str, ...]:
    """The gates of answers that had nothing to compare with."""
    gates = (g for g in GATES_OF[rollout.kind] if g not in FILE_GATES)
    return tuple(str(g) for g in gates if (result := rollout.gates.get(g)) is not None and result.skipped)


def _ask_gates(
    view: View, rollout: Rollout, settings: RolloutSettings, gates: tuple[Gate, ...], then: Phase, why: Why
) -> Decision:
    """Ask the gates in turn; the first that fails turns the rollout back."""
    for gate in gates:
        result = rollout.gates.get(gate)
        if result is None or result.verdict in (Verdict.PENDING, Verdict.RUNNING):
            return _ask(view, rollout, gate)
        if result.verdict is Verdict.FAIL:
            failed = because(Reason.GATE_FAILED, gate=gate, said=result.message)
            return halt(rollout, Outcome.REJECTED, "gate", failed, gate)
        if result.verdict is Verdict.HOLD:
            return _held(view, rollout, settings, result)
    if view.frozen():
        return Decision(rollout.phase, because(Reason.COULD_GO_ON, version=rollout.candidate))
    return Decision(rollout.phase, why, Advance(then, why))


def _ask(view: View, rollout: Rollout, gate: Gate) -> Decision:
    """Ask a gate, or wait where it is being asked, or where asking it just failed (Triton went away, for example)."""
    effect, failure = Ask(gate), view.failed.get(Ask(gate))
    doing = because(Reason.GATE_LOOKS, gate=gate, version=rollout.candidate)
    if effect in view.running:
        return Decision(rollout.phase, doing, waits=effect)
    if failure is None or not backoff(failure, view.now):
        return Decision(rollout.phase, doing, effect, waits=effect)
    why = because(Reason.GATE_COULD_NOT_LOOK, gate=gate, version=rollout.candidate, error=failure_text(failure))
    return Decision(rollout.phase, why, waits=effect)


def _held(view: View, rollout: Rollout, settings: RolloutSettings, result: GateResult) -> Decision:
    """Ask a gate that held again after a pause, and leave it to a person in the end.

    Nothing is promoted without evidence. Nothing is refused without it either: that says nothing of the version.
    """
    gate, attempts, missing = result.gate, result.evidence.attempts or 1, result.evidence.missing
    if attempts >= settings.hold_attempts or missing:
        why = because(Reason.NO_EVIDENCE, gate=gate, tries=None if missing else attempts, said=result.message)
        if rollout.kind is Kind.ROLLOUT:
            return Decision(rollout.phase, why, Advance(Phase.WAITING, why))
        # A verification promotes nothing: it has nothing to wait for, and memory to give back.
        return halt(rollout, Outcome.ABORTED, "gate", why, gate)
    if Ask(gate) in view.running or view.now - rollout.gate_times.get(gate, 0.0) < settings.hold_retry:
        return Decision(rollout.phase, because(Reason.GATE_HOLDS, gate=gate, said=result.message))
    return Decision(rollout.phase, because(Reason.GATE_AGAIN, gate=gate, said=result.message), Ask(gate))
