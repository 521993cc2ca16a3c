"""A candidate comes to READY on every server, or does not, and whose fault that is."""

from __future__ import annotations

from baton.domain import NO_EVIDENCE, Gate, GateResult, Kind, Model, Outcome, Phase, Rollout, Stop, Verdict
from baton.evidence import LoadEvidence
from baton.plan.converge import drop_all_but, load
from baton.plan.effects import Advance, Decision, Halt, Record, SetPolicy, Sync
from baton.plan.view import Failure, RolloutSettings, View, failure_text
from baton.reasons import Reason, Why, because

MACHINE_REST_S = 30.0
"""Between two tries to load a version on a server that could load none: a person mends that, not time."""


def loading(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    version, phase = rollout.candidate, Phase.LOADING
    result = rollout.gates.get(Gate.LOAD)
    if result is not None:
        if result.verdict is Verdict.FAIL:
            why = because(Reason.GATE_FAILED, gate=Gate.LOAD, said=result.message)
            return Decision(phase, why, Halt(Stop(Outcome.REJECTED, "gate", why, Gate.LOAD)))
        why = because(Reason.GATE_PASSED, gate=Gate.LOAD, said=result.message)
        return Decision(phase, why, Advance(Phase.VALIDATING, why))
    stable = beside(view, rollout)
    wanted = stable | {version}
    took = view.now - rollout.phase_since
    if view.ready_everywhere(version) and view.version_policy == wanted:
        why = because(Reason.READY_EVERYWHERE, took_s=took, limit_s=settings.load_timeout)
        return Decision(phase, why, Record(_load_result(Verdict.PASS, took, settings, why)))
    if (refused := _did_not_load(view, rollout, stable, settings)) is not None:
        return refused
    doing = _load_it(view, rollout, wanted, stable, settings)
    if took > settings.load_timeout:
        late = tuple(s.name for s in view.servers if not s.live or version not in s.ready())
        why = because(Reason.NOT_READY_IN_TIME, late=late, took_s=took, limit_s=settings.load_timeout)
        if any(version in s.held() for s in view.live() if s.name in late):
            return Decision(phase, why, Record(_load_result(Verdict.FAIL, took, settings, why)))
        # No server that answers is at it: something else was in the way, and the version is not at fault.
        why = because(Reason.NOBODY_LOADS_IT, why=why, doing=doing.why, version=version)
        return Decision(phase, why, Halt(Stop(Outcome.ABORTED, "engine", why)))
    return doing


def _load_it(
    view: View, rollout: Rollout, wanted: frozenset[int], stable: frozenset[int], settings: RolloutSettings
) -> Decision:
    """The next thing to do for it, or what is in its way."""
    phase = Phase.LOADING
    if (waiting := _make_room(view, rollout, wanted, stable, settings)) is not None:
        return waiting
    if view.version_policy != wanted:
        if (reason := view.hold_reason()) is not None:
            return Decision(phase, reason)
        return Decision(phase, because(Reason.WRITING_POLICY, versions=wanted), SetPolicy(wanted))
    there = because(Reason.LOADED_WHERE_ANSWERED, servers=view.silence())
    return load(view, phase, rollout.candidate) or Decision(phase, there)


def _did_not_load(view: View, rollout: Rollout, stable: frozenset[int], settings: RolloutSettings) -> Decision | None:
    """What a server's refusal to load the candidate means. None where there is none, or it is to be tried again now."""
    version, phase, took = rollout.candidate, Phase.LOADING, view.now - rollout.phase_since
    for server in view.live():
        failure = view.failed.get(Sync(server.name, Model.ENGINE))
        if failure is None or not failure.refused or failure.at < rollout.phase_since:
            continue
        if not failure.machine or rollout.kind is Kind.ROLLBACK:
            why = because(Reason.DID_NOT_LOAD, version=version, server=server.name, error=failure_text(failure))
            return Decision(phase, why, Record(_load_result(Verdict.FAIL, took, settings, why, failure.words)))
        if (held := _machine_at_fault(view, rollout, server.name, failure, stable, settings)) is not None:
            return held
    return None


def _machine_at_fault(
    view: View, rollout: Rollout, server: str, failure: Failure, stable: frozenset[int], settings: RolloutSettings
) -> Decision | None:
    """The server could load no version: this one is tried again, and is not refused for it. None: now.

    Meanwhile the policy on disk names what can serve alone, for a Triton that restarts loads all of it or nothing (seen
    on 24.10).
    """
    version, phase, took = rollout.candidate, Phase.LOADING, view.now - rollout.phase_since
    error = failure_text(failure)
    if took > settings.load_timeout:
        why = because(Reason.MACHINE_GIVEN_UP, version=version, server=server, error=error, tried_s=took)
        return Decision(phase, why, Halt(Stop(Outcome.ABORTED, "engine", why)))
    if view.now - failure.at >= MACHINE_REST_S or Sync(server, Model.ENGINE) in view.running:
        return None
    if stable and view.version_policy != stable:
        why = because(Reason.MACHINE_AT_FAULT, version=version, server=server, error=error)
        return Decision(phase, why, SetPolicy(stable))
    left = settings.load_timeout - took
    why = because(
        Reason.MACHINE_RESTS, version=version, server=server, error=error, every_s=MACHINE_REST_S, left_s=left
    )
    return Decision(phase, why)


def beside(view: View, rollout: Rollout) -> frozenset[int]:
    """What stays loaded beside the candidate."""
    if rollout.previous is None:
        return served_without_alias(view, rollout)
    return frozenset() if _rollback_source_lost(view, rollout) else frozenset({rollout.previous})


def served_without_alias(view: View, rollout: Rollout) -> frozenset[int]:
    """Before there is an alias: what the policy names and serves already. Clients may ask the engine directly."""
    ready = frozenset(v for s in view.live() for v in s.ready())
    if view.silent():
        # What does not answer may hold any of them, but none that has no folder and was never seen loaded.
        ready |= view.version_policy & (set(view.folders) | set(view.loaded))
    mine = frozenset() if rollout.why.reason is Reason.ADOPTED else frozenset({rollout.candidate})
    return (view.version_policy & ready) - mine


def _rollback_source_lost(view: View, rollout: Rollout) -> bool:
    """A person goes back from a version that serves nowhere any more.

    It must not come along: Triton loads all of what a policy newly names or none of it (seen on 24.10), so a stable
    version that is broken would keep every other one out.
    """
    return rollout.kind is Kind.ROLLBACK and not any(rollout.previous in s.ready() for s in view.live())


def _make_room(
    view: View, rollout: Rollout, wanted: frozenset[int], stable: frozenset[int], settings: RolloutSettings
) -> Decision | None:
    """Memory first: whatever is left of an earlier attempt leaves before the candidate comes."""
    extra = frozenset(v for s in view.live() for v in s.held() - wanted)
    staying = frozenset(v for s in view.live() for v in extra if v in s.held() and not s.leaving(v))
    if staying:
        # A load call loads what is new before it drops what is old, and three would be in memory for a while.
        together = any(rollout.candidate not in s.held() and s.held() - wanted for s in view.live())
        keep = stable if together else stable | (view.version_policy & {rollout.candidate})
        return drop_all_but(view, Phase.LOADING, keep, rollout.phase_since, settings)
    drained = settings.drain_timeout
    leaving = any(not s.stays(v, view.now, drained) for s in view.live() for v in extra & s.held())
    if leaving and view.now - rollout.phase_since <= settings.drain_timeout:
        return Decision(Phase.LOADING, because(Reason.LEAVING_MEMORY, versions=extra))
    return None


def _load_result(
    verdict: Verdict, took: float, settings: RolloutSettings, why: Why, triton: str | None = None
) -> GateResult:
    evidence = NO_EVIDENCE if triton is None else LoadEvidence(triton=triton)
    return GateResult(Gate.LOAD, verdict, str(why), round(took, 3), settings.load_timeout, evidence=evidence)
