"""The decision: a pure function of what is wanted, what is seen, the operator's policy and the time.

``plan(view, policy)`` returns one sentence for a person, the phase to show, and at most one effect. It reads no
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
    Advance,
    Ask,
    Begin,
    Decision,
    Effect,
    End,
    Halt,
    Judge,
    ProbeVersion,
    Progress,
    Record,
    Reload,
    Renew,
    SendGolden,
    SetAlias,
    SetPolicy,
    SetSplitter,
    Steer,
    Sync,
    TakeOver,
    VerifyContent,
)
from baton.plan.no_rollout import without_rollout
from baton.plan.rollout import rolling
from baton.plan.traffic import route
from baton.plan.view import Failure, RolloutSettings, ServerView, Unhealthy, View

__all__ = [
    "Advance",
    "Ask",
    "Begin",
    "Decision",
    "Effect",
    "End",
    "Failure",
    "Halt",
    "Judge",
    "ProbeVersion",
    "Progress",
    "Record",
    "Reload",
    "Renew",
    "RolloutSettings",
    "SendGolden",
    "ServerView",
    "SetAlias",
    "SetPolicy",
    "SetSplitter",
    "Steer",
    "Sync",
    "TakeOver",
    "Unhealthy",
    "VerifyContent",
    "View",
    "plan",
    "route",
]


def plan(view: View, settings: RolloutSettings) -> Decision:
    """Decide what to do next for one service."""
    if (named := name_what_serves(view)) is not None:
        return named
    return without_rollout(view, settings) if view.rollout is None else rolling(view, view.rollout, settings)
