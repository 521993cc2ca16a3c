"""Live traffic comes to the candidate step by step: the splitter stands behind the alias, and goes again.

The order that keeps every request answered: the splitter is READY and follows its route before the alias leads
to it; the alias has left it on every server before it is unloaded. The route itself is no effect. It follows from
the view (:func:`route`), is sent to every splitter all the time, and holds only for the lease that :class:`Renew`
wrote down: a control plane that is gone, stopped or without a disk can't keep a split going.
"""

from __future__ import annotations

from baton.domain import MEETING, Gate, Kind, Model, ModelState, Outcome, Phase, Rollout, Route, Stop, Verdict
from baton.evidence import synthetic
from baton.plan.converge import converge_alias, load, sync
from baton.plan.effects import Advance, Decision, Halt, Progress, Record, Renew, SetAlias, SetSplitter, Steer, Sync
from baton.plan.steps import Position, further, position
from baton.plan.view import RolloutSettings, ServerView, View, failure_text
from baton.reasons import Reason, Why, because

CALLS_END_S = 15.0
"""So long the splitter is kept for the calls of a candidate that was dropped: of one whose process was ended each batch
of requests fails after a second."""
SILENT_TRIES = 3
"""So many routes in a row that a splitter does not answer, on a server that does: its process hangs."""


def stepwise(rollout: Rollout, settings: RolloutSettings) -> bool:
    """Whether traffic comes to the candidate by steps, and not all at once."""
    return replaces(rollout) and not rollout.full and (bool(settings.steps) or shadowed(settings))


def replaces(rollout: Rollout) -> bool:
    """Whether it comes in the place of a version that may serve on: it is no first version, and no way back."""
    return rollout.kind is Kind.ROLLOUT and rollout.previous is not None


def shadowed(settings: RolloutSettings) -> bool:
    """Whether live requests are mirrored to a candidate before it gets any."""
    return settings.shadow_share > 0 and settings.shadow_for > 0


def first_phase(rollout: Rollout, settings: RolloutSettings) -> Phase:
    """The phase in which live traffic first meets the candidate."""
    return Phase.SHADOWING if stepwise(rollout, settings) and shadowed(settings) else Phase.SHIFTING


def before_traffic(rollout: Rollout) -> bool:
    """True while no client can have been answered by the candidate."""
    if rollout.phase is Phase.WAITING:
        return rollout.progressed_at is None
    return rollout.phase in (Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING, Phase.SHADOWING)


def refusal(rollout: Rollout) -> Outcome:
    """What becomes of a rollout whose candidate turns out bad before all traffic went to it."""
    unmet = before_traffic(rollout) or rollout.progressed_at is None
    return Outcome.REJECTED if unmet else Outcome.ROLLED_BACK


def position_of(rollout: Rollout, settings: RolloutSettings) -> Position:
    """Where on the way of its phase the candidate is."""
    if rollout.phase is Phase.SHADOWING:
        left = settings.shadow_for - rollout.progress
        return Position(0 if left > 0 else 1, 0.0, max(left, 0.0))
    if not stepwise(rollout, settings):
        return Position(len(settings.steps), 100.0, 0.0)
    return position(settings.steps, rollout.progress, rollout.approvals)


def route(view: View, settings: RolloutSettings) -> Route | None:
    """What the splitters are to do now. None: the stable version alone answers."""
    rollout = view.rollout
    if rollout is None or rollout.stop is not None or rollout.progressed_at is None:
        return None
    # The last requests come to the splitter after the alias has left it, and stable may be dead.
    leaving = rollout.phase is Phase.BAKING and view.splitter is not None
    if rollout.phase not in MEETING and not leaving:
        return None
    # Also while the alias moves to the candidate: what still comes to the splitter must not find a dead stable
    # version alone.
    if view.alias not in (rollout.previous, rollout.candidate):
        return None
    where = position_of(rollout, settings)
    # At the end of the way the share of the last step stays until the alias itself has moved.
    last = max((s.weight for s in settings.steps), default=0.0)
    return Route(rollout.candidate, min(where.weight, last), settings.shadow_share)


