"""How long a client waits for the candidate before the stable version answers."""

from __future__ import annotations

import math
import threading
from collections import deque

LAST = 200
"""Stable answers that are looked at."""
ENOUGH = 20
"""With fewer of them the route's own limit holds."""
FACTOR = 4.0
"""Times stable's p95: beyond that the candidate is no answer, even if one comes."""
FLOOR_S = 0.5
"""Less would call a candidate late that only met a full batch."""


class Patience:
    """Learns from stable's good answers; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=LAST)

    def learn(self, took_s: float) -> None:
        with self._lock:
            self._times.append(took_s)

    def deadline_s(self, limit_s: float) -> float:
        """Seconds, never more than ``limit_s``."""
        with self._lock:
            if len(self._times) < ENOUGH:
                return limit_s
            times = sorted(self._times)
        p95 = times[math.ceil(0.95 * len(times)) - 1]
        return min(limit_s, max(FLOOR_S, FACTOR * p95))
