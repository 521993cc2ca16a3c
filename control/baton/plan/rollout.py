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
from baton.plan.converge import drop_all_but, drop_extra, load, name_all, point_alias, settle
from baton.plan.effects import Advance, Ask, Decision, End, Halt, SetAlias, SetPolicy, Sync
from baton.plan.health import mend, reloading, unproved, unwell
from baton.plan.limits import away, overdue, stuck
from baton.plan.loading import beside, direct, loading
from baton.plan.stale import overtaken
from baton.plan.traffic import before_traffic, calls_end, first_phase, place, refusal, step_aside, unsplit, walk
from baton.plan.view import Policy, View, backoff, told
from baton.plan.words import files_proved, gates_passed, keeping, kept, past_pause, shadow_over


def rolling(view: View, rollout: Rollout, policy: Policy) -> Decision:
    """What comes first in every phase, then the phase's own step."""
    if rollout.phase is Phase.ROLLING_BACK:
        return _rolling_back(view, rollout, policy)
    if rollout.stop is not None:
        return Decision(rollout.phase, rollout.stop.why, Advance(Phase.ROLLING_BACK, rollout.stop.why))
    if (halt := _unasked_end(view, rollout, policy)) is not None:
        return Decision(rollout.phase, halt.stop.why, halt)
    if not view.live():
        return Decision(rollout.phase, f"{away(view)} Until then `ctl abort` turns it back.")
    ill = unwell(view, rollout, policy)
    if ill is not None and (ill.effect is not None or reloading(view)):
        return ill
    decision = _limited(view, rollout, policy, _phase(view, rollout, policy))
    return decision if ill is None or decision.effect is not None else ill


def _limited(view: View, rollout: Rollout, policy: Policy, decision: Decision) -> Decision:
    """End a phase in which a server that answers has not done for too long what it was asked for."""
    phase, previous = rollout.phase, rollout.previous
    if phase is Phase.RETIRING and overdue(view, rollout, policy) and not isinstance(decision.effect, SetPolicy | End):
        if not view.silent():
            ended = _end(rollout)
            return Decision(phase, decision.message, End(ended.outcome, f"{ended.why} {_left(decision)}"))
        return decision
    if (why := stuck(view, decision, policy)) is None:
        return decision
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK:
        if phase is Phase.RETIRING:
            return decision
        outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
        why = f"{why} `ctl retry {rollout.candidate}` begins anew."
        return Decision(phase, why, Halt(Stop(outcome, "engine", why)))
    if phase in (Phase.SHIFTING, Phase.BAKING) and not all(view.leads(s) for s in view.live()):
        back = previous is None or (rollout.kind is Kind.ROLLOUT and view.ready_everywhere(previous))
        return Decision(phase, why, Halt(Stop(Outcome.ROLLED_BACK, "engine", why))) if back else decision
    kept = view.now - rollout.phase_since >= policy.keep_previous and not _frozen(view, rollout)
    return Decision(phase, why, Advance(Phase.RETIRING, why)) if phase is Phase.BAKING and kept else decision


def _left(decision: Decision) -> str:
    """What a rollout leaves behind when it ends because its time is over."""
    return f"Not done in time, and still tried: {decision.message}"


def _phase(view: View, rollout: Rollout, policy: Policy) -> Decision:
    quiet = before_traffic(rollout) and rollout.phase is not Phase.SHADOWING
    if quiet and (first := _unsplit_all(view, rollout.phase) or _stable_back(view, rollout)) is not None:
        return first
    return PHASES[rollout.phase](view, rollout, policy)


def _unsplit_all(view: View, phase: Phase) -> Decision | None:
    """Before traffic nothing is left of an earlier split.

    A server that was away meanwhile may still have its splitter, which knows another token and takes no route of this
    rollout's.
    """
    return unsplit(view, phase) or settle(view, phase) or step_aside(view, phase)


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


