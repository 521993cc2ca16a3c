"""The control plane's clock, which never goes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class ForwardClock:
    """Seconds since the epoch, never less than before.

    When the machine's clock is set back, this one goes on from where it was, and stays ahead until the process ends. So
    a wait of seconds does not become one of an hour. Safe from several threads.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ahead = 0.0
        self._last = float("-inf")

    def __call__(self) -> float:
        with self._lock:
            now = self._clock() + self._ahead
            if now < self._last:
                self._ahead += self._last - now
                now = self._last
            self._last = now
            return now