def progress_traffic(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Stand the splitter up and go along the way. None when the way is behind the candidate."""
    begun = rollout.progressed_at is not None or rollout.renewed_at is not None
    # First, and also at the end of the way: a server that is being mended or waited for takes longer than a lease.
    if begun and (urgent := _failed(view, rollout) or _hold_lease(view, rollout, settings)) is not None:
        return urgent
    where = position_of(rollout, settings)
    if not stepwise(rollout, settings) or (where.left <= 0 and not where.pause and rollout.progressed_at is not None):
        return None
    return _stand(view, rollout, settings) or _go_on(view, rollout, settings, where)


def _stand(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Bring every answering server's alias to the splitter, and the splitter to follow. None when that is so."""
    phase, stable, candidate = rollout.phase, rollout.previous, rollout.candidate
    assert stable is not None  # noqa: S101 - nothing is split for a first version
    if (broken := _broken(view, rollout)) is not None:
        outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
        return Decision(phase, broken, Halt(Stop(outcome, "engine", broken)))
    for version in (stable, candidate):
        if (lost := load(view, phase, version)) is not None:
            return lost
    if (not view.split and view.splitter != stable) or (view.splitter == stable and not view.keyed):
        return Decision(phase, because(Reason.WRITING_SPLITTER, version=stable), SetSplitter(stable))
    for server in view.live():
        # One that knows another token serves on while it is loaded again, beside the new one.
        if server.splitter is not ModelState.READY or server.locked:
            return _load_splitter(view, phase, server, stable)
    if (strayed := _unsteered(view, settings)) and not view.split:
        return Decision(phase, because(Reason.SPLITTER_REPORTS, server=strayed[0].name))
    if not view.split:
        if view.silent():
            return Decision(phase, because(Reason.SPLIT_ONCE_ALL_ANSWER, servers=view.silence()))
        return Decision(phase, because(Reason.SPLITTING, version=stable), SetAlias(stable, split=True))
    return converge_alias(view, phase)


def _load_splitter(view: View, phase: Phase, server: ServerView, stable: int) -> Decision:
    decision = sync(view, phase, server, Model.SPLITTER, because(Reason.LOADING_SPLITTER))
    if decision.why.reason is not Reason.LAST_TRY_FAILED:
        return decision
    failure = view.failed[Sync(server.name, Model.SPLITTER)]
    why = because(Reason.SPLITTER_REFUSED, server=server.name, error=failure_text(failure))
    if not failure.refused:  # seen on 24.10: a load whose process was killed never ends
        why = because(Reason.SPLITTER_NOT_LOADED, server=server.name, error=failure_text(failure), stable=stable)
    return Decision(phase, why, waits=decision.waits)


def _unsteered(view: View, settings: RolloutSettings) -> list[ServerView]:
    """Servers whose splitter has not answered to a route for a lease's length."""
    return [s for s in view.live() if s.steered is None or view.now - s.steered > settings.lease]


def _broken(view: View, rollout: Rollout) -> Why | None:
    """A splitter that fails, or a candidate that a server lost and can't load again.

    That is no matter of evidence: clients must not wait for it.
    """
    for server in view.live():
        steering, loading = view.failed.get(Steer(server.name)), view.failed.get(Sync(server.name, Model.ENGINE))
        # Also before clients depend on it: of one whose process died Triton goes on saying READY (seen on 24.10).
        used = server.split or server.splitter is ModelState.READY
        if used and steering is not None and (steering.refused or steering.count >= SILENT_TRIES):
            return because(Reason.SPLITTER_SILENT, server=server.name, error=steering.message)
        lost = rollout.candidate not in server.ready() and rollout.previous in server.ready()
        if lost and loading is not None and loading.refused and loading.at >= rollout.phase_since:
            return because(
                Reason.CANDIDATE_LOST, version=rollout.candidate, server=server.name, error=failure_text(loading)
            )
        moving = view.failed.get(Sync(server.name, Model.ALIAS))
        if view.split and moving is not None and moving.refused and moving.at >= rollout.phase_since:
            return because(Reason.SPLITTER_NOT_PUT, server=server.name, error=moving.message)
    return None


def _go_on(view: View, rollout: Rollout, settings: RolloutSettings, where: Position) -> Decision:
    phase, version = rollout.phase, rollout.candidate
    if rollout.progressed_at is None:
        return Decision(phase, because(Reason.MEETING_BEGINS, version=version), Progress(0.0))
    doing = _doing(rollout, where, settings)
    if where.pause:
        waits = because(Reason.PAUSE_STEP, doing=doing, step=where.index + 1, version=version)
        return Decision(phase, waits, Advance(Phase.WAITING, waits) if phase is Phase.SHIFTING else None)
    if view.paused and not rollout.promoted:
        return Decision(phase, because(Reason.PAUSED_ON_ITS_WAY, doing=doing))
    gate = view.live_gate
    if gate is not None and gate.verdict is Verdict.PASS and (count := synthetic(gate)):
        doing = because(Reason.JUDGED_BY_GOLDEN, doing=doing, count=count)
    # A step that a person let past a pause begins then, whenever the last progress was.
    since = max(rollout.progressed_at, rollout.phase_since)
    if gate is None or view.now - since < settings.interval:
        return Decision(phase, doing)
    if gate.verdict is not Verdict.PASS:
        before = rollout.gates.get(Gate.LIVE)
        known = before is not None and before.verdict is gate.verdict
        why = because(Reason.HOLDING, doing=doing, said=gate.message)
        return Decision(phase, why, None if known else Record(gate))
    # After a hold the time that it took does not count.
    seconds = min(view.now - since, 1.5 * settings.interval)
    done = rollout.progress + seconds
    if phase is not Phase.SHADOWING:
        done = further(settings.steps, rollout.progress, rollout.approvals, seconds)
    return Decision(phase, doing, Progress(done - rollout.progress, gate))


def _failed(view: View, rollout: Rollout) -> Decision | None:
    """The live analysis says no: write its figures down, then turn back for what was written, whatever it says next."""
    gate = rollout.gates.get(Gate.LIVE)
    if gate is None or gate.verdict is not Verdict.FAIL:
        gate = view.live_gate
        if gate is None or gate.verdict is not Verdict.FAIL:
            return None
        return Decision(rollout.phase, because(Reason.GATE_FAILED, gate=Gate.LIVE, said=gate.message), Record(gate))
    outcome = Outcome.REJECTED if before_traffic(rollout) else Outcome.ROLLED_BACK
    why = because(Reason.GATE_FAILED, gate=Gate.LIVE, said=gate.message)
    return Decision(rollout.phase, why, Halt(Stop(outcome, "gate", why, Gate.LIVE)))


def _hold_lease(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Renew the lease in good time; where it ended by itself, turn back if that is configured."""
    phase = rollout.phase
    away = 0.0 if rollout.renewed_at is None else view.now - rollout.renewed_at
    if away > settings.lease and not settings.resume:
        why = because(Reason.LEASE_ENDED, away_s=away)
        outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
        return Decision(phase, why, Halt(Stop(outcome, "engine", why)))
    if rollout.renewed_at is None or away >= settings.lease / 3:
        return Decision(phase, because(Reason.RENEWING), Renew())
    return None


def _doing(rollout: Rollout, where: Position, settings: RolloutSettings) -> Why:
    if rollout.phase is Phase.SHADOWING:
        return because(Reason.MIRRORED, share=settings.shadow_share, version=rollout.candidate)
    return because(Reason.SHARE, version=rollout.candidate, weight=where.weight)


def bypass_splitter(view: View, phase: Phase) -> Decision | None:
    """Point the alias straight at the stable version. None when its files do."""
    if not view.split or view.alias is None:
        return None
    return Decision(phase, because(Reason.UNSPLITTING, version=view.alias), SetAlias(view.alias))


def calls_end(view: View, rollout: Rollout) -> Decision | None:
    """Wait until the splitters have no call of the candidate's under way. None when that is so, or took too long.

    Unloading the splitter, or waking what is called, in the middle of a call can bring Triton down (seen on 24.10), and
    only the splitter knows: Triton's own count leaves out what is being worked on.
    """
    if view.now - rollout.phase_since > CALLS_END_S:
        return None
    for server in view.live():
        steering = view.failed.get(Steer(server.name))
        if server.splitter is not ModelState.READY or server.steered is None or steering is not None:
            continue
        left = None if server.outstanding is None else server.outstanding.get(rollout.candidate, 0)
        if left != 0:
            why = because(Reason.LAST_CALLS, version=rollout.candidate, server=server.name)
            return Decision(rollout.phase, why)
    return None


def unload_splitter(view: View, phase: Phase) -> Decision | None:
    """Take the splitter out of every server that answers, and its files. None when it is gone.

    Only where the alias no longer leads to it: Triton takes a name down with what it leads to (seen on 24.10).
    A call that is under way may bring one that nobody sees yet, and that the next rollout could not steer.
    """
    for server in view.live():
        if server.splitter not in (None, ModelState.UNLOADING) and not server.split:
            if view.splitter is not None:
                return Decision(phase, because(Reason.REMOVING_SPLITTER_FILES), SetSplitter(None))
            decision = sync(view, phase, server, Model.SPLITTER, because(Reason.REMOVING_SPLITTER))
            if decision.effect is not None:
                return decision
    if view.splitter is not None and not view.split and not any(s.split for s in view.live()):
        return Decision(phase, because(Reason.REMOVING_SPLITTER_FILES), SetSplitter(None))
    called = ", ".join(s.name for s in view.live() if Sync(s.name, Model.SPLITTER) in view.running)
    return Decision(phase, because(Reason.REMOVING_SPLITTER).on(called)) if called else None
