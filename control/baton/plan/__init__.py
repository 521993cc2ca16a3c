"""The decision: a pure function of what is seen of one service, its settings and the time.

``plan(view, settings)`` returns the phase to show, the reason, and at most one effect. It reads no clock, no file and
no socket, and holds no state: with the same view it always decides the same. It is asked again after each effect, and
asks for none when there is nothing left to do.

What must hold after every step, whatever fails (property-tested in ``tests/unit/plan``):

* The alias is only ever pointed at a version that is READY on every server that answers.
* A version is dropped only after the alias left it on every server and its requests ended.
* The policy on disk names the alias's version, whatever a person wrote there: a restart of Triton brings it back.
* The splitter is unloaded only after the alias left it, and a stopped candidate's share is 0 from then on.
* Baton loads at most two engine versions.
* An engine is taken out of a server for a reload only where the alias's version does not answer, one server at a time.
* An abort wins from every phase, and nothing overtakes it.
* A version's folder is removed only without a rollout, and never one that serves, is loaded or is waited for.
"""

from baton.plan.converge import repair_version_policy
from baton.plan.effects import (
    AdoptVersion as AdoptVersion,
    Advance as Advance,
    Ask as Ask,
    AskAgain as AskAgain,
    Begin as Begin,
    Decision as Decision,
    DeleteRemoved as DeleteRemoved,
    Effect as Effect,
    End as End,
    EndPruning as EndPruning,
    Halt as Halt,
    Judge as Judge,
    ProbeVersion as ProbeVersion,
    Progress as Progress,
    Prune as Prune,
    Record as Record,
    RecordConfig as RecordConfig,
    RecordLoaded as RecordLoaded,
    Reload as Reload,
    Renew as Renew,
    RepairConfig as RepairConfig,
    SendGolden as SendGolden,
    SetAlias as SetAlias,
    SetBackClock as SetBackClock,
    SetPolicy as SetPolicy,
    SetSplitter as SetSplitter,
    Steer as Steer,
    Sync as Sync,
    TakeOver as TakeOver,
    Upkeep as Upkeep,
    VerifyContent as VerifyContent,
)
from baton.plan.no_rollout import without_rollout
from baton.plan.phases import rolling
from baton.plan.traffic import route as route
from baton.plan.upkeep import upkeep
from baton.plan.view import (
    BrokenConfig as BrokenConfig,
    Failure as Failure,
    RolloutSettings as RolloutSettings,
    ServerView as ServerView,
    Unhealthy as Unhealthy,
    View as View,
)


def plan(view: View, settings: RolloutSettings) -> Decision:
    """Decide what to do next for one service."""
    if (first := upkeep(view) or repair_version_policy(view)) is not None:
        return first
    return without_rollout(view, settings) if view.rollout is None else rolling(view, view.rollout, settings)
