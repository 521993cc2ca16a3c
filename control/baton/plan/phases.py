"""A rollout is under way: what comes first in every phase, and the table of the phases' own functions."""

from __future__ import annotations

from collections.abc import Callable

from baton.domain import Kind, Phase, Rollout
from baton.plan.converge import converge_alias, load
from baton.plan.cutover import shadowing, shifting
from baton.plan.effects import Advance, Decision, Halt, Sync
from baton.plan.external_change import external_stop
from baton.plan.gates import validating, verifying, waiting
from baton.plan.health import handle_unhealthy, reloading
from baton.plan.limits import enforce_limits
from baton.plan.loading import loading
from baton.plan.retire import baking, retiring
from baton.plan.rollback import rolling_back
from baton.plan.traffic import before_traffic, bypass_splitter, unload_splitter
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, because

PHASES: dict[Phase, Callable[[View, Rollout, RolloutSettings], Decision]] = {
    Phase.VERIFYING: verifying,
    Phase.LOADING: loading,
    Phase.VALIDATING: validating,
    Phase.WAITING: waiting,
    Phase.SHADOWING: shadowing,
    Phase.SHIFTING: shifting,
    Phase.BAKING: baking,
    Phase.RETIRING: retiring,
}


def rolling(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """A stop comes first, then changes from outside, then unhealthy versions, then the phase's own step."""
    if rollout.phase is Phase.ROLLING_BACK:
        return rolling_back(view, rollout, settings)
    if rollout.stop is not None:
        return Decision(rollout.phase, rollout.stop.why, Advance(Phase.ROLLING_BACK, rollout.stop.why))
    if (stop := external_stop(view, rollout, settings)) is not None:
        return Decision(rollout.phase, stop.why, Halt(stop))
    if not view.live():
        return Decision(rollout.phase, because(Reason.AWAY, servers=view.unreachable()))
    unhealthy = handle_unhealthy(view, rollout, settings)
    if unhealthy is not None and (unhealthy.effect is not None or reloading(view)):
        return unhealthy
    decision = enforce_limits(view, rollout, settings, _in_phase(view, rollout, settings))
    return decision if unhealthy is None or decision.effect is not None else unhealthy


def _in_phase(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    if before_traffic(rollout) and rollout.phase is not Phase.SHADOWING:
        first = _remove_old_split(view, rollout.phase) or _reload_stable(view, rollout)
        if first is not None:
            return first
    return PHASES[rollout.phase](view, rollout, settings)


def _remove_old_split(view: View, phase: Phase) -> Decision | None:
    """Before traffic nothing is left of an earlier split.

    A server that was away meanwhile may still have its splitter, which takes no route of this rollout.
    """
    return bypass_splitter(view, phase) or converge_alias(view, phase) or unload_splitter(view, phase)


def _reload_stable(view: View, rollout: Rollout) -> Decision | None:
    """A stable version that a server has lost is loaded again first: nobody serves there.

    A person may just have taken it out of ``config.pbtxt`` when Triton read that. After two failures the rollout goes
    on, since the candidate may be the cure.
    """
    stable = rollout.previous
    if stable is None or stable != view.alias or rollout.kind is Kind.ROLLBACK or stable not in view.folders:
        return None
    reload = load(view, rollout.phase, stable)
    if reload is None or (reload.effect is None and reload.waits not in view.running):
        return None
    failure = view.failed.get(reload.effect) if isinstance(reload.effect, Sync) else None
    return None if failure is not None and failure.count > 1 else reload
