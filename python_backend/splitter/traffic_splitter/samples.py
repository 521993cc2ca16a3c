"""What happened: counts since the process began, and the last requests one by one."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Protocol

KEPT = 4096
"""Samples in the ring."""
A_REPORT = 1000
"""Samples that one report holds at most."""
REPORT_BYTES = 2**20
"""Text of samples that one report holds at most: putting it together keeps other requests waiting."""
COUNTS = (
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
"""``own`` are the control plane's own requests, which count as nothing else; see ``traffic_splitter.probes``."""


class Books(Protocol):
    """What happened is written into them."""

    def count(self, *names: str) -> None: ...
    def add(self, sample: Mapping[str, Any]) -> None: ...


class Ledger:
    """Counts and samples; safe from several threads.

    A sample becomes text as soon as it is there, on the thread whose request is already answered, so that a report
    only has to join texts.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._ring: deque[tuple[int, float, str]] = deque(maxlen=KEPT)
        self._last = 0

    def count(self, *names: str) -> None:
        with self._lock:
            for name in names:
                self._counts[name] += 1

    def add(self, sample: Mapping[str, Any]) -> None:
        """A sample without ``seq`` and ``age_s``."""
        text = json.dumps(sample, separators=(",", ":"), allow_nan=False)
        with self._lock:
            self._last += 1
            self._ring.append((self._last, self._clock(), text))

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def newer(self, after: int) -> tuple[str, int, int]:
        """A JSON list of the samples after that one, oldest first; the last one's number; how many were lost.

        Lost are those that were overwritten before they were asked for. A number from the future asks for all.
        """
        with self._lock:
            if after > self._last:
                after = 0
            oldest = self._last - len(self._ring) + 1
            lost = max(0, oldest - 1 - after)
            begin = max(0, after + 1 - oldest)
            chosen = list(islice(self._ring, begin, begin + A_REPORT))
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
