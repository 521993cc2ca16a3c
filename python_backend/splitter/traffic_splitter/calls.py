"""Calls of the engine's versions. Calls are counted by version, and a version that is given up gets no more of them.

Triton (seen on 24.10) gives a request up when the version's process shows no sign of life for a second, and frees the
memory that holds the request. If the process was frozen and wakes later, it works on freed memory, and the whole
server aborts. So a process that is frozen while requests wait for it is killed before Triton gives the request up, and
where Triton was quicker, at once. The version then gets no calls until it runs in a new process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .processes import Processes, ProcessIds
from .request import Answer, Request

STABLE_CALLS = 20
"""Calls of the stable version that run at a time. More wait in line, as they would in the engine's own queue."""
CANDIDATE_CALLS = 10
"""Calls of the candidate that run at a time: a hung candidate blocks this many threads and no more.

Triton gives each python model 32 threads (``thread-pool-size``). A call to another model holds one until it ends, and
sending an answer takes one. If 32 calls hang, no answer of any version is sent any more (seen on 24.10). Each thread of
the pools has one call or one answer at a time, so 20 + 10 of them and ``execute`` leave a thread free.
"""

GIVEN_UP = re.compile(
    r"(Failed to process the request\(s\) for model instance '[^']*', message: )?"
    r"(Stub process ('[^']*' )?is not healthy|Failed to obtain the health mutex)"
)
"""How Triton's error begins when it gave a request up because the process shows no sign of life. It must match at the
beginning: an engine's own errors quote what clients wrote, and a client could get a process killed with these words."""
FROZEN_S = 0.5
"""A process that is frozen this long while a call waits is killed. Triton waits for at least one second, and a process
frozen for half a second never did harm (0 of 6 tries); a shorter pause costs no client an answer."""
WATCH_INTERVAL_S = 0.05
"""Time between two checks of the processes that calls wait for."""
RESCAN_INTERVAL_S = 0.5
"""Time between two checks whether a version that was given up has a new process."""


@dataclass(slots=True)
class _Version:
    begun: int = 0
    ended: int = 0
    alive_at: float = 0.0
    """When none of its processes was frozen, last."""
    given_up: str | None = None
    processes: ProcessIds = field(default_factory=dict)
    """Those that it had when it was given up."""
    scanned_at: float = 0.0

    @property
    def open(self) -> int:
        """Calls that are running."""
        return self.begun - self.ended


class VersionCalls:
    """Thread-safe. ``warn`` is called with a sentence when a process is killed or a version is given up."""

    def __init__(self, processes: Processes, clock: Callable[[], float], warn: Callable[[str], None]) -> None:
        self._processes = processes
        self._clock = clock
        self._warn = warn
        self._changed = threading.Condition()
        self._versions: dict[int, _Version] = {}
        self._closed = False

    def call(self, request: Request, version: int, compare: str | None) -> Answer:
        """The version's answer; at once an error if the version is given up."""
        if (why := self.given_up(version)) is not None:
            return request.refusal(f"version {version} is not asked: {why}")
        with self._changed:
            state = self._versions.setdefault(version, _Version())
            if not state.open:
                state.alive_at = self._clock()
                self._changed.notify_all()
            state.begun += 1
        try:
            answer = request.call(version, compare)
        finally:
            with self._changed:
                state.ended += 1
        if answer.error is not None and GIVEN_UP.match(answer.error):
            why = "Triton gave a request to it up, since its process showed no sign of life"
            self._give_up(version, self._processes.named_in(version, answer.error), why)
        return answer

    def given_up(self, version: int) -> str | None:
        """Why the version must not be called. None: it may be, since it was never given up or has a new process."""
        with self._changed:
            state = self._versions.get(version)
            if state is None or state.given_up is None:
                return None
            now = self._clock()
            if now - state.scanned_at < RESCAN_INTERVAL_S:
                return state.given_up
            state.scanned_at = now
            old = state.processes
        new = self._processes.scan(version)
        with self._changed:
            if new and not any(old.get(pid) == started for pid, started in new.items()):
                state.given_up = None
            return state.given_up

    def report(self) -> dict[str, Any]:
        """By version: calls begun and ended since the splitter started, and why it was given up, or None."""
        with self._changed:
            return {
                str(version): {"begun": state.begun, "ended": state.ended, "given_up": state.given_up}
                for version, state in self._versions.items()
            }

    def watch(self) -> None:
        """Check the processes that calls wait for, until :meth:`close`. Runs on a thread of its own."""
        while self._wait():
            self.check()

    def check(self) -> None:
        """Kill processes that have been frozen for :data:`FROZEN_S` while a call waits for them."""
        now = self._clock()
        with self._changed:
            waited_for = [v for v, state in self._versions.items() if state.open and state.given_up is None]
        for version in waited_for:
            frozen = self._processes.frozen(version)
            with self._changed:
                state = self._versions[version]
                if not frozen:
                    state.alive_at = now
                    continue
                frozen_s = now - state.alive_at
            if frozen_s < FROZEN_S:
                continue
            why = f"its process was frozen for {frozen_s:.1f} s while requests waited for it, and was killed"
            self._give_up(version, frozen, why)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait until a check is due. False when closed."""
        with self._changed:
            while not self._closed and not any(s.open for s in self._versions.values()):
                self._changed.wait()
            if not self._closed:
                self._changed.wait(WATCH_INTERVAL_S)
            return not self._closed

    def _give_up(self, version: int, processes: ProcessIds, why: str) -> None:
        """Kill these processes. A version that has others goes on with those, and is not given up."""
        with self._changed:
            state = self._versions[version]
            if state.given_up is not None:
                return
            running = self._processes.running(version)
            if running and not processes:
                return  # Triton's error is about a process that has ended already
            killed = self._processes.kill(processes)
            if killed and running.keys() - processes.keys():
                state.alive_at = self._clock()
            else:
                why = why if killed else f"{why}; it could not be ended"
                state.given_up, state.processes, state.scanned_at = why, running, self._clock()
        self._warn(f"version {version}: {why}")
