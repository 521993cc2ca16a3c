"""No rollout is under way: keep the servers in step with the files, and begin the next rollout."""

from __future__ import annotations

from baton.domain import Kind, Phase
from baton.plan.converge import converge_alias, load, unload_unnamed
from baton.plan.effects import Begin, Decision, SetPolicy
from baton.plan.health import reload_unhealthy
from baton.plan.prune import pruning
from baton.plan.traffic import bypass_splitter, unload_splitter
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, Why, because

WATCHER = "watcher"


def without_rollout(view: View, settings: RolloutSettings) -> Decision:
    """Repair first, then look for the next version."""
    if view.servers and not view.live():
        return Decision(Phase.DEGRADED, because(Reason.ALL_SILENT, servers=view.unreachable()))
    phase = Phase.EMPTY if view.alias is None else Phase.STEADY
    if (repair := _repair(view, phase)) is not None:
        return repair
    if view.unreachable():
        why = because(Reason.SOME_SILENT, servers=view.unreachable(), serves=view.alias)
        return Decision(Phase.DEGRADED, why)
    if (blocked := view.loads_blocked()) is not None:
        return Decision(Phase.DEGRADED, blocked)
    if (removing := pruning(view, phase, settings)) is not None:
        return removing
    if view.paused:
        return Decision(phase, because(Reason.PAUSED_AT_REST, standing=_state(view, settings)))
    adopt = None
    if view.alias is None:
        # An engine that is served without an alias is what clients use today: it comes first.
        served = frozenset.intersection(*(s.ready() for s in view.servers)) if view.servers else frozenset()
        adopt = max((v for v in served if v in view.folders and view.folders[v].complete), default=None)
    if adopt is not None and adopt not in view.records:
        return _begin(view, adopt, Reason.ADOPTED)
    if pending := view.pending(settings):
        # Before a first version serves no order is kept: the newest is wanted.
        newest_first = settings.supersede or view.alias is None
        folder = pending[-1 if newest_first else 0]
        assert folder.version is not None  # noqa: S101 - a pending folder has a number
        return _begin(view, folder.version, Reason.NEW_VERSION if folder.complete else Reason.CUT_OFF)
    return Decision(phase, _state(view, settings))


def _begin(view: View, version: int, reason: Reason) -> Decision:
    why = because(reason)
    effect = Begin(Kind.ROLLOUT, version, view.alias, WATCHER, why)
    return Decision(Phase.VERIFYING, because(Reason.BEGINS, version=version, why=why), effect)


def _repair(view: View, phase: Phase) -> Decision | None:
    """The version that clients ask is reloaded first. While that waits, the rest is repaired."""
    reload = reload_unhealthy(view, Phase.DEGRADED)
    if reload is not None and reload.effect is not None:
        return reload
    alias = None if view.alias is None else _repair_alias(view, view.alias)
    other = alias or unload_splitter(view, phase) or _unload_given_up(view, phase)
    return other if reload is None or (other is not None and other.effect is not None) else reload


def _repair_alias(view: View, alias: int) -> Decision | None:
    """On every answering server the alias must lead to the version that its files name, and only there."""
    if (first := bypass_splitter(view, Phase.DEGRADED)) is not None:
        return first
    unready = [s for s in view.live() if alias not in s.ready()]
    if unready:
        if alias not in view.version_policy:
            return Decision(Phase.DEGRADED, because(Reason.POLICY_LACKS_ALIAS, version=alias))
        decision = converge_alias(view, Phase.DEGRADED) or load(view, Phase.DEGRADED, alias)
        if decision is not None:
            return decision
    return converge_alias(view, Phase.DEGRADED)


def _unload_given_up(view: View, phase: Phase) -> Decision | None:
    """What a server holds that Baton gave up while that server was away. What others loaded is left alone."""
    given_up = frozenset(view.records) - {view.alias}
    for server in view.live():
        if view.alias is None and server.serving() and server.serving() <= given_up:
            return converge_alias(view, phase)
    if view.loads_blocked() is not None:
        return None
    keep = view.version_policy - given_up
    if view.alias is None:
        held = frozenset(v for s in view.live() for v in s.in_memory())
        if view.version_policy or not held or not held <= given_up:
            return None
    if keep != view.version_policy:
        return Decision(phase, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    return unload_unnamed(view, phase, keep, wait=None)


def _state(view: View, settings: RolloutSettings) -> Why:
    """What serves, and what is arriving."""
    serving = because(Reason.SERVES, version=view.alias)
    if view.alias is None:
        direct = view.version_policy & {v for s in view.live() for v in s.ready()}
        serving = because(Reason.NOTHING_SERVES, ever=bool(view.records))
        serving = because(Reason.SERVED_DIRECTLY, versions=direct) if direct else serving
    floor = view.alias or 0
    incoming = [f for v, f in sorted(view.folders.items()) if v > floor and f.missing and not view.refused(v)]
    if incoming:
        folder = incoming[-1]
        stuck = view.now - folder.quiet_since > settings.stuck_after
        return because(
            Reason.ARRIVAL_STUCK if stuck else Reason.STILL_ARRIVING,
            serving=serving,
            version=folder.version,
            lacks=folder.missing[0],
            more=len(folder.missing) - 1,
        )
    if view.alias is None and not view.folders:
        return because(Reason.NO_FOLDER, serving=serving)
    return serving
