"""The decision: a pure function of what is wanted, what is seen, the operator's policy and the time.

``plan(view, settings)`` returns one sentence for a person, the phase to show, and at most one effect. It reads no
clock, no file and no socket, and holds no state: with the same view it always says the same. Asked again after
each effect, it comes to rest when there is nothing left to do.

What must hold after every step, whatever fails (property-tested in ``tests/unit/plan``):

* The alias is only ever pointed at a version that is READY on every server that answers.
* A version is dropped only after the alias left it on every server and its requests ended.
* The policy on disk names what serves, whatever a person wrote there: a restart of Triton brings it back.
* The splitter is unloaded only after the alias left it, and a stopped candidate's share is 0 from then on.
* At most two engine versions are loaded by Baton.
* An engine is taken out of a server for a reload only where its serving version does not answer, one server at a time.
* An abort wins from every phase, and nothing overtakes it.
"""

from baton.plan.converge import name_what_serves
from baton.plan.effects import (
    AdoptVersion,
    Advance,
    Ask,
    AskAgain,
    Begin,
    Decision,
    Effect,
    End,
    Halt,
    Judge,
    ProbeVersion,
    Progress,
    Record,
    RecordConfig,
    RecordLoaded,
    Reload,
    Renew,
    RepairConfig,
    SendGolden,
    SetAlias,
    SetBackClock,
    SetPolicy,
    SetSplitter,
    Steer,
    Sync,
    TakeOver,
    Upkeep,
    VerifyContent,
)
from baton.plan.no_rollout import without_rollout
from baton.plan.rollout import rolling
from baton.plan.traffic import route
from baton.plan.upkeep import upkeep
from baton.plan.view import BrokenConfig, Failure, RolloutSettings, ServerView, Unhealthy, View

__all__ = [
    "AdoptVersion",
    "Advance",
    "Ask",
    "AskAgain",
    "Begin",
    "BrokenConfig",
    "Decision",
    "Effect",
    "End",
    "Failure",
    "Halt",
    "Judge",
    "ProbeVersion",
    "Progress",
    "Record",
    "RecordConfig",
    "RecordLoaded",
    "Reload",
    "Renew",
    "RepairConfig",
    "RolloutSettings",
    "SendGolden",
    "ServerView",
    "SetAlias",
    "SetBackClock",
    "SetPolicy",
    "SetSplitter",
    "Steer",
    "Sync",
    "TakeOver",
    "Unhealthy",
    "Upkeep",
    "VerifyContent",
    "View",
    "plan",
    "route",
]


def plan(view: View, settings: RolloutSettings) -> Decision:
    """Decide what to do next for one service."""
    if (first := upkeep(view) or name_what_serves(view)) is not None:
        return first
    return without_rollout(view, settings) if view.rollout is None else rolling(view, view.rollout, settings)
