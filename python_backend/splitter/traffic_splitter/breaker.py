"""The breaker: after a few failures in a row the candidate is left alone for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

FAILURES = 5
"""Failed or late attempts in a row that open it."""
REST_S = 5.0
"""How long it stays open before one request may try."""


class Breaker:
    """closed -> open after :data:`FAILURES` in a row -> half_open after :data:`REST_S` -> closed, or open again.

    Each attempt enters with a ticket and leaves with its outcome. A ticket counts only in the state it was given in:
    what was sent before the breaker opened and ends later neither closes nor opens it again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state = "closed"
        self._ticket = 0
        self._failures = 0
        self._trying = False
        self._opened_at = 0.0
        self.opened = 0
        """How often it opened."""

    @property
    def state(self) -> str:
        """``closed``, ``open``, or ``half_open``: one attempt may try, or is under way."""
        with self._lock:
            self._rest()
            return self._state

    def enter(self) -> int | None:
        """A ticket for one attempt, or None: leave the candidate alone. Each ticket must come back by :meth:`leave`."""
        with self._lock:
            self._rest()
            if self._state == "open" or (self._state == "half_open" and self._trying):
                return None
            self._trying = self._state == "half_open"
            return self._ticket

    def leave(self, ticket: int, *, good: bool | None) -> None:
        """How the attempt ended; None: it tells nothing (not sent after all, or the request was to blame)."""
        with self._lock:
            if ticket != self._ticket:
                return
            self._trying = False
            if good:
                self._failures = 0
                if self._state == "half_open":
                    self._become("closed")
            elif good is not None:
                self._failures += 1
                if self._state == "half_open" or self._failures >= FAILURES:
                    self._opened_at = self._clock()
                    self.opened += 1
                    self._become("open")

    def reset(self) -> None:
        """Closed, as for a new candidate; attempts under way don't count any more."""
        with self._lock:
            self._become("closed")

    def _rest(self) -> None:
        if self._state == "open" and self._clock() >= self._opened_at + REST_S:
            self._become("half_open")

    def _become(self, state: str) -> None:
        self._state = state
        self._ticket += 1
        self._failures = 0
        self._trying = False