def _unasked_end(view: View, rollout: Rollout, policy: Policy) -> Halt | None:
    """Reasons to turn back that no gate and no person gave."""
    if (stale := overtaken(view, rollout)) is not None:
        return Halt(stale)
    version = rollout.candidate
    folder = view.folders.get(version)
    # Also while traffic is split: a server that restarts loads what is there now, and nobody looked at that.
    on_its_way = before_traffic(rollout) or rollout.phase in (Phase.SHIFTING, Phase.WAITING)
    if on_its_way and view.alias != version and rollout.kind is not Kind.ROLLBACK:
        outcome = refusal(rollout)
        if folder is None:
            return Halt(Stop(outcome, "watcher", f"The folder of version {version} was removed meanwhile."))
        if folder.fingerprint != rollout.fingerprint:
            proved = "; what was proved no longer holds" if rollout.gates else ""
            why = f"The folder of version {version} was changed meanwhile{proved}."
            return Halt(Stop(outcome, "watcher", why))
    if before_traffic(rollout) and rollout.kind is Kind.ROLLOUT and policy.supersede and not view.paused:
        newer = [f.version for f in view.pending(policy) if f.version is not None and f.version > version]
        if newer:
            why = f"Version {newer[-1]} arrived, and newer versions supersede older ones here."
            return Halt(Stop(Outcome.SUPERSEDED, "watcher", why))
    return None


def _ask(view: View, rollout: Rollout, policy: Policy, gates: tuple[Gate, ...], then: Phase, why: str) -> Decision:
    """Ask the gates in turn; the first that fails turns the rollout back."""
    phase = rollout.phase
    for gate in gates:
        result = rollout.gates.get(gate)
        if result is None or result.verdict in (Verdict.PENDING, Verdict.RUNNING):
            return _look(view, rollout, gate)
        if result.verdict is Verdict.FAIL:
            return Decision(phase, result.message, _refuse(gate, result.message))
        if result.verdict is Verdict.HOLD:
            return _again(view, rollout, policy, gate, result)
    if _frozen(view, rollout):
        return Decision(phase, f"Version {rollout.candidate} could go on, but Baton is paused: `ctl resume` goes on.")
    return Decision(phase, why, Advance(then, why))


def _look(view: View, rollout: Rollout, gate: Gate) -> Decision:
    """Have a gate look for the first time, or again where it could not."""
    effect, failure = Ask(gate), view.failed.get(Ask(gate))
    doing = f"Gate {gate} looks at version {rollout.candidate}."
    if effect in view.running:
        return Decision(rollout.phase, doing, waits=effect)
    if failure is not None and backoff(failure, view.now):
        doing = f"Gate {gate} could not look at version {rollout.candidate}, and tries again: {told(failure)}"
    return Decision(rollout.phase, doing, _rested(view, effect), waits=effect)


def _again(view: View, rollout: Rollout, policy: Policy, gate: Gate, result: GateResult) -> Decision:
    """A gate held: ask again after a pause, and leave it to a person in the end.

    Nothing is promoted without evidence, and nothing is refused for the want of it: that says nothing of the version.
    """
    attempts, missing = result.evidence.attempts or 1, result.evidence.missing
    if attempts >= policy.hold_attempts or missing:
        tries = "" if missing else f" after {attempts} tries"
        why = f"Gate {gate} has not enough evidence{tries}: {result.message}"
        if rollout.kind is Kind.ROLLOUT:
            return Decision(rollout.phase, why, Advance(Phase.WAITING, why))
        # A verification promotes nothing, so there is nothing to wait with, and memory to give back.
        return Decision(rollout.phase, why, Halt(Stop(Outcome.ABORTED, "gate", why, gate)))
    if Ask(gate) in view.running or view.now - rollout.gate_times.get(gate, 0.0) < policy.hold_retry:
        return Decision(rollout.phase, f"Gate {gate} holds: {result.message}")
    return Decision(rollout.phase, f"Gate {gate} is asked again: {result.message}", Ask(gate))


def _refuse(gate: Gate, why: str) -> Halt:
    return Halt(Stop(Outcome.REJECTED, "gate", why, gate))


def _rested(view: View, effect: Ask) -> Ask | None:
    """A gate that could not be asked (Triton gone in the middle, say) rests before the next try."""
    return None if backoff(view.failed.get(effect), view.now) else effect


