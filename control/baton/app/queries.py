"""The verbs that only read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from baton import __version__, on_disk, report, verbs
from baton.controller.service import Service
from baton.domain import Kind
from baton.errors import BatonError, Refused
from baton.facts import ControlHealth, RolloutFacts, RolloutStory, ServiceStatus, Status, Ticket, VersionOnDisk
from baton.reasons import Reason, because

if TYPE_CHECKING:
    from baton.app import App

STALE_AFTER_S = 30.0


def status(app: App, asked: verbs.Status) -> Status:
    """Of one service or of all."""
    services = _wanted(app, asked.service)
    with app.loop.lock:
        return Status(
            version=__version__,
            paused=app.loop.paused(),
            repository=str(app.config.repository.absolute()),
            servers=tuple(report.server(s, app.loop, services) for s in app.config.servers),
            services=tuple(_service(app, s) for s in services),
        )


def versions(app: App, asked: verbs.Versions) -> tuple[VersionOnDisk, ...]:
    """Also what lies beside the versions by mistake."""
    with app.loop.lock:
        return tuple(row for s in _wanted(app, asked.service) for row in on_disk.versions(s))


def history(app: App, asked: verbs.History) -> tuple[RolloutFacts, ...]:
    """Newest first."""
    name = None if asked.service is None else app.service(asked.service).name
    found = app.journal.rollouts.newest(service=name, limit=asked.limit)
    removed = report.removals(app.services)
    return tuple(report.rollout(one, app.services, removed) for one in found)


def rollout(app: App, asked: verbs.Rollout) -> RolloutStory:
    """Raises ``Refused`` when there is none of that number."""
    found = app.journal.rollouts.get(asked.id)
    if found is None:
        raise Refused(because(Reason.NO_ROLLOUT, number=asked.id))
    return report.story(found, app.services, app.journal.events.newest(rollout=asked.id))


def health(app: App, _asked: verbs.Health) -> ControlHealth:
    """The journal can be read, the loop turns, and a Triton answers."""
    runs, loop = report.runs(app.config, app.source), app.loop
    try:
        app.journal.check()
    except BatonError as error:
        return ControlHealth(live=False, ready=False, message=str(error), runs=runs)
    age = loop.clock() - loop.loop_at
    live = loop.loop_at == 0.0 or age < STALE_AFTER_S
    silent = [i for i in loop.indexes.values() if isinstance(i, str)]
    answering = len(silent) < len(loop.indexes)
    message = "ok" if live else f"The control loop has not run for {age:.0f} s."
    if live and not answering:
        message = " ".join(silent) or "Starting."
    return ControlHealth(live=live, ready=live and answering, message=message, runs=runs)


def expect(app: App, asked: verbs.Expect) -> Ticket:
    """Looks again after each round of the loop."""
    service = app.service(asked.service)
    deadline = time.monotonic() + asked.timeout_s
    while True:
        for one in app.journal.rollouts.newest(service=service.name):
            if one.candidate == asked.version and one.kind is Kind.ROLLOUT:
                return Ticket(one.service, one.id, "live", f"The rollout of version {asked.version} has begun.")
        left = deadline - time.monotonic()
        if left <= 0:
            decision = service.decision
            return Ticket(service.name, None, "live", decision.message, decision.why.reason)
        app.loop.next_round(left)


def _wanted(app: App, name: str | None) -> list[Service]:
    return [app.service(name)] if name is not None else list(app.services.values())


def _service(app: App, one: Service) -> ServiceStatus:
    last = next(iter(app.journal.rollouts.newest(service=one.name, limit=1)), None)
    return report.service(one, last, app.loop.loop_at, app.memory(one.name), app.engines(one.name))
