"""The health probe: whether what serves answers. Each serving version is asked a small real request, again and again.

Triton 24.10 goes on calling a version READY when its process has died or hangs. The request is the smallest of the
golden set, which the version answered when it was a candidate. Without a golden set there is no request. Processes that
can be seen, on this machine, are looked at as well: one that has ended is found before any request could fail.

A version that Triton gave up (``GivenUp``) is unhealthy at once, and is not asked again before it was loaded anew. One
that answers late, but answers somebody meanwhile or shows signs of life, is busy and not unhealthy. All of it runs in
the background and decides nothing: the plan reads the result.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from baton.config import ServiceConfig
from baton.controller.ports import Ports, Question
from baton.controller.tasks import Tasks
from baton.domain import MEETING, ModelState, Phase
from baton.errors import BatonError, GivenUp, InvalidRequest, TimedOut, TritonError, Unreachable
from baton.facts import VersionHealth, iso
from baton.plan import ProbeVersion, Reload, Unhealthy, View
from baton.reasons import Figure, Reason, Why, because
from baton.triton.port import Counts, Triton

LogEvent = Callable[[Why, Mapping[str, Any]], None]
"""Writes an event into the journal, with its data."""

AGAIN_S = 1.0
"""After a failure the version is asked again this soon."""
BLIND = 3
"""Without the server's counts a late version needs this many times as many failures: it may be busy."""
SLOW = 1
"""With them it needs this many more: a version that takes long for one request answers no other meanwhile."""

WITH_A_WAY_BACK = MEETING | {Phase.BAKING, Phase.ROLLING_BACK}

log = logging.getLogger(__name__)


class ProcessEnded(TritonError):
    """A process that runs a version has ended, though Triton did not unload the version."""


@dataclass(slots=True)
class _Record:
    """What is known of one version on one server."""

    asked_at: float
    failures: int = 0
    late: bool = False
    """At least one of the failures in a row was a timeout."""
    since: float = 0.0
    answered: int | None = None
    """The server's count of its answers at the first of the failures."""
    beats: float | None = None
    """Its count of signs of life at the first of the failures."""
    reason: str = ""
    unhealthy: bool = False
    good_at: float = 0.0
    """When the last request that was answered was sent."""
    bad_at: float = 0.0
    """When the last request that failed was sent."""


