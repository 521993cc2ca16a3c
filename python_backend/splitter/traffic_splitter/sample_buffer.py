"""Counters since the process started, and a ring buffer of the latest samples, for reports to the control plane.

Names of counters and of the samples' fields are read by other releases of the control plane, so they keep their names:
``rescued`` counts failovers, ``own`` counts the control plane's probes, ``again`` marks a request whose id was used
before, ``hurried`` marks a failure by a timeout that the client chose. All are in ``docs/explanation/splitter.md``.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

CAPACITY = 4096
"""Samples in the ring buffer."""
REPORT_SAMPLES = 1000
"""Samples in one report, at most."""
REPORT_BYTES = 2**20
"""Text of samples in one report, at most: other requests wait while a report is put together."""
COUNTERS = (
    "requests",
    "stable",
    "candidate",
    "sent_to_candidate",
    "failed",
    "late",
    "refused",
    "client_errors",
    "rescued",
    "shadowed",
    "shadow_dropped",
    "shadow_failed",
    "own",
)
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Made once: ``json.dumps`` with these options would make an encoder for each sample."""


class SampleBuffer:
    """Thread-safe.

    A sample becomes text when it is added, on a thread whose request is already answered, so that a report only has
    to join texts.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._ring: deque[tuple[int, float, str]] = deque(maxlen=CAPACITY)
        self._last = 0

    def count(self, *names: str) -> None:
        """Add one to each of these counters."""
        with self._lock:
            for name in names:
                self._counters[name] += 1

    def add(self, sample: Mapping[str, Any]) -> None:
        """Add a sample; ``seq`` and ``age_s`` are set when it is reported."""
        text = _encode(sample)
        with self._lock:
            self._last += 1
            self._ring.append((self._last, self._clock(), text))

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counters)

    def since(self, after: int) -> tuple[str, int, int]:
        """A JSON list of the samples after number ``after``, oldest first; the last one's number; how many were lost.

        Lost samples were overwritten before they were reported. An ``after`` beyond the last sample means all.
        """
        with self._lock:
            if after > self._last:
                after = 0
            oldest = self._last - len(self._ring) + 1
            lost = max(0, oldest - 1 - after)
            begin = max(0, after + 1 - oldest)
            chosen = list(islice(self._ring, begin, begin + REPORT_SAMPLES))
            now = self._clock()
        texts: list[str] = []
        size = 0
        for seq, at, text in chosen:
            size += len(text)
            if texts and size > REPORT_BYTES:
                break
            texts.append(f'{{"seq":{seq},"age_s":{now - at:.3f},{text[1:]}')
            after = seq
        return f"[{','.join(texts)}]", after, lost
