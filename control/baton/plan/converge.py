"""What several phases share: bring the servers to what the files say, one server at a time."""

from __future__ import annotations

from baton.domain import Model, ModelState, Phase
from baton.plan.effects import Decision, Reload, SetPolicy, Sync
from baton.plan.view import RolloutSettings, ServerView, View, backoff, failure_text
from baton.reasons import Reason, Why, because


def repair_version_policy(view: View) -> Decision | None:
    """Correct a version policy that a person wrote. None where it is correct, or the correction just failed.

    It must name the version that the alias leads to, if that is READY anywhere, and no version that is neither loaded
    nor of the rollout: a restart of Triton loads all that it names, or nothing (seen on 24.10).
    """
    rollout, alias = view.rollout, view.alias
    if alias is None or not view.live():
        return None
    known = {alias} if rollout is None else {alias, rollout.candidate, rollout.previous}
    known = known.union(*(s.in_memory() for s in view.live()))
    # A server that does not answer may hold others.
    keep = frozenset(v for v in view.version_policy if v in known or (view.unreachable() and v in view.folders))
    if view.version_policy and not keep:
        keep = frozenset({alias})  # Baton itself gives a lost version up by naming another one, or none
    if view.ready_anywhere(alias):
        keep |= {alias}
    if keep != view.version_policy:
        keep = keep.union(*(s.serving() for s in view.live()))
    effect = SetPolicy(keep)
    if keep == view.version_policy or backoff(view.failed.get(effect), view.now):
        return None
    phase = Phase.DEGRADED if rollout is None else rollout.phase
    return Decision(phase, because(Reason.POLICY_WRONG, versions=view.version_policy, serves=alias), effect)


def sync(view: View, phase: Phase, server: ServerView, model: Model, doing: Why) -> Decision:
    """Ask for a load call, unless one is under way, rests after a failure, or would disturb clients."""
    effect = Sync(server.name, model)
    if effect in view.running:
        return Decision(phase, doing.on(server.name), waits=effect)
    if Reload(server.name) in view.running:
        return Decision(phase, because(Reason.WAITS_FOR_RELOAD, doing=doing, server=server.name))
    if model is Model.ENGINE and (blocked := view.loads_blocked()) is not None:
        return Decision(phase, blocked)
    failure = view.failed.get(effect)
    if failure is not None and backoff(failure, view.now):
        why = because(Reason.LAST_TRY_FAILED, doing=doing, server=server.name, error=failure_text(failure))
        return Decision(phase, why, waits=effect)
    return Decision(phase, doing.on(server.name), effect)


def converge_alias(view: View, phase: Phase) -> Decision | None:
    """Bring the alias to what its files say on every answering server, also when they say that there is none.

    A server that was away may come back with its alias at a version that the files gave up meanwhile. It keeps that
    version until its alias has moved: dropping the version first would take the alias down (seen on 24.10). A server
    whose alias serves nothing and that lacks the version is left to :func:`load`.

    A call that is under way may have read the files before they were changed. What it did is not seen yet.
    """
    last: Decision | None = None
    for server in view.live():
        shown, called = server.serving(), Sync(server.name, Model.ALIAS) in view.running
        if called or (view.alias is None and shown):
            last = sync(view, phase, server, Model.ALIAS, moving(view))
        elif view.alias is None or view.alias_matches(server):
            continue
        elif view.alias in server.ready():
            last = sync(view, phase, server, Model.ALIAS, moving(view))
        elif shown:
            both = shown | {view.alias}
            if not both <= view.version_policy:
                return Decision(phase, because(Reason.KEEPING_UNTIL_MOVED, versions=shown), SetPolicy(both))
            last = sync(view, phase, server, Model.ENGINE, because(Reason.LOADING, version=view.alias))
        if last is not None and last.effect is not None:
            return last
    return last


def moving(view: View) -> Why:
    """A server's alias is brought to what its files say."""
    if view.alias is None:
        return because(Reason.REMOVING_ALIAS)
    return because(Reason.MOVING_ALIAS, version=view.alias, split=view.split)


def load(view: View, phase: Phase, version: int) -> Decision | None:
    """Bring ``version`` to READY on every answering server. None when it is."""
    waiting = [s for s in view.live() if version not in s.ready()]
    if waiting and version not in view.version_policy and view.loads_blocked() is None:
        # `ctl up` starts Triton with the alias's version alone, whatever was going on when it ended.
        return Decision(phase, because(Reason.NAMING, version=version), SetPolicy(view.version_policy | {version}))
    decision = None
    for server in waiting:
        decision = sync(view, phase, server, Model.ENGINE, because(Reason.LOADING, version=version))
        if decision.effect is not None:
            return decision
    return decision


def unload_all_but(
    view: View, phase: Phase, keep: frozenset[int], since: float, settings: RolloutSettings
) -> Decision | None:
    """Take every engine version but ``keep`` out of every answering server. None when that is done.

    The policy on disk comes first: from then on a restart of Triton comes back with ``keep`` alone, whatever happens to
    the load calls that follow.
    """
    if view.version_policy != keep:
        return Decision(phase, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    wait = settings.drain_timeout if view.now - since <= settings.drain_timeout else None
    return unload_unnamed(view, phase, keep, wait=wait)


def unload_unnamed(view: View, phase: Phase, keep: frozenset[int], *, wait: float | None) -> Decision | None:
    """Take out what the policy on disk no longer names.

    ``wait``: wait for what is UNLOADING as well, for at most so many seconds each; None: do not wait.

    Triton refuses the load call when none of the versions that the policy names has a folder (seen on 24.10). Then
    nothing can be unloaded; it stays, so that a rollback can end.
    """
    if keep and not keep & set(view.folders):
        return None
    last: Decision | None = None
    for server in view.live():
        extra = server.in_memory() - keep
        if not extra or server.serving() - keep or server.split:
            continue
        loading = frozenset(v for v in extra if server.engine[v].state is ModelState.LOADING)
        if all(server.unloading(v) for v in extra):
            if wait is None or all(server.stuck_unloading(v, view.now, wait) for v in extra):
                continue
            last = Decision(phase, because(Reason.LAST_REQUESTS, versions=extra, server=server.name))
        elif loading:
            # Triton takes no other load call for the engine or the alias until this one ends (seen on 24.10).
            serves = view.alias if any(view.alias in s.serving() for s in view.live()) else None
            why = because(Reason.STILL_LOADING, versions=loading, server=server.name, keep=keep, serves=serves)
            last = Decision(phase, why)
        else:
            last = sync(view, phase, server, Model.ENGINE, because(Reason.UNLOADING, versions=extra))
            if last.effect is not None:
                return last
    return last