def _frozen(view: View, rollout: Rollout) -> bool:
    """Pause freezes what goes on by itself; what a person started or promoted goes on."""
    return view.paused and rollout.kind is Kind.ROLLOUT and not rollout.promoted


def _verifying(view: View, rollout: Rollout, policy: Policy) -> Decision:
    if (leaving := _drop_leftover(view, rollout, policy)) is not None:
        return leaving
    why = files_proved(rollout)
    decision = _ask(view, rollout, policy, FILE_GATES, Phase.LOADING, why)
    if isinstance(decision.effect, Advance) and view.silent():
        # It may hold the candidate as it was for an earlier rollout, and would count as having loaded it.
        return Decision(Phase.VERIFYING, f"{why} It is loaded once every server answers. {away(view)}")
    return decision


def _drop_leftover(view: View, rollout: Rollout, policy: Policy) -> Decision | None:
    """What an earlier rollout left of the candidate goes first: its folder may have held something else then.

    What the policy names is no leftover: clients may ask the engine for it, or the journal that knew of it was lost.
    """
    version = rollout.candidate
    named = version in view.policy or version == view.alias
    if rollout.kind is Kind.ROLLBACK or named or not any(version in s.held() for s in view.live()):
        return None
    return drop_all_but(view, Phase.VERIFYING, beside(view, rollout), rollout.phase_since, policy)


def _validating(view: View, rollout: Rollout, policy: Policy) -> Decision:
    gates = tuple(g for g in GATES_OF[rollout.kind] if g not in FILE_GATES and g is not Gate.LOAD)
    if (lost := load(view, Phase.VALIDATING, rollout.candidate)) is not None and not _asking(view):
        return lost
    why = f"{gates_passed(rollout).capitalize()}."
    if rollout.kind is Kind.CHECK:
        return _ask(view, rollout, policy, gates, Phase.RETIRING, f"{why[:-1]}; it is taken out again.")
    if rollout.kind is Kind.ROLLOUT and not policy.automatic and not rollout.promoted:
        return _ask(view, rollout, policy, gates, Phase.WAITING, why)
    return _ask(view, rollout, policy, gates, first_phase(rollout, policy), why)


def _asking(view: View) -> bool:
    return any(isinstance(e, Ask) for e in view.running)


def _waiting(view: View, rollout: Rollout, policy: Policy) -> Decision:
    if not before_traffic(rollout):
        if not place(rollout, policy).pause:
            why = past_pause(rollout)
            return Decision(Phase.WAITING, why, Advance(Phase.SHIFTING, why))
        held = walk(view, rollout, policy)
        assert held is not None  # noqa: S101 - a way on which it stands before a pause is not behind it
        return held
    if (unjudged := _unjudged(view, rollout)) is not None:
        return unjudged
    if rollout.promoted:
        why = "A person promoted it."
        return Decision(Phase.WAITING, why, Advance(first_phase(rollout, policy), why))
    version = rollout.candidate
    lost = load(view, Phase.WAITING, version)
    ready = f"Version {version} waits for `ctl promote {version}`: {gates_passed(rollout)}."
    return lost or Decision(Phase.WAITING, ready)


def _unjudged(view: View, rollout: Rollout) -> Decision | None:
    """It waits because a gate holds, whoever promotes it; and goes back to the gates when that is asked again."""
    version, phase = rollout.candidate, Phase.WAITING
    if (held := rollout.held()) is not None:
        lost = None if held.gate in FILE_GATES else load(view, phase, version)
        clients = "no client is sent to it" if rollout.previous is None else f"version {rollout.previous} serves on"
        told = f"Version {version} waits, {clients}: gate {held.gate} has not enough evidence. {held.message}"
        return lost or Decision(phase, f"{told} `ctl retry {version}` asks it again, `ctl abort` ends the rollout.")
    open_gates = [g for g in GATES_OF[rollout.kind] if g not in rollout.gates]
    if not open_gates:
        return None
    back = Phase.VERIFYING if open_gates[0] in FILE_GATES else Phase.VALIDATING
    why = f"Gate {open_gates[0]} is asked again."
    return Decision(phase, why, Advance(back, why))


