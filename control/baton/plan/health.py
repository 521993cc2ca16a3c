"""A version that Triton calls READY does not answer: go back where that is one flip, else load it again.

Triton 24.10 goes on calling a version READY when its process died or hangs, nothing restarts it, and a load call does
not touch it. What brings it back is to unload the engine on that server and to load it again: new requests there fail
meanwhile, as they did before.
"""

from __future__ import annotations

from baton.domain import Gate, Kind, Outcome, Phase, Rollout, Stop, Verdict
from baton.plan.effects import Decision, Halt, Reload, SetPolicy, Sync, TakeOver
from baton.plan.traffic import before_traffic, position_of, refusal, replaces, stepwise
from baton.plan.view import Failure, RolloutSettings, ServerView, View, failure_text
from baton.reasons import Figure, Reason, Why, because

EMPTIED_S = 10.0
"""A version whose processes have ended leaves a moment later, or never."""
FIRST_REST_S, LONGEST_REST_S = 5.0, 600.0
"""After a reload that did not help; each further one rests four times as long. Then it is seldom the process that is
wrong, and a version that answers others than Baton must not be taken from them again and again."""


def mend(view: View, phase: Phase, *, once: bool = False) -> Decision | None:
    """Load the serving version again where it does not answer, one server at a time. None when it answers everywhere.

    The policy on disk names what serves alone first: Triton loads all of what it names or nothing (seen on 24.10), and
    a candidate must not keep the version that clients need out. Its rollout loads it again afterwards. ``once``: in a
    rollout a server where that failed is left alone until the end, for the candidate may be what mends things.
    """
    version, last = view.alias, None
    if version is None:
        return None
    for server in view.live():
        effect = Reload(server.name)
        failure = view.failed.get(effect)
        if not _ill(view, server, version) or (once and failure is not None and effect not in view.running):
            continue
        ill = _ill_on(view, server, version)
        if effect in view.running:
            return Decision(phase, because(Reason.RELOADING, **ill))
        if reloading(view) or _touched(view, server) or any(s.serving() - {version} for s in view.live()):
            last = last or Decision(phase, because(Reason.RELOAD_WAITS, **ill))
        elif (hold := view.hold_reason()) is not None:
            last = last or Decision(phase, because(Reason.RELOAD_HELD, **ill, hold=hold))
        elif view.version_policy != {version}:
            return Decision(phase, because(Reason.RELOADING_ALONE, **ill), SetPolicy(frozenset({version})))
        elif failure is not None and _rests(failure, view.now):
            last = last or Decision(phase, because(Reason.RELOAD_FAILED, **ill, failed=failure_text(failure)))
        else:
            return Decision(phase, because(Reason.RELOADING, **ill), effect)
    return last


def leaks(view: View, settings: RolloutSettings) -> list[Why]:
    """Versions that Triton never lets go of."""
    found = []
    for server in view.live():
        for version, since in sorted(server.leaving_since.items()):
            emptied, for_s = version in server.emptied, view.now - since
            limit = min(EMPTIED_S, settings.drain_timeout) if emptied else settings.drain_timeout
            if server.leaving(version) and for_s > limit:
                stays = {"for_s": for_s, "limit_s": limit, "emptied": emptied}
                found.append(because(Reason.STUCK_UNLOADING, version=version, server=server.name, **stays))
    return found


