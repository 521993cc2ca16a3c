"""The phases in which traffic comes to the candidate: ``shadowing``, and ``shifting``, which ends with the cutover."""

from __future__ import annotations

from baton.domain import Gate, Model, Outcome, Phase, Rollout
from baton.evidence import synthetic
from baton.plan.converge import converge_alias, load
from baton.plan.effects import Advance, Decision, SetAlias, SetPolicy, halt
from baton.plan.health import awaiting_probe
from baton.plan.traffic import progress_traffic, shadowed
from baton.plan.view import RolloutSettings, View, failure_text
from baton.reasons import Reason, because


def shadowing(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """Live requests are mirrored to the candidate, and its answers compared."""
    if (under_way := progress_traffic(view, rollout, settings)) is not None:
        return under_way
    version = rollout.candidate
    why = because(Reason.SHADOW_GOOD, version=version, golden=synthetic(rollout.gates.get(Gate.LIVE)))
    if rollout.full or not shadowed(settings):
        why = because(Reason.SHADOW_SKIPPED if rollout.full else Reason.SHADOW_OFF, version=version)
    return Decision(Phase.SHADOWING, why, Advance(Phase.SHIFTING, why))


def shifting(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision:
    """The candidate goes through its traffic steps; then its alias moves, on one server after the other."""
    version, phase = rollout.candidate, Phase.SHIFTING
    if view.alias != version:
        return progress_traffic(view, rollout, settings) or _cut_over(view, rollout)
    for server in view.live():
        if (refusal := view.load_refusal(server, Model.ALIAS)) is not None:
            why = because(Reason.ALIAS_NOT_MOVED, server=server.name, error=failure_text(refusal))
            return halt(rollout, Outcome.ROLLED_BACK, "engine", why)
    if (moving := load(view, phase, version) or converge_alias(view, phase)) is not None:
        return moving
    if view.unreachable():
        return Decision(phase, because(Reason.SERVES_WHERE_ANSWERED, version=version, servers=view.unreachable()))
    why = because(Reason.SERVES, version=version)
    return Decision(phase, why, Advance(Phase.BAKING, why))


def _cut_over(view: View, rollout: Rollout) -> Decision:
    """Give all traffic to the candidate, which has done all its steps."""
    version, phase = rollout.candidate, Phase.SHIFTING
    if not view.ready_everywhere(version):
        once = because(Reason.MOVES_ONCE_ALL_ANSWER, servers=view.unreachable())
        return load(view, phase, version) or Decision(phase, once)
    if version not in view.version_policy:
        # While the stable version was loaded again the policy named that one alone.
        both = view.version_policy | {version}
        return Decision(phase, because(Reason.NAMING, version=version), SetPolicy(both))
    if servers := awaiting_probe(view, rollout):
        return Decision(phase, because(Reason.ASKED_ONCE_MORE, version=version, waiting=servers))
    return Decision(phase, because(Reason.POINTING, version=version), SetAlias(version))