@dataclass(slots=True)
class Health:
    """Of one service. All methods may be called from any thread."""

    config: ServiceConfig
    ports: Ports
    question: Question | None
    tasks: Tasks
    log_event: LogEvent
    _failed: dict[tuple[str, int], int] = field(default_factory=dict, init=False)
    """Failed requests of each version, by the server's last counts."""
    _suspect: set[tuple[str, int]] = field(default_factory=set, init=False)
    """Versions of which more requests have failed since the last probe."""
    _records: dict[tuple[str, int], _Record] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def note(self, counts: Mapping[str, Mapping[str, Mapping[int, Counts]]]) -> None:
        """Take the counts of each server. A version that failed a client's request is probed at once."""
        found = {
            (server, version): one.failed
            for server, models in counts.items()
            for version, one in models.get(self.config.engine, {}).items()
        }
        with self._lock:
            self._suspect |= {key for key, failed in found.items() if failed > self._failed.get(key, failed)}
            self._failed = found

    def watch(self, view: View) -> None:
        """Probe what is due on each server: what serves, a candidate with live traffic, the version to go back to."""
        rollout, beside = view.rollout, set[int | None]()
        if rollout is not None and rollout.phase in WITH_A_WAY_BACK:
            beside = {rollout.previous, rollout.candidate if rollout.phase in MEETING else None}
        asked = set()
        for server in view.live():
            if Reload(server.name) not in view.running:
                asked |= {(server.name, version) for version in server.ready() & (server.serving() | beside)}
        kept = {s.name for s in view.servers if Reload(s.name) in view.running}
        with self._lock:
            self._records = {k: known for k, known in self._records.items() if k in asked or k[0] in kept}
            due = [key for key in asked if self._due(key, view)]
            self._suspect &= asked - set(due)
        for name, version in due:

            def ask(_task: object, name: str = name, version: int = version) -> None:
                self._ask(name, version)

            self.tasks.start(ProbeVersion(name, version), ask)

    def _due(self, key: tuple[str, int], view: View) -> bool:
        known, every = self._records.get(key), self.config.health.every
        if (known is None or not known.unhealthy) and self.ports.engines.lost(*key):
            return True
        if self.question is None and (known is None or not known.failures):
            return False  # there is no request to send, and its processes run
        if known is None:
            return True
        # A candidate that is about to get all traffic is probed at short intervals: it waits for the answer.
        moving = view.rollout is not None and view.rollout.phase is Phase.SHIFTING and key[1] == view.rollout.candidate
        soon = known.failures or moving or key in self._suspect
        return view.now - known.asked_at >= (min(AGAIN_S, every) if soon else every)

    def answered(self) -> dict[tuple[str, int], float] | None:
        """By server and version: when the last request that was answered was sent. None where there is no request."""
        if self.question is None:
            return None
        with self._lock:
            return {key: known.good_at for key, known in self._records.items() if known.good_at}

    def unhealthy(self) -> dict[tuple[str, int], Unhealthy]:
        """By server and version: those that do not answer."""
        with self._lock:
            return {
                key: Unhealthy(known.since, known.reason) for key, known in self._records.items() if known.unhealthy
            }

    def status(self, version: int) -> tuple[VersionHealth, ...]:
        """The health of a version on each server, as ``ctl status`` shows it."""
        with self._lock:
            found = [(name, known) for (name, number), known in sorted(self._records.items()) if number == version]
            return tuple(
                VersionHealth(name, not known.unhealthy, iso(known.since) if known.unhealthy else None, known.reason)
                for name, known in found
            )

    def reload(self, server: str, version: int, load: Callable[[], None]) -> None:
        """Unload the engine from a server and load it again. ``load`` has it loaded as the files say.

        A version that was not probed just now is probed once more: if it answers again, after a restart of that Triton
        for example, nothing is done. Its processes are ended first where that is possible: requests that wait for a
        process that hangs would wait for ever, and its memory would stay in use.

        Raises:
            TritonError: it does not load, or does not answer after that either.
            TimedOut: Triton has not finished, or the version does not answer in time.
            Unreachable: the server went away.
        """
        triton, key, put_at = self.ports.servers[server], (server, version), self.ports.clock()
        if not self._just_found(key, put_at):
            try:
                self._put(server, version)
            except (TimedOut, TritonError) as error:
                if not self._bad(key, put_at, error):
                    return
            else:
                self._good(key, put_at)
                return
        begun = self.ports.clock()
        ended = self.ports.engines.end(server, version)
        triton.unload(self.config.engine, self.config.gates.request_timeout)
        load()
        self._want_answer(triton, version, self.config.gates.request_timeout)
        took_s = round(self.ports.clock() - begun, 3)
        figures: dict[str, Figure] = {"server": server, "version": version, "took_s": took_s}
        why = because(Reason.LOADED_AGAIN, **figures, answers=self.question is not None)
        self.log_event(why, {**figures, "processes_ended": ended})
        self._forget(key)

    def _just_found(self, key: tuple[str, int], now: float) -> bool:
        """Whether it was found unhealthy just now. A request during which this process was stopped does not count."""
        with self._lock:
            known = self._records.get(key)
        if known is None or not known.unhealthy:
            return False
        return now - known.asked_at <= AGAIN_S and now - known.bad_at <= AGAIN_S + self.config.health.timeout

    def _ask(self, server: str, version: int) -> None:
        key, put_at = (server, version), self.ports.clock()
        try:
            self._put(server, version)
        except Unreachable:
            self._forget(key)
        except (TimedOut, TritonError) as error:
            self._bad(key, put_at, error)
        else:
            self._good(key, put_at)

    def _put(self, server: str, version: int) -> None:
        """Send the request, unless a process has ended. Raises as ``Triton.infer``, and ``ProcessEnded``."""
        triton = self.ports.servers[server]
        if self.ports.engines.lost(server, version):
            # Triton may have loaded the version anew: then as many run as there should.
            wanted = triton.instances(self.config.engine, version)
            missing = wanted - self.ports.engines.running(server, version)
            if missing > 0:
                why = self.ports.engines.why(server, version)
                raise ProcessEnded(why if wanted == 1 else f"{missing} of its {wanted} processes ended")
        self._want_answer(triton, version, self.config.health.timeout)
        self.ports.engines.watch(server, version)

    def _good(self, key: tuple[str, int], put_at: float) -> None:
        with self._lock:
            before = self._records.get(key)
            self._records[key] = _Record(self.ports.clock(), good_at=put_at)
        if before is not None and before.unhealthy:
            self._log_recovered(key)

    def _log_recovered(self, key: tuple[str, int]) -> None:
        server, version = key
        figures: dict[str, Figure] = {"server": server, "version": version}
        self.log_event(because(Reason.ANSWERS_AGAIN, **figures), figures)

    def _bad(self, key: tuple[str, int], put_at: float, error: BatonError) -> bool:
        """Count a failure, if Triton still calls the version READY. True when it is unhealthy now."""
        # Taken first: this process may be stopped, and the server restarted, before the next call returns.
        (server, version), now = key, self.ports.clock()
        try:
            state = self.ports.servers[server].index().get(self.config.engine, {}).get(version)
        except Unreachable:
            state = None
        if state is None or state.state is not ModelState.READY:
            self._forget(key)  # it is being loaded or unloaded
            return False
        counts = self._counts(server)
        answered = counts[version].answered if counts and version in counts else None
        beats = self._beats(server, version) if isinstance(error, TimedOut) else None
        limit = self.config.health.failures
        with self._lock:
            known = self._records.get(key)
            was = known is not None and known.unhealthy
            late = isinstance(error, TimedOut)
            # A late version that answered somebody meanwhile, or shows signs of life, is only slow: counted anew.
            works = known is not None and (answered != known.answered or _grew(known.beats, beats))
            slow = works and known is not None and (known.late or late)
            if known is None or not known.failures or slow:
                known = self._records[key] = _Record(now, since=now, answered=answered, beats=beats)
            known.asked_at, known.bad_at, known.reason = now, put_at, str(error)
            known.failures += 1
            known.late |= late
            if isinstance(error, ProcessEnded | GivenUp):
                limit = 1  # one such failure is proof
            elif known.late:
                limit = BLIND * limit if answered is None else limit + SLOW
            known.unhealthy = known.failures >= limit
            is_unhealthy = known.unhealthy
        if is_unhealthy and not was:
            why = because(Reason.FOUND_SILENT, version=version, server=server, error=str(error))
            log.warning("%s: %s", self.config.name, why)
            self.log_event(why, {"server": server, "version": version})
        elif was and not is_unhealthy:
            self._log_recovered(key)
        return is_unhealthy

    def _counts(self, server: str) -> Mapping[int, Counts] | None:
        try:
            return self.ports.servers[server].counts().get(self.config.engine, {})
        except BatonError as error:
            log.warning("%s", error)
            return None

    def _beats(self, server: str, version: int) -> float | None:
        try:
            return (self.ports.servers[server].heartbeats() or {}).get(self.config.engine, {}).get(version)
        except BatonError as error:
            log.warning("%s", error)
            return None

    def _forget(self, key: tuple[str, int]) -> None:
        with self._lock:
            self._records[key] = _Record(self.ports.clock())

    def _want_answer(self, server: Triton, version: int, timeout_s: float) -> None:
        if self.question is None:
            return
        try:
            self.question(server, version, timeout_s)
        except InvalidRequest as error:
            # The golden set does not fit this version, but its process answers.
            log.debug("version %d refuses the golden request: %s", version, error)


def _grew(before: float | None, beats: float | None) -> bool:
    return before is not None and beats is not None and beats != before