def _shadowing(view: View, rollout: Rollout, policy: Policy) -> Decision:
    why = shadow_over(rollout, policy)
    return walk(view, rollout, policy) or Decision(Phase.SHADOWING, why, Advance(Phase.SHIFTING, why))


def _shifting(view: View, rollout: Rollout, policy: Policy) -> Decision:
    version, phase = rollout.candidate, Phase.SHIFTING
    if view.alias != version:
        if (under_way := walk(view, rollout, policy)) is not None:
            return under_way
        return _move(view, rollout)
    for server in view.live():
        failure = view.failed.get(Sync(server.name, Model.ALIAS))
        if failure is not None and failure.refused and failure.at >= rollout.phase_since:
            why = f"The public name could not be moved on server {server.name}. Triton says: {told(failure)}"
            return Decision(phase, why, Halt(Stop(Outcome.ROLLED_BACK, "engine", why)))
    if (lost := load(view, phase, version)) is not None:
        return lost
    if (moving := point_alias(view, phase, version)) is not None:
        return moving
    if view.silent():
        return Decision(phase, f"Version {version} serves where Triton answers. {away(view)}")
    return Decision(phase, f"Version {version} serves.", Advance(Phase.BAKING, f"Version {version} serves."))


def _move(view: View, rollout: Rollout) -> Decision:
    """All traffic to the candidate, which has come the whole way."""
    version, phase = rollout.candidate, Phase.SHIFTING
    if not view.ready_everywhere(version):
        lost = load(view, phase, version)
        return lost or Decision(phase, f"All traffic moves once every server answers. {away(view)}")
    if version not in view.policy:
        # While the stable version was loaded again the policy named that one alone.
        both = view.policy | {version}
        return Decision(phase, f"Naming version {version} in the version policy.", SetPolicy(both))
    if waiting := unproved(view, rollout):
        told = f"Version {version} is asked once more on server {', '.join(waiting)} before all traffic moves."
        return Decision(phase, told)
    return Decision(phase, f"Pointing the public name at version {version}.", SetAlias(version))


def _baking(view: View, rollout: Rollout, policy: Policy) -> Decision:
    version, phase = rollout.candidate, Phase.BAKING
    if (lost := load(view, phase, version)) is not None:
        return lost
    if (moving := point_alias(view, phase, version) or step_aside(view, phase)) is not None:
        return moving
    if rollout.previous is None:
        return Decision(phase, f"Version {version} serves.", Advance(Phase.RETIRING, "There is nothing to keep."))
    if rollout.kind is Kind.ROLLBACK:
        why = f"Version {rollout.previous} is not kept: a person went back from it."
        return Decision(phase, f"Version {version} serves.", Advance(Phase.RETIRING, why))
    if (returning := _standby(view, rollout)) is not None:
        return returning
    left = policy.keep_previous - (view.now - rollout.phase_since)
    if policy.supersede and view.pending(policy) and not view.paused:
        left = 0.0
    if left <= 0 and not _frozen(view, rollout):
        why = kept(view, rollout, policy)
        return Decision(phase, why, Advance(Phase.RETIRING, why))
    until = "until `ctl resume`" if left <= 0 else f"for {left:.0f} s more"
    return Decision(phase, " ".join(filter(None, [keeping(view, rollout, until), view.hold_reason()])))


def _standby(view: View, rollout: Rollout) -> Decision | None:
    """The way back stays instant after a restart of Triton too, which begins with what serves and nothing else."""
    phase, previous = Phase.BAKING, rollout.previous
    both = frozenset({rollout.candidate}) | ({previous} if previous is not None else set())
    if previous is None or all(previous in s.ready() for s in view.live()) or view.hold_reason() is not None:
        return None
    if _hopeless(view, rollout):
        # A version that Triton refuses must not stay in the policy: the next restart would stumble over it.
        alone = frozenset({rollout.candidate})
        return None if view.policy == alone else Decision(phase, f"Giving up on {previous}.", SetPolicy(alone))
    if view.policy != both:
        return Decision(phase, f"Keeping version {previous} for an instant way back.", SetPolicy(both))
    return load(view, phase, previous)


