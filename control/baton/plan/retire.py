"""The phases after the cutover: ``baking``, then ``retiring``, in which the previous version is unloaded."""

from __future__ import annotations

from baton.domain import Kind, Model, Outcome, Phase, Rollout
from baton.plan.converge import converge_alias, load, unload_all_but
from baton.plan.effects import Advance, Decision, End, SetPolicy
from baton.plan.gates import skipped
from baton.plan.loading import served_without_alias
from baton.plan.traffic import unload_splitter
from baton.plan.view import RolloutSettings, View
from baton.reasons import Figure, Reason, Why, because


def baking(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The candidate serves, and the previous version stays loaded for an instant way back."""
    phase, version, previous = Phase.BAKING, rollout.candidate, rollout.previous
    if (serving := _serve(view, phase, version)) is not None:
        return serving
    serves = because(Reason.SERVES, version=version)
    if previous is None:
        return Decision(phase, serves, Advance(Phase.RETIRING, because(Reason.NOTHING_TO_KEEP)))
    if rollout.kind is Kind.ROLLBACK:
        why = because(Reason.NOT_KEPT_GONE_BACK, version=previous)
        return Decision(phase, serves, Advance(Phase.RETIRING, why))
    if (standby := _reload_standby(view, rollout, previous)) is not None:
        return standby
    left = settings.keep_previous - (view.now - rollout.phase_since)
    superseded = settings.supersede and bool(view.pending(settings)) and not view.paused
    loaded = view.ready_where_live(previous)
    if (left <= 0 or superseded) and not view.frozen():
        reason = Reason.STANDBY_SUPERSEDED if left > 0 else Reason.KEPT
        if settings.keep_previous <= 0:
            reason = Reason.NOT_KEPT
        why = because(reason if loaded else Reason.STANDBY_LOST, version=previous)
        return Decision(phase, why, Advance(Phase.RETIRING, why))
    figures: dict[str, Figure] = {"version": version, "previous": previous, "hold": view.loads_blocked()}
    if not loaded:
        return Decision(phase, because(Reason.KEEPING_NOTHING, **figures))
    return Decision(phase, because(Reason.KEEPING, left_s=0.0 if superseded else max(0.0, left), **figures))


def _serve(view: View, phase: Phase, version: int) -> Decision | None:
    """The alias leads to the version on every answering server, without the splitter. None when that is so."""
    return load(view, phase, version) or converge_alias(view, phase) or unload_splitter(view, phase)


def _reload_standby(view: View, rollout: Rollout, previous: int) -> Decision | None:
    """After a restart of Triton the previous version is loaded again, so that the way back stays instant."""
    phase, alone = Phase.BAKING, frozenset({rollout.candidate})
    if view.ready_where_live(previous) or view.loads_blocked() is not None:
        return None
    if previous_unrecoverable(view, rollout):
        # A version that Triton refuses must not stay in the policy: the next restart would load nothing.
        give_up = Decision(phase, because(Reason.GIVING_UP, version=previous), SetPolicy(alone))
        return None if view.version_policy == alone else give_up
    if view.version_policy != alone | {previous}:
        return Decision(phase, because(Reason.RELOADING_STANDBY, version=previous), SetPolicy(alone | {previous}))
    return load(view, phase, previous)


def retiring(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The policy names what serves alone, and the rest is unloaded after its last requests."""
    phase = Phase.RETIRING
    if view.alias is not None and (serving := _serve(view, phase, view.alias)) is not None:
        return serving
    if view.unreachable():
        return Decision(phase, because(Reason.NOTHING_UNSEEN, servers=view.unreachable()))
    keep = versions_to_keep(view, rollout)
    if (queued := _queued_requests(view, keep, rollout, settings)) is not None:
        return Decision(phase, queued)
    done = Decision(phase, because(Reason.DONE), end_of(rollout))
    return unload_all_but(view, phase, keep, rollout.phase_since, settings) or done


def _queued_requests(view: View, keep: frozenset[int], rollout: Rollout, settings: RolloutSettings) -> Why | None:
    """Requests that wait for the versions that are about to be unloaded, where the servers tell.

    Triton ends those that are computed already before it drops a version.
    """
    if view.now - rollout.phase_since > settings.drain_timeout:
        return None
    for server in view.live():
        for version in sorted(server.ready() - keep):
            if server.inflight is not None and (count := server.inflight.get(version, 0)):
                return because(Reason.REQUESTS_WAIT, count=count, version=version, server=server.name)
    return None


def versions_to_keep(view: View, rollout: Rollout) -> frozenset[int]:
    """What stays loaded when the rollout is over."""
    if view.alias is None:
        return served_without_alias(view, rollout)
    # Of a rollout that replaces a lost version: a load call that names the lost one fails, and nothing can be unloaded.
    # Afterwards the policy names it again, for the day on which somebody mends it.
    lost = rollout.previous is None and not view.ready_anywhere(view.alias) and view.alias != rollout.candidate
    staying = any(not s.unloading(v) for s in view.live() for v in s.in_memory())
    return frozenset() if lost and staying else frozenset({view.alias})


def previous_unrecoverable(view: View, rollout: Rollout) -> bool:
    """Whether the previous version is no longer loaded, and can't be: its folder is gone, or Triton refuses it."""
    previous = rollout.previous
    if previous is None or view.ready_where_live(previous):
        return False
    lacking = [s for s in view.live() if previous not in s.ready()]
    return previous not in view.folders or any(view.load_refusal(s, Model.ENGINE) is not None for s in lacking)


def end_of(rollout: Rollout) -> End:
    """How a rollout ends that was not turned back."""
    match rollout.kind:
        case Kind.CHECK:
            why = because(Reason.VERIFIED, version=rollout.candidate, skipped=skipped(rollout))
            return End(Outcome.VERIFIED, why)
        case Kind.ROLLBACK:
            return End(Outcome.LIVE, because(Reason.BACK_ON, version=rollout.candidate))
        case Kind.ROLLOUT:
            return End(Outcome.LIVE, because(Reason.SERVES, version=rollout.candidate))


def ends_with(why: Why, rest: Decision | None) -> Why:
    """Why a rollout ends, with what is left to do when its time is over."""
    return why if rest is None else because(Reason.ENDED_WITH_REST, why=why, rest=rest.why)
