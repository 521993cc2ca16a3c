"""Whether what serves answers: each serving version is asked a small real request, all the time, on every server.

Triton 24.10 goes on calling a version READY when its process died or hangs. What is asked is the smallest request of
the golden set, which the version answered when it was a candidate; without a golden set there is nothing to ask. Where
its processes can be seen, on this machine, one that has ended is an answer too, and the quickest. A version that Triton
gave up is sick at once and asked nothing more before it was loaded anew (``GivenUp``). One that is late and works on
something meanwhile, by its answers to anybody or by its own signs of life, is busy and no more. All of it runs in the
background and decides nothing: the plan reads the verdicts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from baton.config import ServiceConfig
from baton.controller.tasks import Tasks
from baton.domain import MEETING, ModelState, Phase
from baton.errors import BatonError, GivenUp, InvalidRequest, TimedOut, TritonError, Unreachable
from baton.facts import VersionHealth, iso
from baton.plan import ProbeVersion, Reload, Unhealthy, View
from baton.reasons import Figure, Reason, Why, because
from baton.triton.port import Counts, Triton

Question = Callable[[Triton, int, float], None]
"""Asks a version on a server one real request, for at most so many seconds; raises the errors of ``Triton.infer``."""
Tell = Callable[[Why, Mapping[str, Any]], None]
"""Writes a line into the journal."""

AGAIN_S = 1.0
"""After a failure the version is asked again this soon."""
BLIND = 3
"""Without the server's counts so many times as many failures condemn a version that is late: it may be busy."""
SLOW = 1
"""With them so many more: a version that takes long for one request answers nobody meanwhile."""

WITH_A_WAY_BACK = MEETING | {Phase.BAKING, Phase.ROLLING_BACK}

log = logging.getLogger(__name__)


class Processes(Protocol):
    """The processes that run versions on servers, where they can be seen; each method is of one server and version."""

    def running(self, server: str, version: int) -> int:
        """How many run it now."""
        ...

    def watch(self, server: str, version: int) -> None:
        """It answers: remember what runs it, unless that is known."""
        ...

    def lost(self, server: str, version: int) -> bool:
        """Whether one that was remembered has ended."""
        ...

    def why(self, server: str, version: int) -> str:
        """Why one of them has ended, as far as that is known."""
        ...

    def guard(self, server: str, versions: Collection[int], as_of: float) -> None:
        """These are loaded, by an index read after that time: end for good what stands still of them."""
        ...

    def end(self, server: str, version: int) -> int:
        """End them; gives how many there were."""
        ...


class _Unseen:
    """Where no process can be seen."""

    def running(self, _server: str, _version: int) -> int:
        return 0

    end = running

    def watch(self, _server: str, _version: int) -> None:
        return

    def lost(self, _server: str, _version: int) -> bool:
        return False

    def why(self, _server: str, _version: int) -> str:
        return ""

    def guard(self, _server: str, _versions: Collection[int], _as_of: float) -> None:
        return


UNSEEN: Processes = _Unseen()


class ProcessEnded(TritonError):
    """Of the processes that run a version one has ended, though Triton did not unload it."""


@dataclass(slots=True)
class _Row:
    """One version on one server, and its failures in a row."""

    asked_at: float
    failures: int = 0
    late: bool = False
    """One of the failures was that no answer came in time."""
    since: float = 0.0
    answered: int | None = None
    """What it had answered by the first of the failures, as the server counts."""
    beats: float | None = None
    """Its signs of life by then."""
    reason: str = ""
    unhealthy: bool = False
    good_at: float = 0.0
    """When the last question that was answered was put."""
    bad_at: float = 0.0
    """When the last one that was not was put."""