def _retiring(view: View, rollout: Rollout, policy: Policy) -> Decision:
    phase = Phase.RETIRING
    if view.alias is not None:
        if (lost := load(view, phase, view.alias)) is not None:
            return lost
        if (moving := point_alias(view, phase, view.alias) or step_aside(view, phase)) is not None:
            return moving
    if view.silent():
        return Decision(phase, f"Nothing is dropped unseen. {away(view)}")
    keep = _keep(view, rollout)
    if (busy := _busy(view, keep, rollout, policy)) is not None:
        return Decision(phase, busy)
    if (dropping := drop_all_but(view, phase, keep, rollout.phase_since, policy)) is not None:
        return dropping
    return Decision(phase, "Done.", _end(rollout))


def _busy(view: View, keep: frozenset[int], rollout: Rollout, policy: Policy) -> str | None:
    """Requests that still wait for the versions that are about to leave, where the servers tell.

    Those that run already need no care: Triton ends them before it drops a version.
    """
    if view.now - rollout.phase_since > policy.drain_timeout:
        return None
    for server in view.live():
        for version in sorted(server.ready() - keep):
            if server.inflight is not None and (count := server.inflight.get(version, 0)):
                return f"{count} requests still wait for version {version} on server {server.name}."
    return None


def _end(rollout: Rollout) -> End:
    match rollout.kind:
        case Kind.CHECK:
            passed = gates_passed(rollout)
            return End(Outcome.VERIFIED, f"Version {rollout.candidate}: {passed}; nothing was promoted.")
        case Kind.ROLLBACK:
            return End(Outcome.LIVE, f"Back on version {rollout.candidate}.")
        case Kind.ROLLOUT:
            return End(Outcome.LIVE, f"Version {rollout.candidate} serves.")


def _rolling_back(view: View, rollout: Rollout, policy: Policy) -> Decision:
    """Alias first, then policy, then the servers: the other order takes the public name down (seen on 24.10)."""
    phase, previous = Phase.ROLLING_BACK, rollout.previous
    if (first := unsplit(view, phase) or _point_back(view, rollout, policy)) is not None:
        if (why := stuck(view, first, policy)) is None or view.alias != rollout.candidate:
            return first
        why = f"{why} Version {rollout.candidate} serves on."
        return Decision(phase, why, End(Outcome.LIVE, why))
    rest = _clear_away(view, rollout, policy)
    if rest is not None and not (overdue(view, rollout, policy) and not isinstance(rest.effect, SetPolicy)):
        return rest
    left = "" if rest is None else f" {_left(rest)}"
    if _hopeless(view, rollout) and view.alias == rollout.candidate:
        why = f"Version {previous} can't be brought back; version {rollout.candidate} serves on.{left}"
        return Decision(phase, why, End(Outcome.LIVE, why))
    stop = rollout.stop or Stop(Outcome.ROLLED_BACK, "engine", "Rolled back.")
    return Decision(phase, f"{stop.why}{left}", End(stop.outcome, f"{stop.why}{left}"))


def _clear_away(view: View, rollout: Rollout, policy: Policy) -> Decision | None:
    """What is left to do once the files say what serves: the servers follow, and the candidate leaves."""
    phase = Phase.ROLLING_BACK
    keep = _keep(view, rollout)
    moving = settle(view, phase) or _end_calls(view, rollout, keep) or step_aside(view, phase)
    if moving is not None:
        return moving
    if (ill := mend(view, phase, once=True)) is not None and (ill.effect is not None or reloading(view)):
        return ill
    return drop_all_but(view, phase, keep, rollout.phase_since, policy)


def _end_calls(view: View, rollout: Rollout, keep: frozenset[int]) -> Decision | None:
    """The candidate is dropped and its last calls end before the splitter goes. None when that is so, or can't be.

    A stable version that does not answer is not kept waiting for it.
    """
    phase = rollout.phase
    if view.splitter is None or rollout.candidate in keep or any(v in keep for _, v in view.sick):
        return None
    if view.policy != keep:
        return Decision(phase, f"Writing the version policy {name_all(keep)}.", SetPolicy(keep))
    dropping = drop_extra(view, phase, keep, wait=None)
    return dropping if dropping is not None and dropping.effect is not None else calls_end(view, rollout)


