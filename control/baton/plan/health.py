"""A version that Triton calls READY does not answer: go back where the previous version is loaded, else load it again.

Triton 24.10 goes on calling a version READY when its process died or hangs. Nothing restarts the process, and a load
call does not touch it. To bring the version back, the engine is unloaded on that server and loaded again. New requests
to that server fail meanwhile, as they did before.
"""

from __future__ import annotations

from baton.domain import Gate, Kind, Outcome, Phase, Rollout, Verdict
from baton.plan.effects import Decision, Reload, SetPolicy, Sync, TakeOver, halt
from baton.plan.traffic import abort_outcome, bad_outcome, position_of, replaces_stable, stepwise
from baton.plan.view import RolloutSettings, ServerView, View, backoff, failure_text
from baton.reasons import Figure, Reason, Why, because

EMPTIED_S = 10.0
"""A version whose processes have ended is gone after a moment, or never."""
FIRST_BACKOFF_S, BACKOFF_FACTOR, LONGEST_BACKOFF_S = 5.0, 4.0, 600.0
"""After a reload that did not help. Its process is seldom at fault then, and a version that answers others than Baton
must not be taken from them again and again."""


def reload_unhealthy(view: View, phase: Phase, *, once: bool = False) -> Decision | None:
    """Load the alias's version again where it does not answer, one server at a time. None when it answers everywhere.

    The policy on disk names that version alone first: Triton loads all that it names or nothing (seen on 24.10), and a
    candidate must not keep the version out that clients need. Its rollout loads the candidate again afterwards.

    ``once``: a server where the reload failed is left alone until the rollout ends: the candidate may be the cure.
    """
    version, waits = view.alias, None
    if version is None:
        return None
    for server in view.live():
        effect = Reload(server.name)
        failure = view.failed.get(effect)
        if not _is_unhealthy(view, server, version) or (once and failure is not None and effect not in view.running):
            continue
        known = _figures(view, server, version)
        if effect in view.running:
            return Decision(phase, because(Reason.RELOADING, **known))
        if reloading(view) or _load_under_way(view, server) or any(s.serving() - {version} for s in view.live()):
            waits = waits or Decision(phase, because(Reason.RELOAD_WAITS, **known))
        elif (blocked := view.loads_blocked()) is not None:
            waits = waits or Decision(phase, because(Reason.RELOAD_HELD, **known, hold=blocked))
        elif view.version_policy != {version}:
            return Decision(phase, because(Reason.RELOADING_ALONE, **known), SetPolicy(frozenset({version})))
        elif failure and backoff(failure, view.now, FIRST_BACKOFF_S, BACKOFF_FACTOR, LONGEST_BACKOFF_S):
            waits = waits or Decision(phase, because(Reason.RELOAD_FAILED, **known, failed=failure_text(failure)))
        else:
            return Decision(phase, because(Reason.RELOADING, **known), effect)
    return waits


def stuck_unloading(view: View, settings: RolloutSettings) -> list[Why]:
    """Versions that Triton does not let go of: their memory stays in use."""
    found = []
    for server in view.live():
        for version, since in sorted(server.leaving_since.items()):
            emptied, for_s = version in server.emptied, view.now - since
            limit = min(EMPTIED_S, settings.drain_timeout) if emptied else settings.drain_timeout
            if server.unloading(version) and for_s > limit:
                stays = {"for_s": for_s, "limit_s": limit, "emptied": emptied}
                found.append(because(Reason.STUCK_UNLOADING, version=version, server=server.name, **stays))
    return found


