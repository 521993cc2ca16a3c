"""The phase ``rolling_back``: the alias first, then the version policy, then the servers.

The other order takes the alias down (seen on 24.10).
"""

from __future__ import annotations

from baton.domain import Kind, Model, Outcome, Phase, Rollout, Stop
from baton.plan.converge import converge_alias, load, unload_all_but, unload_unnamed
from baton.plan.effects import Decision, End, SetAlias, SetPolicy, Sync
from baton.plan.health import reload_unhealthy, reloading
from baton.plan.limits import phase_timed_out, retries_exhausted
from baton.plan.retire import ends_with, previous_unrecoverable, versions_to_keep
from baton.plan.traffic import bypass_splitter, unload_splitter, wait_for_calls
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, because

PHASE = Phase.ROLLING_BACK


def rolling_back(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """Lead clients back, unload the candidate, and end. Where there is no way back, the candidate serves on."""
    if (first := bypass_splitter(view, PHASE) or _point_back(view, rollout, settings)) is not None:
        why = retries_exhausted(view, first, settings)
        if why is None or view.alias != rollout.candidate:
            return first
        why = because(Reason.SERVES_ON, why=why, version=rollout.candidate)
        return Decision(PHASE, why, End(Outcome.LIVE, why))
    rest = _clean_up(view, rollout, settings)
    if rest is not None and (isinstance(rest.effect, SetPolicy) or not phase_timed_out(view, rollout, settings)):
        return rest
    stop = rollout.stop or Stop(Outcome.ROLLED_BACK, "engine", because(Reason.ROLLED_BACK))
    outcome, why = stop.outcome, stop.why
    if previous_unrecoverable(view, rollout) and view.alias == rollout.candidate:
        outcome = Outcome.LIVE
        why = because(Reason.NO_WAY_BACK, previous=rollout.previous, version=rollout.candidate)
    why = ends_with(why, rest)
    return Decision(PHASE, why, End(outcome, why))


def _point_back(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """Lead the alias's files from the candidate back to the previous version, once that can serve."""
    previous = rollout.previous
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK or previous_unrecoverable(view, rollout):
        return None
    if rollout.stop is not None and rollout.stop.outcome is Outcome.LIVE:
        return None  # it was found serving: there is nothing to turn back
    if previous is None:
        return Decision(PHASE, because(Reason.FIRST_GOES, version=rollout.candidate), SetAlias(None))
    if (dropping := _drop_unhealthy(view, rollout, previous, settings)) is not None:
        return dropping
    both = frozenset({previous, rollout.candidate})
    if not view.live() or not view.ready_where_live(previous):
        if previous not in view.version_policy:
            return Decision(PHASE, because(Reason.BRINGING_BACK, version=previous), SetPolicy(both))
        once = because(Reason.BACK_ONCE_ALL_ANSWER, version=previous, servers=view.unreachable())
        return load(view, PHASE, previous) or Decision(PHASE, once)
    if previous not in view.version_policy:
        # A restart between here and the next policy must find the version that the alias leads to.
        return Decision(PHASE, because(Reason.KEEPING_GOAL, version=previous), SetPolicy(both))
    under_way = sorted(e.server for e in view.running if isinstance(e, Sync) and e.model is Model.ENGINE)
    if under_way:
        # It read the files before this was decided, and may be about to take the previous version out.
        return Decision(PHASE, because(Reason.CALL_UNDER_WAY, server=under_way[0], version=previous))
    return Decision(PHASE, because(Reason.POINTING_BACK, version=previous), SetAlias(previous))


def _drop_unhealthy(view: View, rollout: Rollout, previous: int, settings: RolloutSettings) -> Decision | None:
    """Unload a previous version that is known not to answer, so that it is loaded again while the candidate serves.

    Only once: where it does not answer after that either, the person who goes back to it gets what they asked for.
    """
    known = (view.unhealthy.get((s.name, previous)) for s in view.live() if previous in s.ready())
    dead = any(one is not None and one.since <= rollout.phase_since for one in known)
    serves = all((s.name, rollout.candidate) not in view.unhealthy and view.alias_matches(s) for s in view.live())
    if not dead or not serves:
        return None
    return unload_all_but(view, PHASE, frozenset({rollout.candidate}), rollout.phase_since, settings)


def _clean_up(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """The files lead clients to the right version: now the servers follow, and the candidate is unloaded."""
    keep = versions_to_keep(view, rollout)
    moving = converge_alias(view, PHASE) or _drain_splitter(view, rollout, keep) or unload_splitter(view, PHASE)
    if moving is not None:
        return moving
    reload = reload_unhealthy(view, PHASE, once=True)
    if reload is not None and (reload.effect is not None or reloading(view)):
        return reload
    return unload_all_but(view, PHASE, keep, rollout.phase_since, settings)


def _drain_splitter(view: View, rollout: Rollout, keep: frozenset[int]) -> Decision | None:
    """The candidate is dropped and its last calls end before the splitter goes. None when that is so, or can't be.

    A stable version that does not answer does not wait for it.
    """
    if view.splitter is None or rollout.candidate in keep or any(v in keep for _, v in view.unhealthy):
        return None
    if view.version_policy != keep:
        return Decision(PHASE, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    dropping = unload_unnamed(view, PHASE, keep, wait=None)
    return dropping if dropping is not None and dropping.effect is not None else wait_for_calls(view, rollout)
