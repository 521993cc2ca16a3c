"""Live traffic comes to the candidate step by step, by way of the splitter.

The order keeps every request answered. The splitter is READY and follows its route before the alias leads to it, and
the alias has left it on every server before it is unloaded. The route is no effect: it follows from the view
(:func:`route`), is sent to every splitter all the time, and holds only for the lease that :class:`Renew` wrote down. So
a control plane that is gone, stopped or without a disk can't keep a split going.
"""

from __future__ import annotations

from baton.domain import MEETING, Gate, Kind, Model, ModelState, Outcome, Phase, Rollout, Route, Verdict
from baton.evidence import synthetic
from baton.plan.converge import converge_alias, load, sync
from baton.plan.effects import Advance, Decision, Progress, Record, Renew, SetAlias, SetSplitter, Steer, Sync, halt
from baton.plan.steps import Position, further, position
from baton.plan.view import RolloutSettings, ServerView, View, failure_text
from baton.reasons import Reason, Why, because

CALLS_END_S = 15.0
"""How long the splitter is kept for the calls of a candidate that was dropped. Where the candidate's process was ended,
each batch of requests fails after a second."""
UNANSWERED_ROUTES = 3
"""A splitter that leaves so many routes in a row unanswered, on a server that answers, has a process that hangs."""


def stepwise(rollout: Rollout, settings: RolloutSettings) -> bool:
    """Whether traffic comes to the candidate by steps, and not all at once."""
    return replaces_stable(rollout) and not rollout.full and (bool(settings.steps) or shadowed(settings))


def replaces_stable(rollout: Rollout) -> bool:
    """Whether the candidate replaces a stable version that may serve on: it is no first version, and no way back."""
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


def abort_outcome(rollout: Rollout) -> Outcome:
    """How a rollout ends that is turned back, and not because its candidate is bad."""
    return Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK


def bad_outcome(rollout: Rollout) -> Outcome:
    """How a rollout ends whose candidate turns out bad before all traffic moved."""
    return Outcome.REJECTED if before_traffic(rollout) or rollout.progressed_at is None else Outcome.ROLLED_BACK


def position_of(rollout: Rollout, settings: RolloutSettings) -> Position:
    """How far the candidate has come in its phase."""
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
    # Requests still come to the splitter shortly after the alias has left it, and stable may be dead.
    leaving = rollout.phase is Phase.BAKING and view.splitter is not None
    if rollout.phase not in MEETING and not leaving:
        return None
    # Also while the alias moves to the candidate: what still comes to the splitter must not depend on a dead stable.
    if view.alias not in (rollout.previous, rollout.candidate):
        return None
    # After the last step its share stays until the alias itself has moved.
    last = max((s.weight for s in settings.steps), default=0.0)
    return Route(rollout.candidate, min(position_of(rollout, settings).weight, last), settings.shadow_share)


