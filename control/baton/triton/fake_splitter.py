"""The splitter of a fake Triton: it follows a route under a lease and reports, as ``python_backend/splitter`` does.

It knows no bulkhead and no breaker; a candidate that fails is answered for by the stable version, and is counted.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton.errors import TritonError
from baton.triton.port import Tensors

LEAST_MS = 0.01
"""No answer takes no time at all, also where a test's clock stands still: one without a time is not judged."""


@dataclass
class FakeSplitter:
    """One loaded splitter. Times come from ``clock``, in seconds."""

    engine: str
    stable: int
    token: str
    clock: Callable[[], float]
    samples: list[dict[str, Any]] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(0))
    _route: dict[str, Any] | None = None
    _until: float = float("-inf")

    def __post_init__(self) -> None:
        self.counts = dict.fromkeys(("requests", "stable", "candidate", "sent_to_candidate", "failed", "shadowed"), 0)
        self._boot = f"{self._draw.getrandbits(32):08x}"

    def candidate(self) -> int | None:
        """The candidate of the route in force; None when there is none, or its lease is over."""
        if self._route is None or self._route["candidate"] is None or self.clock() >= self._until:
            return None
        return int(self._route["candidate"])

    def weight(self) -> float:
        """The candidate's share in force, in percent."""
        return float(self._route["weight"]) if self._route is not None and self.candidate() is not None else 0.0

    def choose(self) -> int:
        """The version for the next request."""
        candidate = self.candidate()
        if candidate is None or self._route is None or self._draw.random() * 100 >= self._route["weight"]:
            return self.stable
        return candidate

    def note(self, version: int, took_s: float, error: str | None = None) -> None:
        """Count an answer of a version, or its failure."""
        role = "stable" if version == self.stable else "candidate"
        took_ms = max(took_s * 1000, LEAST_MS)
        self.samples.append(
            {"what": "answer", "role": role, "took_ms": took_ms, "outcome": "failed" if error else "ok",
             "error": error or "", "id": "", "top": None, "mean": None, "n": 0, "at": self.clock()}
        )  # fmt: skip
        if role == "candidate":
            self.counts["sent_to_candidate"] += 1
        self.counts["failed" if error else role] += 1
        if error is None:
            self.counts["requests"] += 1

    def control(self, inputs: Tensors) -> Tensors:
        """Answer a control request.

        Raises:
            TritonError: the token is wrong.
        """
        asked = json.loads(bytes(inputs["baton_control"].reshape(-1)[0]))
        if not hmac.compare_digest(str(asked.get("token")), self.token):
            raise TritonError("baton_control: the token is not the splitter's")
        if "route" in asked:
            self._route = asked["route"]
            self._until = self.clock() + asked["route"]["lease_s"]
        in_force = self._route is not None and self.clock() < self._until
        after = asked.get("after", 0) if asked.get("boot") == self._boot else 0
        now = self.clock()
        fresh = [
            {**{k: v for k, v in s.items() if k != "at"}, "seq": n, "age_s": now - s["at"]}
            for n, s in enumerate(self.samples[after:], after + 1)
        ]
        report = {
            "boot": self._boot,
            "stable": self.stable,
            "route": {**(self._route or {}), "lease_left_s": self._until - now} if in_force else None,
            "lapses": 0,
            "breaker": {"state": "closed", "opened": 0},
            "counts": self.counts,
            "samples": fresh,
            "next": after + len(fresh),
            "lost": 0,
        }
        return {"baton_report": np.array([[json.dumps(report).encode()]], dtype=np.object_)}
