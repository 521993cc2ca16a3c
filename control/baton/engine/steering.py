"""Steers a service's splitters and gathers what they report: the evidence of the live analysis.

A route is sent again and again, each time with what is left of its lease; the answer brings what happened since the
last one. Reports live in memory only: after a restart of the control plane evidence is gathered anew, and until there
is enough of it the rollout holds.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton import judge
from baton.config import ServiceConfig
from baton.domain import Gate, GateResult, Release, Route, Verdict
from baton.errors import TritonError
from baton.judge.shapes import Answer, LiveLimits, Pair
from baton.triton.port import Triton
from baton.triton.repository import CONTROL, REPORT, SPLITTER_VERSION, ServiceFiles

EXCHANGE_TIMEOUT_S = 1.0
EVERY_S = 1.0
"""A route that has not changed is sent this often."""
OBSERVED_OVER_S = 30.0
"""The share of traffic that is told as observed is that of so many last seconds."""
MOST_SAMPLES = 20_000
MOST_JUDGED = 4000
"""Answers that are looked at each time: more would tell no more, and take longer."""


@dataclass
class _Link:
    """One server's splitter, as it last reported."""

    boot: str = ""
    after: int = 0
    at: float | None = None
    sent: Route | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    counts: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=600))
    """When, requests, and those that the candidate answered, since the splitter started."""
    before: Mapping[str, int] = field(default_factory=dict)
    """Its counts when the present phase began."""


