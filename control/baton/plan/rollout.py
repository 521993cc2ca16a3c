"""A rollout is under way: one small function a phase."""

from __future__ import annotations

from collections.abc import Callable

from baton.domain import (
    FILE_GATES,
    GATES_OF,
    Gate,
    GateResult,
    Kind,
    Model,
    Outcome,
    Phase,
    Rollout,
    Stop,
    Verdict,
)
from baton.plan.converge import converge_alias, drop_all_but, drop_extra, load, point_alias
from baton.plan.effects import Advance, Ask, Decision, End, Halt, SetAlias, SetPolicy, Sync
from baton.plan.explain import files_proved, keeping, kept, past_pause, shadow_over, skipped
from baton.plan.external_change import external_change
from baton.plan.health import handle_unhealthy, mend, reloading, unproved
from baton.plan.limits import overdue, stuck
from baton.plan.loading import beside, loading, served_without_alias
from baton.plan.traffic import (
    before_traffic,
    bypass_splitter,
    calls_end,
    first_phase,
    position_of,
    progress_traffic,
    refusal,
    unload_splitter,
)
from baton.plan.view import RolloutSettings, View, backoff, failure_text
from baton.reasons import Reason, Why, because


def rolling(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """What comes first in every phase, then the phase's own step."""
    if rollout.phase is Phase.ROLLING_BACK:
        return _rolling_back(view, rollout, settings)
    if rollout.stop is not None:
        return Decision(rollout.phase, rollout.stop.why, Advance(Phase.ROLLING_BACK, rollout.stop.why))
    if (halt := _unasked_end(view, rollout, settings)) is not None:
        return Decision(rollout.phase, halt.stop.why, halt)
    if not view.live():
        return Decision(rollout.phase, because(Reason.AWAY, servers=view.silence()))
    ill = handle_unhealthy(view, rollout, settings)
    if ill is not None and (ill.effect is not None or reloading(view)):
        return ill
    decision = _limited(view, rollout, settings, _phase(view, rollout, settings))
    return decision if ill is None or decision.effect is not None else ill


def _limited(view: View, rollout: Rollout, settings: RolloutSettings, decision: Decision) -> Decision:
    """End a phase in which a server that answers has not done for too long what it was asked for."""
    phase, previous = rollout.phase, rollout.previous
    if (
        phase is Phase.RETIRING
        and overdue(view, rollout, settings)
        and not isinstance(decision.effect, SetPolicy | End)
    ):
        if not view.silent():
            ended = _end(rollout)
            return Decision(phase, decision.why, End(ended.outcome, _late(ended.why, decision)))
        return decision
    if (why := stuck(view, decision, settings)) is None:
        return decision
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK:
        if phase is Phase.RETIRING:
            return decision
        outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
        why = because(why.reason, **why.figures, retry=rollout.candidate)
        return Decision(phase, why, Halt(Stop(outcome, "engine", why)))
    if phase in (Phase.SHIFTING, Phase.BAKING) and not all(view.leads(s) for s in view.live()):
        back = previous is None or (rollout.kind is Kind.ROLLOUT and view.ready_everywhere(previous))
        return Decision(phase, why, Halt(Stop(Outcome.ROLLED_BACK, "engine", why))) if back else decision
    kept = view.now - rollout.phase_since >= settings.keep_previous and not _frozen(view, rollout)
    return Decision(phase, why, Advance(Phase.RETIRING, why)) if phase is Phase.BAKING and kept else decision


def _late(why: Why, rest: Decision | None) -> Why:
    """How a rollout ends, with what it leaves behind when its time is over."""
    return why if rest is None else because(Reason.ENDED_WITH_REST, why=why, rest=rest.why)


def _phase(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    quiet = before_traffic(rollout) and rollout.phase is not Phase.SHADOWING
    if quiet and (first := _bypass_everywhere(view, rollout.phase) or _stable_back(view, rollout)) is not None:
        return first
    return PHASES[rollout.phase](view, rollout, settings)


def _bypass_everywhere(view: View, phase: Phase) -> Decision | None:
    """Before traffic nothing is left of an earlier split.

    A server that was away meanwhile may still have its splitter, which knows another token and takes no route of this
    rollout's.
    """
    return bypass_splitter(view, phase) or converge_alias(view, phase) or unload_splitter(view, phase)


def _stable_back(view: View, rollout: Rollout) -> Decision | None:
    """A stable version that a server has lost is loaded again before anything else: nobody serves there.

    A load call does what ``config.pbtxt`` says at that moment, and a person may just have taken the version out of it.
    Where that failed twice the rollout goes on: the candidate may be what mends things.
    """
    stable = rollout.previous
    if stable is None or stable != view.alias or rollout.kind is Kind.ROLLBACK or stable not in view.folders:
        return None
    back = load(view, rollout.phase, stable)
    if back is None or (back.effect is None and back.waits not in view.running):
        return None
    failure = None if not isinstance(back.effect, Sync) else view.failed.get(back.effect)
    return None if failure is not None and failure.count > 1 else back


def _unasked_end(view: View, rollout: Rollout, settings: RolloutSettings) -> Halt | None:
    """Reasons to turn back that no gate and no person gave."""
    if (stale := external_change(view, rollout)) is not None:
        return Halt(stale)
    version = rollout.candidate
    folder = view.folders.get(version)
    # Also while traffic is split: a server that restarts loads what is there now, and nobody looked at that.
    on_its_way = before_traffic(rollout) or rollout.phase in (Phase.SHIFTING, Phase.WAITING)
    if on_its_way and view.alias != version and rollout.kind is not Kind.ROLLBACK:
        outcome = refusal(rollout)
        if folder is None:
            return Halt(Stop(outcome, "watcher", because(Reason.FOLDER_REMOVED_MEANWHILE, version=version)))
        if folder.fingerprint != rollout.fingerprint:
            why = because(Reason.FOLDER_CHANGED_MEANWHILE, version=version, proved=bool(rollout.gates))
            return Halt(Stop(outcome, "watcher", why))
    if before_traffic(rollout) and rollout.kind is Kind.ROLLOUT and settings.supersede and not view.paused:
        newer = [f.version for f in view.pending(settings) if f.version is not None and f.version > version]
        if newer:
            why = because(Reason.SUPERSEDED, version=newer[-1])
            return Halt(Stop(Outcome.SUPERSEDED, "watcher", why))
    return None


def _ask(
    view: View, rollout: Rollout, settings: RolloutSettings, gates: tuple[Gate, ...], then: Phase, why: Why
) -> Decision:
    """Ask the gates in turn; the first that fails turns the rollout back."""
    phase = rollout.phase
    for gate in gates:
        result = rollout.gates.get(gate)
        if result is None or result.verdict in (Verdict.PENDING, Verdict.RUNNING):
            return _look(view, rollout, gate)
        if result.verdict is Verdict.FAIL:
            failed = because(Reason.GATE_FAILED, gate=gate, said=result.message)
            return Decision(phase, failed, Halt(Stop(Outcome.REJECTED, "gate", failed, gate)))
        if result.verdict is Verdict.HOLD:
            return _again(view, rollout, settings, gate, result)
    if _frozen(view, rollout):
        return Decision(phase, because(Reason.COULD_GO_ON, version=rollout.candidate))
    return Decision(phase, why, Advance(then, why))


def _look(view: View, rollout: Rollout, gate: Gate) -> Decision:
    """Have a gate look for the first time, or again where it could not."""
    effect, failure = Ask(gate), view.failed.get(Ask(gate))
    doing = because(Reason.GATE_LOOKS, gate=gate, version=rollout.candidate)
    if effect in view.running:
        return Decision(rollout.phase, doing, waits=effect)
    if failure is not None and backoff(failure, view.now):
        doing = because(Reason.GATE_COULD_NOT_LOOK, gate=gate, version=rollout.candidate, error=failure_text(failure))
    return Decision(rollout.phase, doing, _rested(view, effect), waits=effect)


def _again(view: View, rollout: Rollout, settings: RolloutSettings, gate: Gate, result: GateResult) -> Decision:
    """A gate held: ask again after a pause, and leave it to a person in the end.

    Nothing is promoted without evidence, and nothing is refused for the want of it: that says nothing of the version.
    """
    attempts, missing = result.evidence.attempts or 1, result.evidence.missing
    if attempts >= settings.hold_attempts or missing:
        why = because(Reason.NO_EVIDENCE, gate=gate, tries=None if missing else attempts, said=result.message)
        if rollout.kind is Kind.ROLLOUT:
            return Decision(rollout.phase, why, Advance(Phase.WAITING, why))
        # A verification promotes nothing, so there is nothing to wait with, and memory to give back.
        return Decision(rollout.phase, why, Halt(Stop(Outcome.ABORTED, "gate", why, gate)))
    if Ask(gate) in view.running or view.now - rollout.gate_times.get(gate, 0.0) < settings.hold_retry:
        return Decision(rollout.phase, because(Reason.GATE_HOLDS, gate=gate, said=result.message))
    return Decision(rollout.phase, because(Reason.GATE_AGAIN, gate=gate, said=result.message), Ask(gate))


def _rested(view: View, effect: Ask) -> Ask | None:
    """A gate that could not be asked (Triton gone in the middle, say) rests before the next try."""
    return None if backoff(view.failed.get(effect), view.now) else effect


def _frozen(view: View, rollout: Rollout) -> bool:
    """Pause freezes what goes on by itself; what a person started or promoted goes on."""
    return view.paused and rollout.kind is Kind.ROLLOUT and not rollout.promoted


def _verifying(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    if (leaving := _drop_leftover(view, rollout, settings)) is not None:
        return leaving
    why = files_proved(rollout)
    decision = _ask(view, rollout, settings, FILE_GATES, Phase.LOADING, why)
    if isinstance(decision.effect, Advance) and view.silent():
        # It may hold the candidate as it was for an earlier rollout, and would count as having loaded it.
        return Decision(Phase.VERIFYING, because(Reason.LOADS_ONCE_ALL_ANSWER, why=why, servers=view.silence()))
    return decision


def _drop_leftover(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What an earlier rollout left of the candidate goes first: its folder may have held something else then.

    What the policy names is no leftover: clients may ask the engine for it, or the journal that knew of it was lost.
    """
    version = rollout.candidate
    named = version in view.version_policy or version == view.alias
    if rollout.kind is Kind.ROLLBACK or named or not any(version in s.held() for s in view.live()):
        return None
    return drop_all_but(view, Phase.VERIFYING, beside(view, rollout), rollout.phase_since, settings)


def _validating(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    gates = tuple(g for g in GATES_OF[rollout.kind] if g not in FILE_GATES and g is not Gate.LOAD)
    if (lost := load(view, Phase.VALIDATING, rollout.candidate)) is not None and not _asking(view):
        return lost
    if rollout.kind is Kind.CHECK:
        why = because(Reason.CHECK_PASSED, skipped=skipped(rollout))
        return _ask(view, rollout, settings, gates, Phase.RETIRING, why)
    why = because(Reason.GATES_PASSED, skipped=skipped(rollout))
    if rollout.kind is Kind.ROLLOUT and not settings.automatic and not rollout.promoted:
        return _ask(view, rollout, settings, gates, Phase.WAITING, why)
    return _ask(view, rollout, settings, gates, first_phase(rollout, settings), why)


def _asking(view: View) -> bool:
    return any(isinstance(e, Ask) for e in view.running)


def _waiting(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    if not before_traffic(rollout):
        if not position_of(rollout, settings).pause:
            why = past_pause(rollout)
            return Decision(Phase.WAITING, why, Advance(Phase.SHIFTING, why))
        held = progress_traffic(view, rollout, settings)
        assert held is not None  # noqa: S101 - a way on which it stands before a pause is not behind it
        return held
    if (unjudged := _unjudged(view, rollout)) is not None:
        return unjudged
    if rollout.promoted:
        why = because(Reason.PERSON_PROMOTED)
        return Decision(Phase.WAITING, why, Advance(first_phase(rollout, settings), why))
    version = rollout.candidate
    lost = load(view, Phase.WAITING, version)
    return lost or Decision(
        Phase.WAITING, because(Reason.WAITS_FOR_PROMOTION, version=version, skipped=skipped(rollout))
    )


def _unjudged(view: View, rollout: Rollout) -> Decision | None:
    """It waits because a gate holds, whoever promotes it; and goes back to the gates when that is asked again."""
    version, phase = rollout.candidate, Phase.WAITING
    if (held := rollout.held()) is not None:
        lost = None if held.gate in FILE_GATES else load(view, phase, version)
        figures = {"version": version, "previous": rollout.previous}
        return lost or Decision(phase, because(Reason.UNJUDGED, **figures, gate=held.gate, said=held.message))
    open_gates = [g for g in GATES_OF[rollout.kind] if g not in rollout.gates]
    if not open_gates:
        return None
    back = Phase.VERIFYING if open_gates[0] in FILE_GATES else Phase.VALIDATING
    why = because(Reason.GATE_AGAIN, gate=open_gates[0])
    return Decision(phase, why, Advance(back, why))


def _shadowing(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    why = shadow_over(rollout, settings)
    return progress_traffic(view, rollout, settings) or Decision(Phase.SHADOWING, why, Advance(Phase.SHIFTING, why))


def _shifting(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    version, phase = rollout.candidate, Phase.SHIFTING
    if view.alias != version:
        if (under_way := progress_traffic(view, rollout, settings)) is not None:
            return under_way
        return _move(view, rollout)
    for server in view.live():
        failure = view.failed.get(Sync(server.name, Model.ALIAS))
        if failure is not None and failure.refused and failure.at >= rollout.phase_since:
            why = because(Reason.ALIAS_NOT_MOVED, server=server.name, error=failure_text(failure))
            return Decision(phase, why, Halt(Stop(Outcome.ROLLED_BACK, "engine", why)))
    if (lost := load(view, phase, version)) is not None:
        return lost
    if (moving := point_alias(view, phase, version)) is not None:
        return moving
    if view.silent():
        return Decision(phase, because(Reason.SERVES_WHERE_ANSWERED, version=version, servers=view.silence()))
    why = because(Reason.SERVES, version=version)
    return Decision(phase, why, Advance(Phase.BAKING, why))


def _move(view: View, rollout: Rollout) -> Decision:
    """All traffic to the candidate, which has come the whole way."""
    version, phase = rollout.candidate, Phase.SHIFTING
    if not view.ready_everywhere(version):
        lost = load(view, phase, version)
        return lost or Decision(phase, because(Reason.MOVES_ONCE_ALL_ANSWER, servers=view.silence()))
    if version not in view.version_policy:
        # While the stable version was loaded again the policy named that one alone.
        both = view.version_policy | {version}
        return Decision(phase, because(Reason.NAMING, version=version), SetPolicy(both))
    if waiting := unproved(view, rollout):
        return Decision(phase, because(Reason.ASKED_ONCE_MORE, version=version, waiting=waiting))
    return Decision(phase, because(Reason.POINTING, version=version), SetAlias(version))


def _baking(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    version, phase = rollout.candidate, Phase.BAKING
    if (lost := load(view, phase, version)) is not None:
        return lost
    if (moving := point_alias(view, phase, version) or unload_splitter(view, phase)) is not None:
        return moving
    serves = because(Reason.SERVES, version=version)
    if rollout.previous is None:
        return Decision(phase, serves, Advance(Phase.RETIRING, because(Reason.NOTHING_TO_KEEP)))
    if rollout.kind is Kind.ROLLBACK:
        why = because(Reason.NOT_KEPT_GONE_BACK, version=rollout.previous)
        return Decision(phase, serves, Advance(Phase.RETIRING, why))
    if (returning := _standby(view, rollout)) is not None:
        return returning
    left = settings.keep_previous - (view.now - rollout.phase_since)
    if settings.supersede and view.pending(settings) and not view.paused:
        left = 0.0
    if left <= 0 and not _frozen(view, rollout):
        why = kept(view, rollout, settings)
        return Decision(phase, why, Advance(Phase.RETIRING, why))
    return Decision(phase, keeping(view, rollout, left))


def _standby(view: View, rollout: Rollout) -> Decision | None:
    """The way back stays instant after a restart of Triton too, which begins with what serves and nothing else."""
    phase, previous = Phase.BAKING, rollout.previous
    both = frozenset({rollout.candidate}) | ({previous} if previous is not None else set())
    if previous is None or all(previous in s.ready() for s in view.live()) or view.hold_reason() is not None:
        return None
    if _previous_unrecoverable(view, rollout):
        # A version that Triton refuses must not stay in the policy: the next restart would stumble over it.
        alone = frozenset({rollout.candidate})
        give_up = Decision(phase, because(Reason.GIVING_UP, version=previous), SetPolicy(alone))
        return None if view.version_policy == alone else give_up
    if view.version_policy != both:
        return Decision(phase, because(Reason.RELOADING_STANDBY, version=previous), SetPolicy(both))
    return load(view, phase, previous)


def _retiring(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    phase = Phase.RETIRING
    if view.alias is not None:
        if (lost := load(view, phase, view.alias)) is not None:
            return lost
        if (moving := point_alias(view, phase, view.alias) or unload_splitter(view, phase)) is not None:
            return moving
    if view.silent():
        return Decision(phase, because(Reason.NOTHING_UNSEEN, servers=view.silence()))
    keep = _keep(view, rollout)
    if (busy := _busy(view, keep, rollout, settings)) is not None:
        return Decision(phase, busy)
    if (dropping := drop_all_but(view, phase, keep, rollout.phase_since, settings)) is not None:
        return dropping
    return Decision(phase, because(Reason.DONE), _end(rollout))


def _busy(view: View, keep: frozenset[int], rollout: Rollout, settings: RolloutSettings) -> Why | None:
    """Requests that still wait for the versions that are about to leave, where the servers tell.

    Those that run already need no care: Triton ends them before it drops a version.
    """
    if view.now - rollout.phase_since > settings.drain_timeout:
        return None
    for server in view.live():
        for version in sorted(server.ready() - keep):
            if server.inflight is not None and (count := server.inflight.get(version, 0)):
                return because(Reason.REQUESTS_WAIT, count=count, version=version, server=server.name)
    return None


def _end(rollout: Rollout) -> End:
    match rollout.kind:
        case Kind.CHECK:
            why = because(Reason.VERIFIED, version=rollout.candidate, skipped=skipped(rollout))
            return End(Outcome.VERIFIED, why)
        case Kind.ROLLBACK:
            return End(Outcome.LIVE, because(Reason.BACK_ON, version=rollout.candidate))
        case Kind.ROLLOUT:
            return End(Outcome.LIVE, because(Reason.SERVES, version=rollout.candidate))


def _rolling_back(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """Alias first, then policy, then the servers: the other order takes the alias down (seen on 24.10)."""
    phase, previous = Phase.ROLLING_BACK, rollout.previous
    if (first := bypass_splitter(view, phase) or _point_back(view, rollout, settings)) is not None:
        if (why := stuck(view, first, settings)) is None or view.alias != rollout.candidate:
            return first
        why = because(Reason.SERVES_ON, why=why, version=rollout.candidate)
        return Decision(phase, why, End(Outcome.LIVE, why))
    rest = _clear_away(view, rollout, settings)
    if rest is not None and not (overdue(view, rollout, settings) and not isinstance(rest.effect, SetPolicy)):
        return rest
    if _previous_unrecoverable(view, rollout) and view.alias == rollout.candidate:
        why = _late(because(Reason.NO_WAY_BACK, previous=previous, version=rollout.candidate), rest)
        return Decision(phase, why, End(Outcome.LIVE, why))
    stop = rollout.stop or Stop(Outcome.ROLLED_BACK, "engine", because(Reason.ROLLED_BACK))
    why = _late(stop.why, rest)
    return Decision(phase, why, End(stop.outcome, why))


def _clear_away(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What is left to do once the files say what serves: the servers follow, and the candidate leaves."""
    phase = Phase.ROLLING_BACK
    keep = _keep(view, rollout)
    moving = converge_alias(view, phase) or _end_calls(view, rollout, keep) or unload_splitter(view, phase)
    if moving is not None:
        return moving
    if (ill := mend(view, phase, once=True)) is not None and (ill.effect is not None or reloading(view)):
        return ill
    return drop_all_but(view, phase, keep, rollout.phase_since, settings)


def _end_calls(view: View, rollout: Rollout, keep: frozenset[int]) -> Decision | None:
    """The candidate is dropped and its last calls end before the splitter goes. None when that is so, or can't be.

    A stable version that does not answer is not kept waiting for it.
    """
    phase = rollout.phase
    if view.splitter is None or rollout.candidate in keep or any(v in keep for _, v in view.unhealthy):
        return None
    if view.version_policy != keep:
        return Decision(phase, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    dropping = drop_extra(view, phase, keep, wait=None)
    return dropping if dropping is not None and dropping.effect is not None else calls_end(view, rollout)


def _point_back(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Lead the alias's files from the candidate back to the previous version, once that can serve."""
    phase, previous = Phase.ROLLING_BACK, rollout.previous
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK or _previous_unrecoverable(view, rollout):
        return None
    if rollout.stop is not None and rollout.stop.outcome is Outcome.LIVE:
        return None  # it was found serving: there is nothing to turn back
    if previous is None:
        return Decision(phase, because(Reason.FIRST_GOES, version=rollout.candidate), SetAlias(None))
    if (dead := _drop_dead(view, rollout, settings)) is not None:
        return dead
    both = frozenset({previous, rollout.candidate})
    if not view.live() or any(previous not in s.ready() for s in view.live()):
        if previous not in view.version_policy:
            return Decision(phase, because(Reason.BRINGING_BACK, version=previous), SetPolicy(both))
        once = because(Reason.BACK_ONCE_ALL_ANSWER, version=previous, servers=view.silence())
        return load(view, phase, previous) or Decision(phase, once)
    if previous not in view.version_policy:
        # A restart between here and the next policy must find the version that the alias leads to.
        return Decision(phase, because(Reason.KEEPING_GOAL, version=previous), SetPolicy(both))
    under_way = sorted(e.server for e in view.running if isinstance(e, Sync) and e.model is Model.ENGINE)
    if under_way:
        # It read the files before this was decided, and may be about to take the previous version out.
        return Decision(phase, because(Reason.CALL_UNDER_WAY, server=under_way[0], version=previous))
    return Decision(phase, because(Reason.POINTING_BACK, version=previous), SetAlias(previous))


def _drop_dead(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """A way back that is known to be dead is taken out first, to be loaded again, while the candidate serves.

    Once: one that does not answer after that either is what the person asked for.
    """
    phase, candidate, previous = Phase.ROLLING_BACK, rollout.candidate, rollout.previous
    unhealthy = [
        view.unhealthy[s.name, v] for s in view.live() for v in s.ready() & {previous} if (s.name, v) in view.unhealthy
    ]
    dead = any(one.since <= rollout.phase_since for one in unhealthy)
    if not dead or any((s.name, candidate) in view.unhealthy or not view.leads(s) for s in view.live()):
        return None
    return drop_all_but(view, phase, frozenset({candidate}), rollout.phase_since, settings)


def _keep(view: View, rollout: Rollout) -> frozenset[int]:
    """What stays loaded when a rollout is over."""
    if view.alias is None:
        return served_without_alias(view, rollout)
    # Of a rollout that began in place of a version that is lost: a load call that names that one fails, and nothing can
    # leave. Afterwards the files say what they said before, for the day on which somebody mends it.
    lost = rollout.previous is None and not any(view.alias in s.ready() for s in view.live())
    staying = any(not s.leaving(v) for s in view.live() for v in s.held())
    return frozenset() if lost and staying and view.alias != rollout.candidate else frozenset({view.alias})


def _previous_unrecoverable(view: View, rollout: Rollout) -> bool:
    """The version to go back to was unloaded already and does not come back: its folder is gone, or Triton refuses."""
    previous = rollout.previous
    if previous is None or all(previous in s.ready() for s in view.live()):
        return False
    if previous not in view.folders:
        return True
    failures = (view.failed.get(Sync(s.name, Model.ENGINE)) for s in view.live() if previous not in s.ready())
    return any(f is not None and f.refused and f.at >= rollout.phase_since for f in failures)


PHASES: dict[Phase, Callable[[View, Rollout, RolloutSettings], Decision]] = {
    Phase.VERIFYING: _verifying,
    Phase.LOADING: loading,
    Phase.VALIDATING: _validating,
    Phase.WAITING: _waiting,
    Phase.SHADOWING: _shadowing,
    Phase.SHIFTING: _shifting,
    Phase.BAKING: _baking,
    Phase.RETIRING: _retiring,
}
