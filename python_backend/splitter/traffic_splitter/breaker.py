"""The circuit breaker: after several failures in a row, the candidate gets no requests for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

FAILURES = 5
"""This many failed or late attempts in a row open the breaker."""
COOLDOWN_S = 5.0
"""The breaker stays open this long before it lets one trial attempt through."""


class Breaker:
    """closed -> open after :data:`FAILURES` in a row -> half_open after :data:`COOLDOWN_S` -> closed, or open again.

    Each attempt gets a ticket and returns it with its outcome. A ticket counts only in the state in which it was
    given: an attempt that began before the breaker opened, and ends later, neither closes nor opens it again.
    Thread-safe.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state = "closed"
        self._ticket = 0
        self._failures = 0
        self._trial_running = False
        self._opened_at = 0.0
        self.opened = 0
        """How many times it opened."""

    @property
    def state(self) -> str:
        """``closed``, ``open``, or ``half_open``: one trial attempt is allowed, or is running."""
        with self._lock:
            self._end_cooldown()
            return self._state

    def enter(self) -> int | None:
        """A ticket for one attempt, or None: no attempt is allowed. Return each ticket by :meth:`leave`."""
        with self._lock:
            self._end_cooldown()
            if self._state == "open" or (self._state == "half_open" and self._trial_running):
                return None
            self._trial_running = self._state == "half_open"
            return self._ticket

    def leave(self, ticket: int | None, *, good: bool | None) -> None:
        """Report how the attempt ended. None: it says nothing about the candidate (not sent, or the request is bad)."""
        with self._lock:
            if ticket != self._ticket:
                return
            self._trial_running = False
            if good:
                self._failures = 0
                if self._state == "half_open":
                    self._set("closed")
            elif good is not None:
                self._failures += 1
                if self._state == "half_open" or self._failures >= FAILURES:
                    self._opened_at = self._clock()
                    self.opened += 1
                    self._set("open")

    def reset(self) -> None:
        """Close it, for a new candidate. Attempts that are running no longer count."""
        with self._lock:
            self._set("closed")

    def _end_cooldown(self) -> None:
        if self._state == "open" and self._clock() >= self._opened_at + COOLDOWN_S:
            self._set("half_open")

    def _set(self, state: str) -> None:
        self._state = state
        self._ticket += 1
        self._failures = 0
        self._trial_running = False