class Steering:
    """Of one service. All methods may be called from any thread; times are seconds since the epoch."""

    def __init__(self, config: ServiceConfig, files: ServiceFiles, servers: Mapping[str, Triton]) -> None:
        self._config = config
        self._files = files
        self._servers = servers
        self._lock = threading.Lock()
        self._links = {name: _Link() for name in servers}
        self._answers: deque[Answer] = deque(maxlen=MOST_SAMPLES)
        self._pairs: deque[Pair] = deque(maxlen=MOST_SAMPLES)
        self._rollout: tuple[int, str] | None = None
        live, traffic = config.live, config.traffic
        self._limits = LiveLimits(
            min_requests=live.min_requests,
            min_pairs=live.min_pairs,
            max_failures=live.max_failures,
            max_failures_in_row=live.max_failures_in_row,
            failure_rate=live.failure_rate,
            latency_limit=live.latency_limit,
            tolerance=config.gates.output_tolerance,
            drift_limit=live.drift_limit,
            top1_agreement=live.top1_agreement,
            top1_margin=live.top1_margin,
            tau=live.tau,
            crossing_limit=live.crossing_limit,
            threshold=live.threshold,
        )
        way = traffic.shadow_for + sum(s.hold + s.over for s in traffic.steps)
        # Holds make a way longer: twice as many looks as it takes without are paid for.
        self._looks = max(2, round(2 * way / traffic.interval))

    def begin(self, rollout: int, phase: str) -> bool:
        """Evidence is of one phase of one rollout; that of another one is dropped. True when it begins anew.

        Pairs of the same rollout's shadow go on to count while traffic is split: they compare the same two versions.
        """
        with self._lock:
            if self._rollout == (rollout, phase):
                return False
            if self._rollout is None or self._rollout[0] != rollout:
                self._pairs.clear()
            self._rollout = (rollout, phase)
            self._answers.clear()
            for link in self._links.values():
                link.before = dict(link.report.get("counts", {}))
                link.counts.clear()
            return True

    def about(self, rollout: int, phase: str) -> bool:
        """Whether the evidence is still of that phase of that rollout."""
        with self._lock:
            return self._rollout == (rollout, phase)

    def steered(self, server: str) -> float | None:
        """When the server's splitter last answered."""
        with self._lock:
            return self._links[server].at

    def due(self, server: str, route: Route | None, now: float) -> bool:
        """Whether the server's splitter should hear again: its route changed, or a while went by."""
        with self._lock:
            link = self._links[server]
            return link.at is None or link.sent != route or now - link.at >= EVERY_S

    def forget(self, server: str) -> None:
        """The server's splitter is gone."""
        with self._lock:
            self._links[server] = _Link()

    def exchange(self, server: str, route: Route | None, lease_s: float, salt: str, now: float) -> None:
        """Send the route, or that the stable version alone is to answer, and take the report.

        Raises:
            TritonError: the splitter refuses, or its process is gone.
            TimedOut: it does not answer within a second.
            Unreachable: the server does not answer.
        """
        with self._lock:
            link = self._links[server]
            boot, after = link.boot, link.after
        traffic = self._config.traffic
        asked: dict[str, Any] = {"token": self._files.token(), "boot": boot, "after": after}
        asked["route"] = {
            "candidate": None if route is None else route.candidate,
            "weight": 0.0 if route is None else route.weight,
            "shadow": 0.0 if route is None else route.shadow,
            "lease_s": max(lease_s, 0.001),
            "salt": salt,
            "deadline_s": traffic.deadline,
            "compare": traffic.compare,
            "kinds": list(traffic.kinds),
            "contents": traffic.contents,
        }
        value = np.array([json.dumps(asked).encode()], dtype=np.object_)
        shaped = value.reshape(1, 1) if self._files.batches() else value
        answer = self._servers[server].infer(
            self._config.splitter, SPLITTER_VERSION, {CONTROL: shaped}, EXCHANGE_TIMEOUT_S
        )
        try:
            report = json.loads(bytes(answer[REPORT].reshape(-1)[0]))
            self._take(server, route, report, now)
        except (KeyError, ValueError, TypeError) as error:
            raise TritonError(f"The splitter's report can't be read: {type(error).__name__}: {error}.") from None

    def _take(self, server: str, route: Route | None, report: Mapping[str, Any], now: float) -> None:
        counts = report["counts"]
        with self._lock:
            link = self._links[server]
            if link.boot != report["boot"]:
                link.counts.clear()
                link.before = {}
            link.boot, link.after, link.at, link.sent, link.report = report["boot"], report["next"], now, route, report
            link.counts.append((now, counts["requests"], counts["candidate"]))
            for sample in report["samples"]:
                at = now - sample["age_s"]
                if sample["what"] == "answer":
                    self._answers.append(_answer(sample, at))
                elif sample["what"] == "pair":
                    self._pairs.append(_pair(sample, at))

    def judge(self, now: float, release: Release, *, shadow_only: bool) -> GateResult:
        """What live traffic says of the candidate so far. Without fresh evidence it holds."""
        with self._lock:
            answers, pairs = list(self._answers), list(self._pairs)
        answers, pairs = self._recent(answers, pairs, now)
        result = judge.judge_live(
            answers, pairs, release=release, shadow_only=shadow_only, limits=self._limits, looks=self._looks
        )
        if result.verdict is not Verdict.PASS:
            return result
        met = [p.at for p in pairs if p.outcome != "dropped"]
        if not shadow_only:
            met = [a.at for a in answers if a.role == "candidate"]
        patience = max(2 * self._config.traffic.interval, 10.0)
        if not met or now - max(met) > patience:
            message = f"No live request met the candidate in the last {patience:.0f} s; waiting for traffic."
            return GateResult(Gate.LIVE, Verdict.HOLD, message, evidence=result.evidence)
        return result

    def _recent(self, answers: list[Answer], pairs: list[Pair], now: float) -> tuple[list[Answer], list[Pair]]:
        """The same stretch of time for both versions: the configured window, or as much more as the minimum needs."""
        live = self._config.live
        since = now - live.window
        candidate = [a.at for a in answers if a.role == "candidate" and a.outcome in ("ok", "failed", "late")]
        if 0 < sum(at >= since for at in candidate) < live.min_requests:
            since = min(since, *candidate[-live.min_requests :])
        return [a for a in answers if a.at >= since][-MOST_JUDGED:], pairs[-10 * live.min_pairs :]

    def told(self, now: float) -> dict[str, Any]:
        """What the splitters of all servers do, for ``ctl status``."""
        with self._lock:
            links = [k for k in self._links.values() if k.at is not None]
            counts = [{n: c - k.before.get(n, 0) for n, c in k.report["counts"].items()} for k in links]
            requests = answered = 0
            for link in links:
                old = next((c for c in link.counts if now - c[0] <= OBSERVED_OVER_S), None)
                if old is not None:
                    requests += link.counts[-1][1] - old[1]
                    answered += link.counts[-1][2] - old[2]
            states = [k.report["breaker"]["state"] for k in links]
        return {
            "observed": round(100 * answered / requests, 2) if requests else None,
            "requests": {role: sum(c[role] for c in counts) for role in ("stable", "candidate")},
            "shadowed": sum(c["shadowed"] for c in counts),
            "breaker": next((s for s in ("open", "half_open") if s in states), "closed"),
        }

    def tripped(self) -> bool:
        """Whether some splitter keeps requests from the candidate since it failed too often in a row."""
        with self._lock:
            return any(k.report and k.report["breaker"]["state"] != "closed" for k in self._links.values())


def _answer(sample: Mapping[str, Any], at: float) -> Answer:
    keys = ("role", "took_ms", "outcome", "error", "id", "top", "mean")
    return Answer(at=at, **{k: sample[k] for k in keys if k in sample})


def _pair(sample: Mapping[str, Any], at: float) -> Pair:
    return Pair(
        at=at,
        id=sample["id"],
        kind=sample["kind"],
        stable_ms=sample["stable_ms"],
        candidate_ms=sample.get("candidate_ms"),
        outcome=sample["outcome"],
        stable=tuple(sample.get("stable") or ()),
        candidate=tuple(sample.get("candidate") or ()),
        error=sample.get("error") or "",
        contents=sample.get("contents"),
    )
