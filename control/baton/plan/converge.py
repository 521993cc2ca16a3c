"""Steps that several phases share: bring servers to what the files say, one server at a time."""

from __future__ import annotations

from baton.domain import Model, Phase
from baton.plan.effects import Decision, SetPolicy, Sync
from baton.plan.view import Policy, ServerView, View, backoff


def sync(view: View, phase: Phase, server: ServerView, model: Model, why: str) -> Decision:
    """Ask for a load call, unless one is under way, must rest after a failure, or would harm live traffic."""
    effect = Sync(server.name, model)
    if effect in view.running:
        return Decision(phase, f"{why} (server {server.name}).")
    if model is Model.ENGINE and (reason := view.hold_reason()) is not None:
        return Decision(phase, reason)
    failure = view.failed.get(effect)
    if failure is not None and backoff(failure, view.now):
        return Decision(phase, f"{why}; the last try on server {server.name} failed: {failure.message}")
    return Decision(phase, f"{why} (server {server.name}).", effect)


def point_alias(view: View, phase: Phase, version: int) -> Decision | None:
    """Bring every answering server's public name to ``version``, which the alias files already name.

    None when that is so. A server on which the version is not READY is left alone: an alias that is loaded
    without its engine version is taken down by Triton.
    """
    behind = [s for s in view.live() if s.serving() != {version}]
    for server in behind:
        if version in server.ready():
            decision = sync(view, phase, server, Model.ALIAS, f"Moving the public name to version {version}")
            if decision.effect is not None or server is behind[-1]:
                return decision
    if behind:
        return Decision(phase, f"Version {version} is not READY on server {behind[0].name}.")
    return None


def load(view: View, phase: Phase, version: int) -> Decision | None:
    """Bring ``version``, which the policy on disk names, to READY on every answering server. None when it is."""
    waiting = [s for s in view.live() if version not in s.ready()]
    decision = None
    for server in waiting:
        decision = sync(view, phase, server, Model.ENGINE, f"Loading version {version}")
        if decision.effect is not None:
            return decision
    return decision


def drop_all_but(view: View, phase: Phase, keep: frozenset[int], since: float, policy: Policy) -> Decision | None:
    """Take every engine version but ``keep`` out of every server that answers. None when that is done.

    The policy on disk comes first: from then on a restart of Triton comes back with ``keep`` alone, whatever
    happens to the calls that follow.
    """
    if view.policy != keep:
        return Decision(phase, f"Writing the version policy {name_all(keep)}.", SetPolicy(keep))
    last: Decision | None = None
    for server in view.live():
        extra = server.held() - keep
        if not extra:
            continue
        if all(server.leaving(v) for v in extra):
            if view.now - since > policy.drain_timeout:
                continue
            last = Decision(phase, f"{name_all(extra)} finishes its last requests on server {server.name}.")
            continue
        last = sync(view, phase, server, Model.ENGINE, f"Unloading {name_all(extra)}")
        if last.effect is not None:
            return last
    return last


def name_all(versions: frozenset[int]) -> str:
    """``version 2``, ``versions 1 and 2`` or ``no version``."""
    if not versions:
        return "no version"
    listed = " and ".join(str(v) for v in sorted(versions))
    return f"version{'s' if len(versions) > 1 else ''} {listed}"