def _point_back(view: View, rollout: Rollout, policy: Policy) -> Decision | None:
    """Lead the public name's files from the candidate back to the previous version, once that can serve."""
    phase, previous = Phase.ROLLING_BACK, rollout.previous
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK or _hopeless(view, rollout):
        return None
    if rollout.stop is not None and rollout.stop.outcome is Outcome.LIVE:
        return None  # it was found serving: there is nothing to turn back
    if previous is None:
        gone = f"Version {rollout.candidate} goes; there is none to go back to."
        return Decision(phase, gone, SetAlias(None))
    if (dead := _drop_dead(view, rollout, policy)) is not None:
        return dead
    both = frozenset({previous, rollout.candidate})
    if not view.live() or any(previous not in s.ready() for s in view.live()):
        if previous not in view.policy:
            return Decision(phase, f"Bringing version {previous} back first.", SetPolicy(both))
        back = load(view, phase, previous)
        return back or Decision(phase, f"Version {previous} is brought back first. {away(view)}")
    if previous not in view.policy:
        # A restart between here and the next policy must find the version that the public name leads to.
        return Decision(phase, f"Keeping version {previous}, which the public name goes back to.", SetPolicy(both))
    under_way = sorted(e.server for e in view.running if isinstance(e, Sync) and e.model is Model.ENGINE)
    if under_way:
        # It read the files before this was decided, and may be about to take the previous version out.
        told = f"A load call is under way on server {under_way[0]}; the public name goes back to {previous} after it."
        return Decision(phase, told)
    return Decision(phase, f"Pointing the public name back at version {previous}.", SetAlias(previous))


def _drop_dead(view: View, rollout: Rollout, policy: Policy) -> Decision | None:
    """A way back that is known to be dead is taken out first, to be loaded again, while the candidate serves.

    Once: one that does not answer after that either is what the person asked for.
    """
    phase, candidate, previous = Phase.ROLLING_BACK, rollout.candidate, rollout.previous
    sick = [view.sick[s.name, v] for s in view.live() for v in s.ready() & {previous} if (s.name, v) in view.sick]
    dead = any(one.since <= rollout.phase_since for one in sick)
    if not dead or any((s.name, candidate) in view.sick or not view.leads(s) for s in view.live()):
        return None
    return drop_all_but(view, phase, frozenset({candidate}), rollout.phase_since, policy)


def _keep(view: View, rollout: Rollout) -> frozenset[int]:
    """What stays loaded when a rollout is over."""
    if view.alias is None:
        return direct(view, rollout)
    # Of a rollout that began in place of a version that is lost: a load call that names that one fails, and nothing can
    # leave. Afterwards the files say what they said before, for the day on which somebody mends it.
    lost = rollout.previous is None and not any(view.alias in s.ready() for s in view.live())
    staying = any(not s.leaving(v) for s in view.live() for v in s.held())
    return frozenset() if lost and staying and view.alias != rollout.candidate else frozenset({view.alias})


def _hopeless(view: View, rollout: Rollout) -> bool:
    """The version to go back to was unloaded already and does not come back: its folder is gone, or Triton refuses."""
    previous = rollout.previous
    if previous is None or all(previous in s.ready() for s in view.live()):
        return False
    if previous not in view.folders:
        return True
    failures = (view.failed.get(Sync(s.name, Model.ENGINE)) for s in view.live() if previous not in s.ready())
    return any(f is not None and f.refused and f.at >= rollout.phase_since for f in failures)


PHASES: dict[Phase, Callable[[View, Rollout, Policy], Decision]] = {
    Phase.VERIFYING: _verifying,
    Phase.LOADING: loading,
    Phase.VALIDATING: _validating,
    Phase.WAITING: _waiting,
    Phase.SHADOWING: _shadowing,
    Phase.SHIFTING: _shifting,
    Phase.BAKING: _baking,
    Phase.RETIRING: _retiring,
}
