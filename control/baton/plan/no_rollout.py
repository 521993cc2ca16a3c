"""No rollout is under way: keep servers in step with the files, and take up the next version."""

from __future__ import annotations

from baton.domain import Kind, Phase
from baton.plan.converge import converge_alias, drop_extra, load
from baton.plan.effects import Begin, Decision, SetPolicy
from baton.plan.health import mend
from baton.plan.traffic import bypass_splitter, unload_splitter
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, Why, because

WATCHER = "watcher"


def without_rollout(view: View, settings: RolloutSettings) -> Decision:
    """Repair first, then look for work."""
    silent = view.silent()
    if silent and not view.live():
        return Decision(Phase.DEGRADED, because(Reason.ALL_SILENT, servers=view.silence()))
    resting = Phase.EMPTY if view.alias is None else Phase.STEADY
    if (mending := _mending(view, resting)) is not None:
        return mending
    if silent:
        return Decision(Phase.DEGRADED, because(Reason.SOME_SILENT, servers=view.silence(), serves=view.alias))
    if (hold := view.hold_reason()) is not None:
        return Decision(Phase.DEGRADED, hold)
    if view.paused:
        return Decision(resting, because(Reason.PAUSED_AT_REST, standing=_standing(view, settings)))
    adopt = None
    if view.alias is None:
        # An engine that is served without an alias yet is what clients use today: it comes first.
        served = frozenset.intersection(*(s.ready() for s in view.servers)) if view.servers else frozenset()
        adopt = max((v for v in served if v in view.folders and view.folders[v].complete), default=None)
    pending = view.pending(settings)
    if adopt is not None and adopt not in view.records:
        return _begin(view, adopt, Reason.ADOPTED)
    if pending:
        # With nothing live there is nothing to go through step by step: the newest is what is wanted.
        newest_first = settings.supersede or view.alias is None
        folder = pending[-1 if newest_first else 0]
        assert folder.version is not None  # noqa: S101 - a pending folder has a number
        return _begin(view, folder.version, Reason.NEW_VERSION if folder.complete else Reason.CUT_OFF)
    return Decision(resting, _standing(view, settings))


def _begin(view: View, version: int, reason: Reason) -> Decision:
    why = because(reason)
    effect = Begin(Kind.ROLLOUT, version, view.alias, WATCHER, why)
    return Decision(Phase.VERIFYING, because(Reason.BEGINS, version=version, why=why), effect)


def _mending(view: View, resting: Phase) -> Decision | None:
    """What serves comes first; while nothing can be done about that, the rest is put in order."""
    ill = mend(view, Phase.DEGRADED)
    if ill is not None and ill.effect is not None:
        return ill
    repair = None if view.alias is None else _repair(view, view.alias)
    other = repair or unload_splitter(view, resting) or _leftover(view)
    return other if ill is None or (other is not None and other.effect is not None) else ill


def _repair(view: View, alias: int) -> Decision | None:
    """The alias must lead to the version that its files name, on every server that answers, and to it alone."""
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


def _leftover(view: View) -> Decision | None:
    """What a server still has that Baton gave up while that server was away; what others loaded is left alone."""
    phase = Phase.EMPTY if view.alias is None else Phase.STEADY
    given_up = frozenset(view.records) - {view.alias}
    for server in view.live():
        if view.alias is None and server.serving() and server.serving() <= given_up:
            return converge_alias(view, phase)
    if view.hold_reason() is not None:
        return None
    keep = view.version_policy - given_up
    if view.alias is None:
        held = frozenset(v for s in view.live() for v in s.held())
        if view.version_policy or not held or not held <= given_up:
            return None
    if keep != view.version_policy:
        return Decision(phase, because(Reason.WRITING_POLICY, versions=keep), SetPolicy(keep))
    return drop_extra(view, phase, keep, wait=None)


def _standing(view: View, settings: RolloutSettings) -> Why:
    serving = because(Reason.SERVES, version=view.alias)
    if view.alias is None:
        served_without_alias = view.version_policy & {v for s in view.live() for v in s.ready()}
        serving = because(Reason.NOTHING_SERVES, ever=bool(view.records))
        serving = because(Reason.SERVED_DIRECTLY, versions=served_without_alias) if served_without_alias else serving
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