def handle_unhealthy(view: View, rollout: Rollout, settings: RolloutSettings) -> Decision | None:
    """What an unhealthy version means to a rollout that has not been stopped. None where nothing follows from it."""
    if (halted := _unhealthy_candidate(view, rollout)) is not None:
        return halted
    version = view.alias
    unhealthy = [] if version is None else [s for s in view.live() if _is_unhealthy(view, s, version)]
    if not unhealthy or version is None:
        return None
    known = _figures(view, unhealthy[0], version)
    if version == rollout.candidate:
        if rollout.phase in (Phase.SHIFTING, Phase.BAKING) and _can_go_back(view, rollout):
            why = because(Reason.BACK_FROM_SILENT, **known, previous=rollout.previous)
            return halt(rollout, Outcome.ROLLED_BACK, "health", why)
        return reload_unhealthy(view, rollout.phase, once=True)
    if view.split and _can_take_over(view, rollout, settings):
        if rollout.full:
            return None
        why = because(Reason.TAKES_OVER, **known, candidate=rollout.candidate)
        return Decision(rollout.phase, why, TakeOver(why))
    if view.split:
        # Loading the stable version again takes the candidate out as well: there is nothing left to split.
        why = because(Reason.STABLE_SILENT, **known, candidate=rollout.candidate)
        return halt(rollout, abort_outcome(rollout), "health", why)
    at_once = rollout.phase is Phase.SHIFTING and not stepwise(rollout, settings)
    if at_once or rollout.kind is Kind.ROLLBACK:
        return None  # another version is about to serve: that is the quickest cure
    return reload_unhealthy(view, rollout.phase, once=True)


def _unhealthy_candidate(view: View, rollout: Rollout) -> Decision | None:
    """A candidate that was probed and does not answer goes back, however good the live analysis found it before."""
    version = rollout.candidate
    unhealthy = [s for s in view.live() if _is_unhealthy(view, s, version)]
    if view.alias == version or not replaces_stable(rollout) or not unhealthy:
        return None
    why = because(Reason.NO_ANSWER, **_figures(view, unhealthy[0], version))
    return halt(rollout, bad_outcome(rollout), "health", why)


def awaiting_probe(view: View, rollout: Rollout) -> tuple[str, ...]:
    """Servers whose candidate has not answered a probe that was sent after its last traffic step.

    Gates and live analysis look at the past. A process that died since (during a pause step, for example) would get all
    traffic. A way back waits for no probe.
    """
    answered = view.answered
    if answered is None or not replaces_stable(rollout):
        return ()
    since = rollout.phase_since if rollout.progressed_at is None else max(rollout.phase_since, rollout.progressed_at)
    return tuple(s.name for s in view.live() if answered.get((s.name, rollout.candidate), 0.0) < since)


def reloading(view: View) -> bool:
    """Whether an engine is being loaded again on some server."""
    return any(isinstance(e, Reload) for e in view.running)


def _can_take_over(view: View, rollout: Rollout, settings: RolloutSettings) -> bool:
    """Whether clients have met the candidate, and nothing speaks against it. Then no request needs to fail."""
    version, live = rollout.candidate, view.live_gate or rollout.gates.get(Gate.LIVE)
    met = rollout.phase in (Phase.SHIFTING, Phase.WAITING) and rollout.progressed_at is not None
    if not met or position_of(rollout, settings).weight <= 0 or not view.ready_everywhere(version):
        return False
    return (live is None or live.verdict is not Verdict.FAIL) and not _known_unhealthy(view, version)


def _can_go_back(view: View, rollout: Rollout) -> bool:
    previous = rollout.previous
    if previous is None or rollout.kind is not Kind.ROLLOUT:
        return False
    return view.ready_everywhere(previous) and not _known_unhealthy(view, previous)


def _known_unhealthy(view: View, version: int) -> bool:
    return any((s.name, version) in view.unhealthy for s in view.live())


def _is_unhealthy(view: View, server: ServerView, version: int) -> bool:
    known = (server.name, version) in view.unhealthy
    return known and (version in server.ready() or Reload(server.name) in view.running)


def _load_under_way(view: View, server: ServerView) -> bool:
    """Also one that a control plane before this one began."""
    return any(isinstance(e, Sync) and e.server == server.name for e in view.running) or server.loading()


def _figures(view: View, server: ServerView, version: int) -> dict[str, Figure]:
    return {"version": version, "server": server.name, "error": view.unhealthy[server.name, version].reason}
