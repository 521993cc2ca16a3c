"""The splitter of a fake Triton: it follows a route under a lease and reports, as ``python_backend/splitter`` does.

When the candidate fails, the stable version answers, and the failure is counted. Not covered: the breaker, limits of
concurrent calls, and shadow calls for clients' requests (only those that the control plane announced are mirrored).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton.errors import InvalidRequest
from baton.triton.port import Tensors

LEAST_MS = 0.01
"""The least time of an answer, also where a test's clock does not move: the live analysis ignores one of 0 ms."""


@dataclass
class FakeSplitter:
    """One loaded splitter. ``given``: the parameters of its configuration. Times come from ``clock``, in seconds."""

    given: Mapping[str, str]
    clock: Callable[[], float]
    samples: list[dict[str, Any]] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(0))
    _route: dict[str, Any] | None = None
    _until: float = float("-inf")
    _announced: tuple[str, str] | None = None
    _own: str | None = None
    """The id of the announced request that came last."""

    def __post_init__(self) -> None:
        names = ("requests", "stable", "candidate", "sent_to_candidate", "failed", "shadowed", "own")
        self.counts = dict.fromkeys(names, 0)
        self.engine, self.stable = self.given["engine"], int(self.given["stable"])
        self._boot = f"{self._draw.getrandbits(32):08x}"

    def candidate(self) -> int | None:
        """The candidate of the present route; None without one, or after its lease."""
        if self._route is None or self._route["candidate"] is None or self.clock() >= self._until:
            return None
        return int(self._route["candidate"])

    def weight(self) -> float:
        """The candidate's present share, in percent."""
        return float(self._route["weight"]) if self._route is not None and self.candidate() is not None else 0.0

    def choose(self, request_id: str | None = None) -> int:
        """The version for the next request."""
        candidate = self.candidate()
        self._own = None if request_id == self._own else self._own  # it counts once
        if self._announced is not None and request_id == self._announced[0]:
            self._own, to = self._announced
            self._announced = None
            return candidate if to == "candidate" and candidate is not None and self.weight() > 0 else self.stable
        if candidate is None or self._route is None or self._draw.random() * 100 >= self._route["weight"]:
            return self.stable
        return candidate

    def note(self, version: int, request_id: str | None, took_s: float, error: str | None = None) -> None:
        """Count an answer of a version, or its failure."""
        role = "stable" if version == self.stable else "candidate"
        own = {"own": True} if request_id and request_id == self._own else {}
        took_ms = max(took_s * 1000, LEAST_MS)
        self.samples.append(
            {"what": "answer", "role": role, "took_ms": took_ms, "outcome": "failed" if error else "ok",
             "error": error or "", "id": request_id or "", "top": None, "mean": None, "n": 0, "at": self.clock(), **own}
        )  # fmt: skip
        if own:
            self.counts["own"] += error is None
            return
        if role == "candidate":
            self.counts["sent_to_candidate"] += 1
        self.counts["failed" if error else role] += 1
        if error is None:
            self.counts["requests"] += 1

    def mirrors(self, request_id: str | None, served: int) -> int | None:
        """The candidate, if it is to be asked what stable has answered."""
        mirrored = request_id and request_id == self._own and served == self.stable and self._route is not None
        return self.candidate() if mirrored and self._route and self._route["shadow"] > 0 else None

    def pair(
        self, request_id: str | None, stable: tuple[float, Any], candidate: tuple[float, Any], error: str | None
    ) -> None:
        """Write a mirrored request down: seconds and scores of both versions."""
        (stable_s, scores), (candidate_s, others) = stable, candidate
        self.samples.append(
            {"what": "pair", "id": request_id, "kind": "", "stable_ms": max(stable_s * 1000, LEAST_MS),
             "candidate_ms": max(candidate_s * 1000, LEAST_MS), "outcome": "failed" if error else "ok",
             "stable": scores.reshape(-1).tolist(), "candidate": [] if error else others.reshape(-1).tolist(),
             "error": error or "", "at": self.clock(), "own": True}
        )  # fmt: skip

    def control(self, inputs: Tensors, under_way: Mapping[int, int]) -> Tensors:
        """Answer a control request. ``under_way``: requests in progress, by version.

        Raises:
            InvalidRequest: the token is wrong, or more is asked than the configuration allows.
        """
        asked = json.loads(bytes(inputs["baton_control"].reshape(-1)[0]))
        digest = hashlib.sha256(str(asked.get("token")).encode()).hexdigest()
        if not hmac.compare_digest(digest, self.given.get("token_sha256", "")):
            raise InvalidRequest("baton_control: the token is missing or wrong")
        before = self._current_route()
        if "route" in asked:
            self._check(asked["route"])
            self._route = asked["route"]
            self._until = self.clock() + asked["route"]["lease_s"]
        if "probe" in asked:
            self._announced = asked["probe"]["id"], asked["probe"]["to"]
        after = asked.get("after", 0) if asked.get("boot") == self._boot else 0
        now = self.clock()
        fresh = [
            {**{k: v for k, v in s.items() if k != "at"}, "seq": n, "age_s": now - s["at"]}
            for n, s in enumerate(self.samples[after:], after + 1)
        ]
        report = {
            "boot": self._boot,
            "stable": self.stable,
            "route": self._current_route(),
            "before": before,
            "lapses": 0,
            "breaker": {"state": "closed", "opened": 0},
            "counts": self.counts,
            "calls": {str(v): {"begun": n, "ended": 0, "given_up": None} for v, n in under_way.items()},
            "samples": fresh,
            "next": after + len(fresh),
            "lost": 0,
        }
        return {"baton_report": np.array([[json.dumps(report).encode()]], dtype=np.object_)}

    def _current_route(self) -> dict[str, Any] | None:
        left_s = self._until - self.clock()
        return {**self._route, "lease_left_s": left_s} if self._route is not None and left_s > 0 else None

    def _check(self, route: Mapping[str, Any]) -> None:
        for key in ("weight", "shadow", "lease_s"):
            value, cap = route.get(key, 0.0), float(self.given.get(f"max_{key}", "0"))
            if value > cap:
                words = f"route.{key} is {value:g}, and this service is configured for at most {cap:g}"
                raise InvalidRequest(f"baton_control: {words}")
        if route.get("contents") and self.given.get("contents") != "true":
            raise InvalidRequest("baton_control: route.contents must be false")
