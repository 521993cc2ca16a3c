"""Calls of the engine's versions: counted by version, and none to a version that was given up.

Triton (seen on 24.10) gives a request up when the version's process shows no sign of life for a second, and frees the
memory that the request is in. A process that was stopped meanwhile works on it when it wakes, and brings the whole
server down. So a process that stands still while requests wait for it is ended before Triton loses patience; and where
Triton was quicker, at once. A version that was given up is not called again before it was loaded anew.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .processes import Known
from .request import Answer, Request

GIVEN_UP = re.compile(
    r"(Failed to process the request\(s\) for model instance '[^']*', message: )?"
    r"(Stub process ('[^']*' )?is not healthy|Failed to obtain the health mutex)"
)
"""How an error begins by which Triton says that it gave a request up since the process shows no sign of life. Only its
beginning tells: an engine's own errors quote what clients wrote, who could end its process by these words."""
FROZEN_S = 0.5
"""A process that stands still for so long while a call waits is ended. Triton waits for at least one second, and a
process that stood still for half of one was never harmful (0 of 6 tries); a shorter pause costs nobody anything."""
LOOK_S = 0.05
"""Between two looks at the processes of a version that a call waits for."""
LOOK_AGAIN_S = 0.5
"""Between two looks whether a version that was given up has a new process."""


class Seen(Protocol):
    """As :class:`traffic_splitter.processes.Processes`."""

    def of(self, version: int) -> Known: ...
    def blamed(self, version: int, error: str) -> Known: ...
    def look(self, version: int) -> Known: ...
    def frozen(self, version: int) -> Known: ...
    def end(self, known: Known) -> bool: ...


@dataclass(slots=True)
class _Version:
    begun: int = 0
    ended: int = 0
    moved_at: float = 0.0
    """When its processes were last seen with none of them frozen."""
    given_up: str | None = None
    had: Known = field(default_factory=dict)
    """The processes that it had when it was given up."""
    looked_at: float = 0.0

    @property
    def open(self) -> int:
        """Calls under way."""
        return self.begun - self.ended


class Calls:
    """``told`` is called with a sentence when a version is given up. Any thread may call."""

    def __init__(
        self,
        processes: Seen,
        clock: Callable[[], float],
        told: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._clock = clock
        self._told = told
        self._changed = threading.Condition()
        self._versions: dict[int, _Version] = {}
        self._closed = False

    def call(self, request: Request, version: int, compare: str | None) -> Answer:
        """The version's answer; an error at once where it was given up."""
        if (why := self.given_up(version)) is not None:
            return request.refusal(f"version {version} is not asked: {why}")
        with self._changed:
            state = self._versions.setdefault(version, _Version())
            if not state.open:
                state.moved_at = self._clock()
                self._changed.notify_all()
            state.begun += 1
        try:
            answer = request.call(version, compare)
        finally:
            with self._changed:
                state.ended += 1
        if answer.error is not None and GIVEN_UP.match(answer.error):
            why = "Triton gave a request to it up, since its process showed no sign of life"
            self._give_up(version, self._processes.blamed(version, answer.error), why)
        return answer

    def given_up(self, version: int) -> str | None:
        """Why the version must not be called; None when it may: it never was given up, or has a new process."""
        with self._changed:
            state = self._versions.get(version)
            if state is None or state.given_up is None:
                return None
            now = self._clock()
            if now - state.looked_at < LOOK_AGAIN_S:
                return state.given_up
            state.looked_at = now
            known = state.had
        new = self._processes.look(version)
        with self._changed:
            if new and not any(known.get(pid) == begun for pid, begun in new.items()):
                state.given_up = None
            return state.given_up

    def report(self) -> dict[str, Any]:
        """By version: calls begun and calls that ended since the splitter began, and why it was given up, if it was."""
        with self._changed:
            return {
                str(version): {"begun": state.begun, "ended": state.ended, "given_up": state.given_up}
                for version, state in self._versions.items()
            }

    def watch(self) -> None:
        """Look after the processes that calls wait for, until :meth:`close`. For a thread of its own."""
        while self._wait():
            self.look()

    def look(self) -> None:
        """One look: ends what stands still while a call waits for it."""
        now = self._clock()
        with self._changed:
            waited_for = [v for v, state in self._versions.items() if state.open and state.given_up is None]
        for version in waited_for:
            frozen = self._processes.frozen(version)
            with self._changed:
                state = self._versions[version]
                if not frozen:
                    state.moved_at = now
                    continue
                still_s = now - state.moved_at
            if still_s < FROZEN_S:
                continue
            why = f"its process stood still for {still_s:.1f} s while requests waited for it, and was ended"
            self._give_up(version, frozen, why)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self) -> bool:
        """Until there is something to look at. False at the end."""
        with self._changed:
            while not self._closed and not any(s.open for s in self._versions.values()):
                self._changed.wait()
            if not self._closed:
                self._changed.wait(LOOK_S)
            return not self._closed

    def _give_up(self, version: int, known: Known, why: str) -> None:
        """End these processes. A version of which others run goes on with them."""
        with self._changed:
            state = self._versions[version]
            if state.given_up is not None:
                return
            had = self._processes.of(version)
            if had and not known:
                return  # Triton speaks of one that has ended already
            ended = self._processes.end(known)
            if ended and had.keys() - known.keys():
                state.moved_at = self._clock()
            else:
                why = why if ended else f"{why}; it could not be ended"
                state.given_up, state.had, state.looked_at = why, had, self._clock()
        self._told(f"version {version}: {why}")