def handle_unhealthy(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What a serving version that does not answer means to a rollout that has not been stopped."""
    if (silent := _silent_candidate(view, rollout)) is not None:
        return silent
    version = view.alias
    ill = [] if version is None else [s for s in view.live() if _ill(view, s, version)]
    if not ill or version is None:
        return None
    known = _ill_on(view, ill[0], version)
    if version == rollout.candidate:
        if rollout.phase in (Phase.SHIFTING, Phase.BAKING) and _can_go_back(view, rollout):
            why = because(Reason.BACK_FROM_SILENT, **known, previous=rollout.previous)
            return Decision(rollout.phase, why, Halt(Stop(Outcome.ROLLED_BACK, "health", why)))
        return mend(view, rollout.phase, once=True)
    if view.split and _can_take_over(view, rollout, settings):
        if rollout.full:
            return None
        why = because(Reason.TAKES_OVER, **known, candidate=rollout.candidate)
        return Decision(rollout.phase, why, TakeOver(why))
    if view.split:
        # Loading the stable version again takes the candidate out as well: there is nothing left to split.
        outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
        why = because(Reason.STABLE_SILENT, **known, candidate=rollout.candidate)
        return Decision(rollout.phase, why, Halt(Stop(outcome, "health", why)))
    at_once = rollout.phase is Phase.SHIFTING and not stepwise(rollout, settings)
    if at_once or rollout.kind is Kind.ROLLBACK:
        return None  # another version is about to serve: that is the quickest cure
    return mend(view, rollout.phase, once=True)


def _silent_candidate(view: View, rollout: Rollout) -> Decision | None:
    """A candidate that was asked and does not answer goes back, however good the live analysis found it before."""
    version = rollout.candidate
    if view.alias == version or not replaces(rollout):
        return None
    ill = [s for s in view.live() if _ill(view, s, version)]
    if not ill:
        return None
    why = because(Reason.NO_ANSWER, **_ill_on(view, ill[0], version))
    return Decision(rollout.phase, why, Halt(Stop(refusal(rollout), "health", why)))


def unproved(view: View, rollout: Rollout) -> tuple[str, ...]:
    """Servers whose candidate has not answered a question that was put after the last step of its way.

    Gates and analysis look at what was; a process that died since, while a person was waited for perhaps, would get all
    traffic. A way back waits for nothing.
    """
    asked = view.answered
    if asked is None or not replaces(rollout):
        return ()
    since = rollout.phase_since if rollout.progressed_at is None else max(rollout.phase_since, rollout.progressed_at)
    return tuple(s.name for s in view.live() if asked.get((s.name, rollout.candidate), 0.0) < since)


def reloading(view: View) -> bool:
    """Whether an engine is being loaded again on some server."""
    return any(isinstance(e, Reload) for e in view.running)


def _can_take_over(view: View, rollout: Rollout, settings: RolloutSettings) -> bool:
    """Clients have met the candidate, and nothing speaks against it. Then there is no need to fail any request."""
    version, live = rollout.candidate, view.live_gate or rollout.gates.get(Gate.LIVE)
    met = rollout.phase in (Phase.SHIFTING, Phase.WAITING) and rollout.progressed_at is not None
    if not met or position_of(rollout, settings).weight <= 0 or not view.ready_everywhere(version):
        return False
    if live is not None and live.verdict is Verdict.FAIL:
        return False
    return not any((s.name, version) in view.unhealthy for s in view.live())


def _can_go_back(view: View, rollout: Rollout) -> bool:
    previous = rollout.previous
    if previous is None or rollout.kind is not Kind.ROLLOUT or not view.ready_everywhere(previous):
        return False
    return not any((s.name, previous) in view.unhealthy for s in view.live())


def _ill(view: View, server: ServerView, version: int) -> bool:
    known = (server.name, version) in view.unhealthy
    return known and (version in server.ready() or Reload(server.name) in view.running)


def _touched(view: View, server: ServerView) -> bool:
    """Whether a load call is under way on the server, or was begun by a control plane before this one."""
    return any(isinstance(e, Sync) and e.server == server.name for e in view.running) or server.loading()


def _rests(failure: Failure, now: float) -> bool:
    return now - failure.at < min(LONGEST_REST_S, FIRST_REST_S * 4.0 ** (failure.count - 1))


def _ill_on(view: View, server: ServerView, version: int) -> dict[str, Figure]:
    """The figures of a version that does not answer."""
    return {"version": version, "server": server.name, "error": view.unhealthy[server.name, version].reason}