@dataclass(slots=True)
class Health:
    """Of one service. All methods may be called from any thread."""

    config: ServiceConfig
    servers: Mapping[str, Triton]
    question: Question | None
    processes: Processes
    tasks: Tasks
    clock: Callable[[], float]
    tell: Tell
    _failed: dict[tuple[str, int], int] = field(default_factory=dict, init=False)
    """Requests of anybody's that the version failed, when it was last asked about."""
    _suspect: set[tuple[str, int]] = field(default_factory=set, init=False)
    """Those that failed more since."""
    _rows: dict[tuple[str, int], _Row] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def note(self, counts: Mapping[str, Mapping[str, Mapping[int, Counts]]]) -> None:
        """What each server counts. A version whose process failed somebody's request is asked at once."""
        found = {
            (server, version): one.failed
            for server, models in counts.items()
            for version, one in models.get(self.config.engine, {}).items()
        }
        with self._lock:
            self._suspect |= {key for key, failed in found.items() if failed > self._failed.get(key, failed)}
            self._failed = found

    def watch(self, view: View) -> None:
        """Ask what is due: on each server what serves, a candidate that clients meet, and the way back from one."""
        rollout, beside = view.rollout, set[int | None]()
        if rollout is not None and rollout.phase in WITH_A_WAY_BACK:
            beside = {rollout.previous, rollout.candidate if rollout.phase in MEETING else None}
        asked = set()
        for server in view.live():
            if Reload(server.name) not in view.running:
                asked |= {(server.name, version) for version in server.ready() & (server.serving() | beside)}
        kept = {s.name for s in view.servers if Reload(s.name) in view.running}
        with self._lock:
            self._rows = {k: row for k, row in self._rows.items() if k in asked or k[0] in kept}
            due = [key for key in asked if self._due(key, view)]
            self._suspect &= asked - set(due)
        for name, version in due:

            def ask(_task: object, name: str = name, version: int = version) -> None:
                self._ask(name, version)

            self.tasks.start(ProbeVersion(name, version), ask)

    def _due(self, key: tuple[str, int], view: View) -> bool:
        row, every = self._rows.get(key), self.config.health.every
        if (row is None or not row.unhealthy) and self.processes.lost(*key):
            return True
        if self.question is None and (row is None or not row.failures):
            return False  # there is nothing to ask, and its processes run
        if row is None:
            return True
        # A candidate that is about to get all traffic is not kept waiting for its turn.
        moving = view.rollout is not None and view.rollout.phase is Phase.SHIFTING and key[1] == view.rollout.candidate
        soon = row.failures or moving or key in self._suspect
        return view.now - row.asked_at >= (min(AGAIN_S, every) if soon else every)

    def answered(self) -> dict[tuple[str, int], float] | None:
        """By server and version: when the last question that was answered was put. None where nothing is asked."""
        if self.question is None:
            return None
        with self._lock:
            return {key: row.good_at for key, row in self._rows.items() if row.good_at}

    def unhealthy(self) -> dict[tuple[str, int], Unhealthy]:
        """By server and version: those that do not answer."""
        with self._lock:
            return {key: Unhealthy(row.since, row.reason) for key, row in self._rows.items() if row.unhealthy}

    def told(self, version: int) -> tuple[VersionHealth, ...]:
        """Of a version that is watched, by server."""
        with self._lock:
            rows = [(name, row) for (name, number), row in sorted(self._rows.items()) if number == version]
            return tuple(
                VersionHealth(name, not row.unhealthy, iso(row.since) if row.unhealthy else None, row.reason)
                for name, row in rows
            )

    def reload(self, server: str, version: int, load: Callable[[], None]) -> None:
        """Take the engine out of a server and load it there again. ``load`` has it loaded as the files say.

        Where it was not asked just now it is asked once more: what answers again, after a restart of that Triton say,
        or answered somebody meanwhile, is left alone. Its processes are ended first where they can be reached: requests
        that wait for one that hangs would wait for ever, and its memory would stay.

        Raises:
            TritonError: it does not load, or does not answer after that either.
            TimedOut: Triton is still at it, or it does not answer in time.
            Unreachable: the server went away.
        """
        triton, key, put_at = self.servers[server], (server, version), self.clock()
        if not self._just_found(key, put_at):
            try:
                self._put(server, version)
            except (TimedOut, TritonError) as error:
                if not self._bad(key, put_at, error):
                    return
            else:
                self._good(key, put_at)
                return
        begun = self.clock()
        ended = self.processes.end(server, version)
        triton.unload(self.config.engine, self.config.gates.request_timeout)
        load()
        self._want_answer(triton, version, self.config.gates.request_timeout)
        told: dict[str, Figure] = {"server": server, "version": version, "took_s": round(self.clock() - begun, 3)}
        why = because(Reason.LOADED_AGAIN, **told, answers=self.question is not None)
        self.tell(why, {**told, "processes_ended": ended})
        self._forget(key)

    def _just_found(self, key: tuple[str, int], now: float) -> bool:
        """Whether it was found sick a moment ago. A question that this process slept through is old when it fails."""
        with self._lock:
            row = self._rows.get(key)
        if row is None or not row.unhealthy:
            return False
        return now - row.asked_at <= AGAIN_S and now - row.bad_at <= AGAIN_S + self.config.health.timeout

    def _ask(self, server: str, version: int) -> None:
        key, put_at = (server, version), self.clock()
        try:
            self._put(server, version)
        except Unreachable:
            self._forget(key)
        except (TimedOut, TritonError) as error:
            self._bad(key, put_at, error)
        else:
            self._good(key, put_at)

    def _put(self, server: str, version: int) -> None:
        """Put the question, unless the processes tell the answer. Raises as ``Triton.infer``, and ``ProcessEnded``."""
        triton = self.servers[server]
        if self.processes.lost(server, version):
            # Triton may have loaded the version anew: then as many run as there should.
            wanted = triton.instances(self.config.engine, version)
            missing = wanted - self.processes.running(server, version)
            if missing > 0:
                why = self.processes.why(server, version)
                raise ProcessEnded(why if wanted == 1 else f"{missing} of its {wanted} processes ended")
        self._want_answer(triton, version, self.config.health.timeout)
        self.processes.watch(server, version)

    def _good(self, key: tuple[str, int], put_at: float) -> None:
        with self._lock:
            before = self._rows.get(key)
            self._rows[key] = _Row(self.clock(), good_at=put_at)
        if before is not None and before.unhealthy:
            self._tell_recovered(key)

    def _tell_recovered(self, key: tuple[str, int]) -> None:
        server, version = key
        told: dict[str, Figure] = {"server": server, "version": version}
        self.tell(because(Reason.ANSWERS_AGAIN, **told), told)

    def _bad(self, key: tuple[str, int], put_at: float, error: BatonError) -> bool:
        """Count a failure, if Triton calls the version READY all the same. True when it is sick now."""
        # So it is as of now: before the next call returns this process may be stopped, and the server restarted.
        (server, version), now = key, self.clock()
        try:
            state = self.servers[server].index().get(self.config.engine, {}).get(version)
        except Unreachable:
            state = None
        if state is None or state.state is not ModelState.READY:
            self._forget(key)  # it is being loaded, or leaves
            return False
        counts = self._counts(server)
        answered = counts[version].answered if counts and version in counts else None
        beats = self._beats(server, version) if isinstance(error, TimedOut) else None
        limit = self.config.health.failures
        with self._lock:
            row = self._rows.get(key)
            was = row is not None and row.unhealthy
            late = isinstance(error, TimedOut)
            # One that is late and answered somebody meanwhile, or works, is slow, and no more: counted anew.
            slow = row is not None and (row.late or late) and (answered != row.answered or _grew(row.beats, beats))
            if row is None or not row.failures or slow:
                row = self._rows[key] = _Row(now, since=now, answered=answered, beats=beats)
            row.asked_at, row.bad_at, row.failures, row.reason = now, put_at, row.failures + 1, str(error)
            row.late |= late
            if isinstance(error, ProcessEnded | GivenUp):
                limit = 1  # there is no doubt
            elif row.late:
                limit = BLIND * limit if answered is None else limit + SLOW
            row.unhealthy = row.failures >= limit
            is_sick = row.unhealthy
        if is_sick and not was:
            why = because(Reason.FOUND_SILENT, version=version, server=server, error=str(error))
            log.warning("%s: %s", self.config.name, why)
            self.tell(why, {"server": server, "version": version})
        elif was and not is_sick:
            self._tell_recovered(key)
        return is_sick

    def _counts(self, server: str) -> Mapping[int, Counts] | None:
        try:
            return self.servers[server].counts().get(self.config.engine, {})
        except BatonError as error:
            log.warning("%s", error)
            return None

    def _beats(self, server: str, version: int) -> float | None:
        try:
            return (self.servers[server].heartbeats() or {}).get(self.config.engine, {}).get(version)
        except BatonError as error:
            log.warning("%s", error)
            return None

    def _forget(self, key: tuple[str, int]) -> None:
        with self._lock:
            self._rows[key] = _Row(self.clock())

    def _want_answer(self, server: Triton, version: int, timeout_s: float) -> None:
        if self.question is None:
            return
        try:
            self.question(server, version, timeout_s)
        except InvalidRequest as error:
            # The golden set is not this version's, but its process is there and answers.
            log.debug("version %d refuses the golden request: %s", version, error)


def _grew(before: float | None, beats: float | None) -> bool:
    return before is not None and beats is not None and beats != before
