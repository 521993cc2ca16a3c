"""The candidate comes to READY on every server, or does not; then it is told whether the version is at fault."""

from __future__ import annotations

from baton.domain import NO_EVIDENCE, Gate, GateResult, Kind, Model, Outcome, Phase, Rollout, Verdict
from baton.evidence import LoadEvidence
from baton.plan.converge import load, unload_all_but
from baton.plan.effects import Advance, Decision, Record, SetPolicy, Sync, halt
from baton.plan.view import Failure, RolloutSettings, View, failure_text
from baton.reasons import Reason, Why, because

SERVER_RETRY_S = 30.0
"""Between two tries to load a version on a server that could load none: a person mends that, not time."""


def loading(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The phase ``loading``: the gate ``load`` passes, fails or is still waited for."""
    version, phase, result = rollout.candidate, Phase.LOADING, rollout.gates.get(Gate.LOAD)
    if result is not None:
        if result.verdict is Verdict.FAIL:
            why = because(Reason.GATE_FAILED, gate=Gate.LOAD, said=result.message)
            return halt(rollout, Outcome.REJECTED, "gate", why, Gate.LOAD)
        why = because(Reason.GATE_PASSED, gate=Gate.LOAD, said=result.message)
        return Decision(phase, why, Advance(Phase.VALIDATING, why))
    took, limit = view.now - rollout.phase_since, settings.load_timeout
    if view.ready_everywhere(version) and view.version_policy == kept_loaded(view, rollout) | {version}:
        return _record(Verdict.PASS, took, settings, because(Reason.READY_EVERYWHERE, took_s=took, limit_s=limit))
    if (refused := _load_refused(view, rollout, settings)) is not None:
        return refused
    doing = _next_step(view, rollout, settings)
    if took <= limit:
        return doing
    late = tuple(s.name for s in view.servers if not s.live or version not in s.ready())
    why = because(Reason.NOT_READY_IN_TIME, late=late, took_s=took, limit_s=limit)
    if any(version in s.in_memory() for s in view.live() if s.name in late):
        return _record(Verdict.FAIL, took, settings, why)
    # No server that answers is loading it: something else was in the way, and the version is not at fault.
    why = because(Reason.NOBODY_LOADS_IT, why=why, doing=doing.why, version=version)
    return halt(rollout, Outcome.ABORTED, "engine", why)


def _next_step(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The next thing to do for the load, or what is in its way."""
    phase, wanted = Phase.LOADING, kept_loaded(view, rollout) | {rollout.candidate}
    if (waiting := _free_memory(view, rollout, settings)) is not None:
        return waiting
    if view.version_policy != wanted:
        if (blocked := view.loads_blocked()) is not None:
            return Decision(phase, blocked)
        return Decision(phase, because(Reason.WRITING_POLICY, versions=wanted), SetPolicy(wanted))
    loaded = because(Reason.LOADED_WHERE_ANSWERED, servers=view.unreachable())
    return load(view, phase, rollout.candidate) or Decision(phase, loaded)


def _load_refused(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What a server's refusal to load the candidate means. None without one, and where it is to be tried again now."""
    for server in view.live():
        failure = view.load_refusal(server, Model.ENGINE)
        if failure is None:
            continue
        if not failure.machine or rollout.kind is Kind.ROLLBACK:
            error, took = failure_text(failure), view.now - rollout.phase_since
            why = because(Reason.DID_NOT_LOAD, version=rollout.candidate, server=server.name, error=error)
            return _record(Verdict.FAIL, took, settings, why, failure.words)
        if (held := _server_at_fault(view, rollout, server.name, failure, settings)) is not None:
            return held
    return None


def _server_at_fault(
    view: View, rollout: Rollout, server: str, failure: Failure, settings: RolloutSettings
) -> Decision | None:
    """The server could load no version: this one is tried again, and not refused for it. None: now.

    Meanwhile the policy on disk names what can serve alone: a Triton that restarts loads all of it or nothing (seen on
    24.10).
    """
    phase, took = Phase.LOADING, view.now - rollout.phase_since
    version, error = rollout.candidate, failure_text(failure)
    if took > settings.load_timeout:
        why = because(Reason.MACHINE_GIVEN_UP, version=version, server=server, error=error, tried_s=took)
        return halt(rollout, Outcome.ABORTED, "engine", why)
    if view.now - failure.at >= SERVER_RETRY_S or Sync(server, Model.ENGINE) in view.running:
        return None
    kept = kept_loaded(view, rollout)
    if kept and view.version_policy != kept:
        why = because(Reason.MACHINE_AT_FAULT, version=version, server=server, error=error)
        return Decision(phase, why, SetPolicy(kept))
    times = {"every_s": SERVER_RETRY_S, "left_s": settings.load_timeout - took}
    return Decision(phase, because(Reason.MACHINE_RESTS, version=version, server=server, error=error, **times))


def kept_loaded(view: View, rollout: Rollout) -> frozenset[int]:
    """What stays loaded beside the candidate.

    Where a person goes back from a version that is READY nowhere, that one must not come along: Triton loads all that a
    policy newly names or nothing (seen on 24.10), and a broken version would keep every other one out.
    """
    if rollout.previous is None:
        return served_without_alias(view, rollout)
    rollback_source_lost = rollout.kind is Kind.ROLLBACK and not view.ready_anywhere(rollout.previous)
    return frozenset() if rollback_source_lost else frozenset({rollout.previous})


def served_without_alias(view: View, rollout: Rollout) -> frozenset[int]:
    """Before there is an alias: what the policy names and serves already. Clients may ask the engine directly."""
    ready = frozenset(v for s in view.live() for v in s.ready())
    if view.unreachable():
        # What does not answer may hold any of them, but none that has no folder and was never seen loaded.
        ready |= view.version_policy & (set(view.folders) | set(view.loaded))
    mine = frozenset() if rollout.why.reason is Reason.ADOPTED else frozenset({rollout.candidate})
    return (view.version_policy & ready) - mine


def _free_memory(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What an earlier attempt left is unloaded before the candidate is loaded."""
    kept = kept_loaded(view, rollout)
    wanted = kept | {rollout.candidate}
    extra = frozenset(v for s in view.live() for v in s.in_memory() - wanted)
    if any(not s.unloading(v) for s in view.live() for v in extra & s.in_memory()):
        # A load call loads what is new before it drops what is old: three versions would be in memory for a while.
        together = any(rollout.candidate not in s.in_memory() and s.in_memory() - wanted for s in view.live())
        keep = kept if together else kept | (view.version_policy & {rollout.candidate})
        return unload_all_but(view, Phase.LOADING, keep, rollout.phase_since, settings)
    drain = settings.drain_timeout
    draining = any(not s.stuck_unloading(v, view.now, drain) for s in view.live() for v in extra & s.in_memory())
    if draining and view.now - rollout.phase_since <= drain:
        return Decision(Phase.LOADING, because(Reason.LEAVING_MEMORY, versions=extra))
    return None


def _record(verdict: Verdict, took: float, settings: RolloutSettings, why: Why, triton: str | None = None) -> Decision:
    evidence = NO_EVIDENCE if triton is None else LoadEvidence(triton=triton)
    result = GateResult(Gate.LOAD, verdict, str(why), round(took, 3), settings.load_timeout, evidence=evidence)
    return Decision(Phase.LOADING, why, Record(result))
