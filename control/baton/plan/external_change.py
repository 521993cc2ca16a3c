"""A journal that is older than what serves: the files are the truth, and no record of an earlier time changes them."""

from __future__ import annotations

from baton.domain import Kind, Outcome, Phase, Rollout, Stop
from baton.plan.traffic import before_traffic
from baton.plan.view import View
from baton.reasons import Reason, because


def external_change(view: View, rollout: Rollout) -> Stop | None:
    """The alias's files lead where this rollout never brought them: then it ends, and they stand.

    So it is when the journal is older than the files (it was put back from a backup, or a disk was), and when a person
    edited them. Clients are where the files lead; no record of an older time may take them from there.
    """
    alias, version, previous = view.alias, rollout.candidate, rollout.previous
    if alias is None:
        return None
    moved = rollout.phase in (Phase.BAKING, Phase.RETIRING) and rollout.kind is not Kind.CHECK
    why = because(Reason.OVERTAKEN, alias=alias, version=version, moved=moved)
    if alias == version and rollout.kind is not Kind.CHECK:
        # Also in a pause step: only from SHIFTING does a rollout move the name.
        early = before_traffic(rollout) or rollout.phase is Phase.WAITING
        return Stop(Outcome.LIVE, "engine", why) if early else None
    # A first version may come in place of one that is lost, which the name still leads to; that one is lower.
    expected = not moved and (alias == previous or (previous is None and alias < version))
    if expected:
        return None
    if moved:
        return Stop(Outcome.LIVE if alias > version else Outcome.ROLLED_BACK, "engine", why)
    return Stop(Outcome.ABORTED, "engine", why)
