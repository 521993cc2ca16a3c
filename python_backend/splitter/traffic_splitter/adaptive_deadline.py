"""The time limit for the candidate, learned from the stable version's recent answers."""

from __future__ import annotations

import math
import threading
from collections import deque

ANSWERS_KEPT = 200
"""The limit is computed from this many of stable's latest answers."""
MIN_ANSWERS = 20
"""Below this number the route's own limit applies."""
FACTOR = 4.0
"""The limit is this multiple of stable's p95."""
FLOOR_S = 0.5
"""The limit is never shorter, because one full batch ahead of a request would already exceed a shorter one."""


class AdaptiveDeadline:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=ANSWERS_KEPT)

    def observe(self, took_s: float) -> None:
        """Record the time of one good answer of stable's."""
        with self._lock:
            self._times.append(took_s)

    def seconds(self, limit_s: float) -> float:
        """The time limit, at most ``limit_s``."""
        with self._lock:
            if len(self._times) < MIN_ANSWERS:
                return limit_s
            times = sorted(self._times)
        p95 = times[math.ceil(0.95 * len(times)) - 1]
        return min(limit_s, max(FLOOR_S, FACTOR * p95))
