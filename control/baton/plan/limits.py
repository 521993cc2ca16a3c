"""How long a phase waits, and what it says meanwhile. No rollout stands for ever, and none stands without a sentence.

Three things may be waited for without a limit, and each is told with what to do: a person, live traffic, and a server
that is away (what it holds is unknown, and it may come back with it at any moment). Everything else is a server that
answers and does not do what it is asked for. That has the time of a load (``load_timeout``), and ``drain_timeout``
where requests are to end first. Then the phase ends: before all traffic has moved by turning back, afterwards by
ending the rollout; what is left to do is done at rest, where it holds up nothing but the next load.
"""

from __future__ import annotations

from baton.domain import Rollout
from baton.plan.effects import Ask, Decision, Sync
from baton.plan.view import RolloutSettings, View, failure_text
from baton.reasons import Reason, Why, because


def stuck(view: View, decision: Decision, settings: RolloutSettings) -> Why | None:
    """Why the call that is waited for will not end well any more; None where it still may.

    Times count from the first of its failures in a row.
    """
    effect = decision.effect if isinstance(decision.effect, Sync | Ask) else decision.waits
    failure = None if effect is None else view.failed.get(effect)
    if failure is None or view.now - failure.since <= settings.load_timeout:
        return None
    return because(
        Reason.STUCK,
        doing=decision.why,
        for_s=view.now - failure.since,
        limit_s=settings.load_timeout,
        error=failure_text(failure),
    )


def overdue(view: View, rollout: Rollout, settings: RolloutSettings) -> bool:
    """Whether a phase in which only calls and last requests are waited for has lasted longer than both may."""
    return view.now - rollout.phase_since > settings.load_timeout + settings.drain_timeout