def progress_traffic(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Bring the splitter up and take the candidate through its steps. None when all steps are done."""
    begun = rollout.progressed_at is not None or rollout.renewed_at is not None
    # First, and also after the last step: to reload a server, or to wait for one, takes longer than a lease.
    if begun and (urgent := _analysis_failed(view, rollout) or _hold_lease(view, rollout, settings)) is not None:
        return urgent
    where = position_of(rollout, settings)
    if not stepwise(rollout, settings) or (where.left <= 0 and not where.pause and rollout.progressed_at is not None):
        return None
    return _set_up_split(view, rollout, settings) or _take_step(view, rollout, settings, where)


def _set_up_split(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Bring the alias of every answering server to a splitter that follows its route. None when that is so."""
    phase, stable, candidate = rollout.phase, rollout.previous, rollout.candidate
    assert stable is not None  # noqa: S101 - nothing is split for a first version
    if (broken := _split_broken(view, rollout)) is not None:
        return halt(rollout, abort_outcome(rollout), "engine", broken)
    for version in (stable, candidate):
        if (missing := load(view, phase, version)) is not None:
            return missing
    if (not view.split and view.splitter != stable) or (view.splitter == stable and not view.keyed):
        return Decision(phase, because(Reason.WRITING_SPLITTER, version=stable), SetSplitter(stable))
    for server in view.live():
        # One that knows another token serves on while it is loaded again, beside the new one.
        if server.splitter is not ModelState.READY or server.locked:
            return _load_splitter(view, phase, server, stable)
    return converge_alias(view, phase) if view.split else _put_behind_alias(view, phase, stable, settings)


def _put_behind_alias(view: View, phase: Phase, stable: int, settings: RolloutSettings) -> Decision:
    """Lead the alias's files to the splitter, once it follows its route on every server."""
    for server in view.live():
        if server.steered is None or view.now - server.steered > settings.lease:
            return Decision(phase, because(Reason.SPLITTER_REPORTS, server=server.name))
    if view.unreachable():
        return Decision(phase, because(Reason.SPLIT_ONCE_ALL_ANSWER, servers=view.unreachable()))
    return Decision(phase, because(Reason.SPLITTING, version=stable), SetAlias(stable, split=True))


def _load_splitter(view: View, phase: Phase, server: ServerView, stable: int) -> Decision:
    decision = sync(view, phase, server, Model.SPLITTER, because(Reason.LOADING_SPLITTER))
    if decision.why.reason is not Reason.LAST_TRY_FAILED:
        return decision
    failure = view.failed[Sync(server.name, Model.SPLITTER)]
    why = because(Reason.SPLITTER_REFUSED, server=server.name, error=failure_text(failure))
    if not failure.refused:  # seen on 24.10: a load whose process was killed never ends
        why = because(Reason.SPLITTER_NOT_LOADED, server=server.name, error=failure_text(failure), stable=stable)
    return Decision(phase, why, waits=decision.waits)


def _split_broken(view: View, rollout: Rollout) -> Why | None:
    """A splitter that fails, or a candidate that a server lost and can't load again: clients must not wait for it."""
    for server in view.live():
        steering = view.failed.get(Steer(server.name))
        # Also before clients depend on it: of one whose process died Triton goes on saying READY (seen on 24.10).
        used = server.split or server.splitter is ModelState.READY
        if used and steering is not None and (steering.refused or steering.count >= UNANSWERED_ROUTES):
            return because(Reason.SPLITTER_SILENT, server=server.name, error=steering.message)
        lost = rollout.candidate not in server.ready() and rollout.previous in server.ready()
        if lost and (refusal := view.load_refusal(server, Model.ENGINE)) is not None:
            error = failure_text(refusal)
            return because(Reason.CANDIDATE_LOST, version=rollout.candidate, server=server.name, error=error)
        if view.split and (refusal := view.load_refusal(server, Model.ALIAS)) is not None:
            return because(Reason.SPLITTER_NOT_PUT, server=server.name, error=refusal.message)
    return None


def _take_step(view: View, rollout: Rollout, settings: RolloutSettings, where: Position) -> Decision:
    """Go on along the steps, at each interval, as the live analysis says."""
    phase, version = rollout.phase, rollout.candidate
    if rollout.progressed_at is None:
        return Decision(phase, because(Reason.MEETING_BEGINS, version=version), Progress(0.0))
    doing = because(Reason.SHARE, version=version, weight=where.weight)
    if phase is Phase.SHADOWING:
        doing = because(Reason.MIRRORED, share=settings.shadow_share, version=version)
    if where.pause:
        waits = because(Reason.PAUSE_STEP, doing=doing, step=where.index + 1, version=version)
        return Decision(phase, waits, Advance(Phase.WAITING, waits) if phase is Phase.SHIFTING else None)
    if view.frozen():
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
    if phase is not Phase.SHADOWING:
        seconds = further(settings.steps, rollout.progress, rollout.approvals, seconds) - rollout.progress
    return Decision(phase, doing, Progress(seconds, gate))


def _analysis_failed(view: View, rollout: Rollout) -> Decision | None:
    """The live analysis fails: write its figures down, then turn back for what was written, whatever it says next."""
    written = rollout.gates.get(Gate.LIVE)
    if written is not None and written.verdict is Verdict.FAIL:
        why = because(Reason.GATE_FAILED, gate=Gate.LIVE, said=written.message)
        return halt(rollout, bad_outcome(rollout), "gate", why, Gate.LIVE)
    gate = view.live_gate
    if gate is None or gate.verdict is not Verdict.FAIL:
        return None
    return Decision(rollout.phase, because(Reason.GATE_FAILED, gate=Gate.LIVE, said=gate.message), Record(gate))


def _hold_lease(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Renew the lease in good time. Where it ended by itself, turn back if that is configured."""
    away = 0.0 if rollout.renewed_at is None else view.now - rollout.renewed_at
    if away > settings.lease and not settings.resume:
        return halt(rollout, abort_outcome(rollout), "engine", because(Reason.LEASE_ENDED, away_s=away))
    if rollout.renewed_at is None or away >= settings.lease / 3:
        return Decision(rollout.phase, because(Reason.RENEWING), Renew())
    return None


def bypass_splitter(view: View, phase: Phase) -> Decision | None:
    """Point the alias's files straight at the stable version. None when they do."""
    if not view.split or view.alias is None:
        return None
    return Decision(phase, because(Reason.UNSPLITTING, version=view.alias), SetAlias(view.alias))


def wait_for_calls(view: View, rollout: Rollout) -> Decision | None:
    """Wait until no splitter has a call of the candidate's under way. None when that is so, or took too long.

    In the middle of a call, unloading the splitter or ending what it calls can bring Triton down (seen on 24.10). Only
    the splitter knows of its calls: Triton's own count leaves out those that are being computed.
    """
    if view.now - rollout.phase_since > CALLS_END_S:
        return None
    for server in view.live():
        unknown = server.steered is None or Steer(server.name) in view.failed
        if server.splitter is not ModelState.READY or unknown:
            continue
        if server.outstanding is None or server.outstanding.get(rollout.candidate, 0) != 0:
            return Decision(rollout.phase, because(Reason.LAST_CALLS, version=rollout.candidate, server=server.name))
    return None


def unload_splitter(view: View, phase: Phase) -> Decision | None:
    """Take the splitter out of every answering server, and its files from the repository. None when it is gone.

    Only where the alias no longer leads to it: Triton takes an alias down with what it leads to (seen on 24.10). A load
    call that is under way may bring a splitter that nobody sees yet, so it is waited for.
    """
    unused = [s for s in view.live() if s.splitter not in (None, ModelState.UNLOADING) and not s.split]
    used = view.split or any(s.split for s in view.live())
    if view.splitter is not None and (unused or not used):
        return Decision(phase, because(Reason.REMOVING_SPLITTER_FILES), SetSplitter(None))
    for server in unused:
        decision = sync(view, phase, server, Model.SPLITTER, because(Reason.REMOVING_SPLITTER))
        if decision.effect is not None:
            return decision
    called = ", ".join(s.name for s in view.live() if Sync(s.name, Model.SPLITTER) in view.running)
    return Decision(phase, because(Reason.REMOVING_SPLITTER).on(called)) if called else None
