"""How long a phase waits. No rollout waits for ever, and none waits without a reason that ``ctl status`` shows.

Three things are waited for without a limit: a person, live traffic, and a server that is away (what it holds is not
known, and it may come back with it at any moment). Everything else is a server that answers and does not do what it is
asked for. It has ``load_timeout``, and ``drain_timeout`` where requests are to end first. Then the phase ends: before
all traffic has moved the rollout is turned back, afterwards it ends. What is left to do is done without a rollout, and
only the next load waits for it.
"""

from __future__ import annotations

from baton.domain import Kind, Outcome, Phase, Rollout
from baton.plan.effects import Advance, Ask, Decision, End, SetPolicy, Sync, halt
from baton.plan.retire import end_of, ends_with
from baton.plan.traffic import abort_outcome
from baton.plan.view import RolloutSettings, View, failure_text
from baton.reasons import Reason, Why, because


def enforce_limits(view: View, rollout: Rollout, settings: RolloutSettings, decision: Decision) -> Decision:
    """``decision``, or the end of the phase where that has waited too long for a server that answers."""
    phase, previous = rollout.phase, rollout.previous
    if phase is Phase.RETIRING:
        late = phase_timed_out(view, rollout, settings) and not isinstance(decision.effect, SetPolicy | End)
        if late and not view.unreachable():
            end = end_of(rollout)
            return Decision(phase, decision.why, End(end.outcome, ends_with(end.why, decision)))
        return decision
    if (why := retries_exhausted(view, decision, settings)) is None:
        return decision
    if view.alias != rollout.candidate or rollout.kind is Kind.CHECK:
        why = because(why.reason, **why.figures, retry=rollout.candidate)
        return halt(rollout, abort_outcome(rollout), "engine", why)
    if phase in (Phase.SHIFTING, Phase.BAKING) and not all(view.alias_matches(s) for s in view.live()):
        back = previous is None or (rollout.kind is Kind.ROLLOUT and view.ready_everywhere(previous))
        return halt(rollout, Outcome.ROLLED_BACK, "engine", why) if back else decision
    kept = view.now - rollout.phase_since >= settings.keep_previous and not view.frozen()
    return Decision(phase, why, Advance(Phase.RETIRING, why)) if phase is Phase.BAKING and kept else decision


def retries_exhausted(view: View, decision: Decision, settings: RolloutSettings) -> Why | None:
    """Why the call that is waited for is given up: it failed for longer than ``load_timeout``. None until then.

    The time counts from the first of its failures in a row.
    """
    effect = decision.effect if isinstance(decision.effect, Sync | Ask) else decision.waits
    failure = None if effect is None else view.failed.get(effect)
    if failure is None or view.now - failure.since <= settings.load_timeout:
        return None
    times = {"for_s": view.now - failure.since, "limit_s": settings.load_timeout}
    return because(Reason.STUCK, doing=decision.why, error=failure_text(failure), **times)


def phase_timed_out(view: View, rollout: Rollout, settings: RolloutSettings) -> bool:
    """Whether a phase that waits only for calls and last requests has lasted longer than both may."""
    return view.now - rollout.phase_since > settings.load_timeout + settings.drain_timeout
