"""Steps that several phases share: bring servers to what the files say, one server at a time."""

from __future__ import annotations

from baton.domain import Model, ModelState, Phase
from baton.plan.effects import Decision, Reload, SetPolicy, Sync
from baton.plan.view import RolloutSettings, ServerView, View, backoff, failure_text
from baton.reasons import Reason, Why, because


def name_what_serves(view: View) -> Decision | None:
    """Put a version policy right that a person wrote. None when it is, or while that just failed.

    A restart of Triton loads all of what it names or nothing (seen on 24.10). So it must name the version that the
    alias leads to, if that is READY anywhere, and nothing that is neither loaded nor of the rollout.
    """
    rollout, alias = view.rollout, view.alias
    if alias is None or not view.live():
        return None
    known = {alias} if rollout is None else {alias, rollout.candidate, rollout.previous}
    known = known.union(*(s.held() for s in view.live()))
    # A server that does not answer may hold others.
    keep = frozenset(v for v in view.version_policy if v in known or (view.silent() and v in view.folders))
    if view.version_policy and not keep:
        keep = frozenset({alias})  # Baton itself gives a lost version up by naming another one, or none
    if any(alias in s.ready() for s in view.live()):
        keep |= {alias}
    if keep != view.version_policy:
        keep = keep.union(*(s.serving() for s in view.live()))
    effect = SetPolicy(keep)
    if keep == view.version_policy or backoff(view.failed.get(effect), view.now):
        return None
    resting = Phase.DEGRADED if rollout is None else rollout.phase
    return Decision(resting, because(Reason.POLICY_WRONG, versions=view.version_policy, serves=alias), effect)


def sync(view: View, phase: Phase, server: ServerView, model: Model, doing: Why) -> Decision:
    """Ask for a load call, unless one is under way, must rest after a failure, or would harm live traffic."""
    effect = Sync(server.name, model)
    if effect in view.running:
        return Decision(phase, doing.on(server.name), waits=effect)
    if Reload(server.name) in view.running:
        return Decision(phase, because(Reason.WAITS_FOR_RELOAD, doing=doing, server=server.name))
    if model is Model.ENGINE and (hold := view.hold_reason()) is not None:
        return Decision(phase, hold)
    failure = view.failed.get(effect)
    if failure is not None and backoff(failure, view.now):
        why = because(Reason.LAST_TRY_FAILED, doing=doing, server=server.name, error=failure_text(failure))
        return Decision(phase, why, waits=effect)
    return Decision(phase, doing.on(server.name), effect)


def point_alias(view: View, phase: Phase, version: int) -> Decision | None:
    """Bring every answering server's alias to ``version``, which the alias files already name.

    None when that is so. A server on which the version is not READY is left alone: an alias that is loaded
    without its engine version is taken down by Triton.
    """
    behind = [s for s in view.live() if not view.leads(s)]
    for server in behind:
        if version in server.ready():
            decision = sync(view, phase, server, Model.ALIAS, moving(view))
            if decision.effect is not None or server is behind[-1]:
                return decision
    if behind:
        return Decision(phase, because(Reason.NOT_READY, version=version, server=behind[0].name))
    return None


def converge_alias(view: View, phase: Phase) -> Decision | None:
    """Bring the alias to what its files say wherever it leads elsewhere, also when they say that there is none.

    A server that was away may come back with the alias at a version that the files gave up meanwhile. It
    keeps that version until the name has moved: dropping it first would take the name down (seen on 24.10). A
    server that serves nothing and lacks the version has nothing to lose, and is left to :func:`load`.

    A call that is under way may have read the files before they said so, and what it did is not seen yet.
    """
    last: Decision | None = None
    for server in view.live():
        shown, called = server.serving(), Sync(server.name, Model.ALIAS) in view.running
        if called or (view.alias is None and shown):
            last = sync(view, phase, server, Model.ALIAS, moving(view))
        elif view.alias is None or view.leads(server):
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
    if waiting and version not in view.version_policy and view.hold_reason() is None:
        # `ctl up` begins with what serves alone, whatever was going on when it ended.
        return Decision(phase, because(Reason.NAMING, version=version), SetPolicy(view.version_policy | {version}))
    decision = None
    for server in waiting:
        decision = sync(view, phase, server, Model.ENGINE, because(Reason.LOADING, version=version))
        if decision.effect is not None:
            return decision
    return decision


def drop_all_but(
    view: View, phase: Phase, keep: frozenset[int], since: float, settings: RolloutSettings
) -> Decision | None:
    """Take every engine version but ``keep`` out of every server that answers. None when that is done.

    The policy on disk comes first: from then on a restart of Triton comes back with ``keep`` alone, whatever
    happens to the calls that follow.
    """
    if view.version_policy != keep:
        return Decision(phase, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    wait = settings.drain_timeout if view.now - since <= settings.drain_timeout else None
    return drop_extra(view, phase, keep, wait=wait)


def drop_extra(view: View, phase: Phase, keep: frozenset[int], *, wait: float | None) -> Decision | None:
    """Take out what the policy on disk no longer names.

    ``wait``: also until what leaves has left, except for what has been leaving for longer than that; None: not at all.

    With no folder for any version that the policy names Triton refuses the load call (seen on 24.10), and nothing can
    leave: then it stays, and must not keep a rollback from its end.
    """
    if keep and not keep & set(view.folders):
        return None
    last: Decision | None = None
    for server in view.live():
        extra = server.held() - keep
        if not extra or server.serving() - keep or server.split:
            continue
        if all(server.leaving(v) for v in extra):
            if wait is None or all(server.stays(v, view.now, wait) for v in extra):
                continue
            last = Decision(phase, because(Reason.LAST_REQUESTS, versions=extra, server=server.name))
            continue
        loading = frozenset(v for v in extra if server.engine[v].state is ModelState.LOADING)
        if loading:
            last = Decision(phase, _still_loading(view, server, loading, keep))
            continue
        last = sync(view, phase, server, Model.ENGINE, because(Reason.UNLOADING, versions=extra))
        if last.effect is not None:
            return last
    return last


def _still_loading(view: View, server: ServerView, loading: frozenset[int], keep: frozenset[int]) -> Why:
    """Triton takes no other load call for the engine or the alias until this one ends (seen on 24.10).

    Ending the stub of a load that hangs ends the load only where the stub had got as far as ``initialize()``; Triton
    never notices one that died before. The policy on disk is right already, so a restart brings back what serves.
    """
    serves = view.alias if any(view.alias in s.serving() for s in view.live()) else None
    return because(Reason.STILL_LOADING, versions=loading, server=server.name, keep=keep, serves=serves)
