"""Steers a service's splitters and gathers what they report: the evidence of the live analysis.

A route is sent again and again, each time with what is left of its lease; the answer brings what happened since the
last one. Reports live in memory only: after a restart of the control plane evidence is gathered anew, and until there
is enough of it the rollout holds. What the splitters saw of Baton's own requests (``baton.controller.probing``) is kept
apart.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from baton import judge
from baton.config import ServiceConfig
from baton.controller.followed import Followed, foreign, locked, now_followed, otherwise, shown
from baton.domain import Gate, GateResult, Release, Route, Verdict
from baton.errors import InvalidRequest, NotSteered, TritonError
from baton.facts import Counted, Requests, SplitterStatus
from baton.judge.paired import sound
from baton.judge.shapes import Answer, LiveLimits, Pair
from baton.triton.key import Caps
from baton.triton.port import Tensors, Triton
from baton.triton.repository import CONTROL, REPORT, SPLITTER_VERSION, ServiceFiles

EXCHANGE_TIMEOUT_S = 1.0
EVERY_S = 1.0
"""A route that has not changed is sent this often."""
OBSERVED_OVER_S = 30.0
"""The share of traffic that is told as observed is that of so many last seconds."""
OWN_PATIENCE_S = 30.0
"""Baton's own requests come one at a time, and one may take long."""
MOST_SAMPLES = 20_000
MOST_JUDGED = 4000
"""Answers that are looked at each time: more would tell no more, and take longer."""
MOST_IDS = 200_000
"""Ids of which it is known where they were used first."""
log = logging.getLogger(__name__)


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
    asked: set[Followed] = field(default_factory=set)
    """What was sent since it last answered, and what it answered to then: all that it can follow by our word."""
    foreign: Followed | None = None
    """What it followed by another's."""
    heard: bool = False
    """This process of it has answered before."""
    locked: bool = False
    """It refused a route, and was not loaded again since."""


@dataclass
class _Evidence:
    """What the splitters saw of live requests, or of Baton's own."""

    answers: deque[Answer] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    pairs: deque[Pair] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))


class SplitterClient:
    """Of one service. All methods may be called from any thread; times are seconds since the epoch."""

    def __init__(self, config: ServiceConfig, files: ServiceFiles, servers: Mapping[str, Triton]) -> None:
        self._config = config
        self._files = files
        self._servers = servers
        self._lock = threading.Lock()
        self._links = {name: _Link() for name in servers}
        self._live, self._own = _Evidence(), _Evidence()
        self._live_at = float("-inf")
        """When the last live request was heard of, or the rollout's evidence began."""
        self._rollout: tuple[int, str] | None = None
        self._first: dict[int, tuple[float, str]] = {}
        """By hash of an id: when it was first used, and which splitter process saw that. Each knows its own alone."""
        live, traffic = config.live, config.traffic
        self._caps = Caps.of(traffic)
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

    def begin(self, rollout: int, phase: str, now: float) -> bool:
        """Evidence is of one phase of one rollout; that of another one is dropped. True when it begins anew.

        Pairs of the same rollout's shadow go on to count while traffic is split: they compare the same two versions.
        """
        with self._lock:
            if self._rollout == (rollout, phase):
                return False
            if self._rollout is None or self._rollout[0] != rollout:
                self._live.pairs.clear()
                self._own.pairs.clear()
                self._first.clear()
                self._live_at = now
            self._rollout = (rollout, phase)
            self._live.answers.clear()
            self._own.answers.clear()
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

    def outstanding(self, server: str) -> Mapping[int, int] | None:
        """The server's splitter's calls under way, by version, by its last report.

        None without a report since it last heard that stable alone is to answer: calls may still begin.
        """
        with self._lock:
            link = self._links[server]
            if link.at is None or link.sent is not None:
                return None
            calls = link.report.get("calls", {})
            return {int(version): one["begun"] - one["ended"] for version, one in calls.items()}

    def due(self, server: str, route: Route | None, now: float) -> bool:
        """Whether the server's splitter should hear again: its route changed, or a while went by."""
        with self._lock:
            link = self._links[server]
            every = min(EVERY_S, self._config.traffic.lease / 4)  # a short lease must not end between two of them
            return link.at is None or link.sent != route or now - link.at >= every

    def forget(self, server: str) -> None:
        """The server's splitter is gone."""
        with self._lock:
            self._links[server] = _Link()

    def exchange(self, server: str, route: Route | None, lease_s: float, salt: str, now: float) -> None:
        """Send the route, or that the stable version alone is to answer, and take the report.

        Raises:
            NotSteered: the splitter refuses the token, or what is asked: it was loaded with other files.
            TritonError: its process is gone.
            TimedOut: it does not answer within a second.
            Unreachable: the server does not answer.
        """
        asked = self._asked(route) | {"lease_s": min(max(lease_s, 0.001), self._caps.lease_s), "salt": salt}
        with self._lock:
            self._links[server].asked.add(Followed.of(asked))
        try:
            answer = self._control(server, route=asked)
        except InvalidRequest as error:
            with self._lock:
                self._links[server].locked = True
            raise NotSteered(f"it takes no route from this control plane: {error}.") from None
        try:
            report = json.loads(bytes(answer[REPORT].reshape(-1)[0]))
            self._take(server, route, report, now)
            self._compare(server, asked, report["before"])
        except (KeyError, ValueError, TypeError) as error:
            raise TritonError(f"The splitter's report can't be read: {type(error).__name__}: {error}.") from None

    def _asked(self, route: Route | None) -> dict[str, Any]:
        """What of a route the configuration and the plan decide."""
        traffic = self._config.traffic
        return {
            "candidate": None if route is None else route.candidate,
            "weight": 0.0 if route is None else route.weight,
            "shadow": 0.0 if route is None else route.shadow,
            "deadline_s": traffic.deadline,
            "compare": traffic.compare,
            "kinds": list(traffic.kinds),
            "contents": traffic.contents,
        }

    def _compare(self, server: str, asked: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Notice a route that somebody else sent: what the splitter followed until now is none of ours."""
        with self._lock:
            link = self._links[server]
            known, link.asked, link.locked = link.asked, {Followed.of(asked)}, False
            # A control plane that has just started does not know what the one before it sent.
            found = None if before is None or not link.heard else Followed.of(before)
            link.heard = True
            if found is None or found in known or found == link.foreign:
                return
            link.foreign = found
        log.warning("%s: %s", self._config.name, foreign(server, found))

    def locked(self, server: str) -> bool:
        """Whether the server's splitter refused a route and was not loaded again since."""
        with self._lock:
            return self._links[server].locked

    def unlock(self, server: str) -> None:
        """The server's splitter was loaded again: it is another process."""
        with self._lock:
            link = self._links[server]
            link.locked, link.heard = False, False

    def announce(self, server: str, request_id: str, to: str) -> None:
        """Tell the server's splitter that the next request of that id is Baton's own, and its way.

        ``to``: ``stable``, or ``candidate`` where that has a share of traffic. Raises as :meth:`exchange`.
        """
        self._control(server, probe={"id": request_id, "to": to})

    def _control(self, server: str, **asked: Any) -> Tensors:
        with self._lock:
            link = self._links[server]
            asked |= {"token": self._files.token(), "boot": link.boot, "after": link.after}
        value = np.array([json.dumps(asked).encode()], dtype=np.object_)
        shaped = value.reshape(1, 1) if self._files.batches() else value
        return self._servers[server].infer(
            self._config.splitter, SPLITTER_VERSION, {CONTROL: shaped}, EXCHANGE_TIMEOUT_S
        )

    def _take(self, server: str, route: Route | None, report: Mapping[str, Any], now: float) -> None:
        counts = report["counts"]
        with self._lock:
            link = self._links[server]
            known = link.boot == report["boot"]
            link.heard &= known
            if not known:
                link.counts.clear()
                link.before = {}
            if counts["requests"] > (link.report["counts"]["requests"] if known else 0):
                self._live_at = now
            link.boot, link.after, link.at, link.sent, link.report = report["boot"], report["next"], now, route, report
            link.counts.append((now, counts["requests"], counts["candidate"]))
            for sample in report["samples"]:
                at, kept = now - sample["age_s"], self._own if sample.get("own") else self._live
                if sample["what"] == "answer":
                    kept.answers.append(_answer(sample, at, link.boot))
                    self._note(kept.answers[-1])
                elif sample["what"] == "pair":
                    kept.pairs.append(_pair(sample, at))

    def _note(self, answer: Answer) -> None:
        """Remember where an id was used first, by the time at which that began: reports come in any order."""
        if not answer.id:
            return
        if len(self._first) >= MOST_IDS:  # the older half goes
            self._first = dict(list(self._first.items())[MOST_IDS // 2 :])
        used, use = hash(answer.id), (answer.began, answer.boot)
        self._first[used] = min(self._first.get(used, use), use)

    def _known(self, answer: Answer) -> Answer:
        """The answer; one to an id that was used before at another splitter counts as such, too."""
        first = self._first.get(hash(answer.id)) if answer.id and not answer.again else None
        return answer if first is None or first[1] == answer.boot else replace(answer, again=True)

    def quiet_for(self, now: float) -> float:
        """Seconds since the last live request was heard of, or since the rollout's evidence began."""
        with self._lock:
            self._live_at = min(self._live_at, now)  # a clock that was set back makes no one wait for it
            return now - self._live_at

    def judge(self, now: float, release: Release, *, shadow_only: bool) -> GateResult:
        """What live traffic says of the candidate so far. Without fresh evidence it holds."""
        answers, pairs = self._recent(self._live, now)
        result = judge.judge_live(
            answers, pairs, release=release, shadow_only=shadow_only, limits=self._limits, looks=self._looks
        )
        patience = max(2 * self._config.traffic.interval, 10.0)
        if result.verdict is Verdict.PASS and now - _last_met(answers, pairs, shadow_only=shadow_only) > patience:
            message = f"No live request reached the candidate in the last {patience:.0f} s."
            return GateResult(Gate.LIVE, Verdict.HOLD, message, evidence=result.evidence)
        return result

    def judge_own(self, now: float, release: Release, *, shadow_only: bool, golden: int) -> tuple[GateResult, int]:
        """What Baton's own requests say of the candidate so far, and how many of them that is judged by.

        Errors and latency need as many as live ones do, whatever is asked. Scores are judged once for each of the
        ``golden`` requests, however often it was asked: the same question again tells nothing new. So a golden set that
        is smaller than the minimum is the minimum.
        """
        answers, pairs = self._recent(self._own, now)
        latest = {pair.id.split("-")[1]: pair for pair in pairs if pair.outcome != "dropped"}
        limits = replace(self._limits, min_pairs=min(self._limits.min_pairs, golden))
        counted = {id(pair) for pair in latest.values()}
        # Of good ones that were asked again since, only the times count.
        again = [id(pair) for pair in pairs if sound(pair) and id(pair) not in counted]
        pairs = [replace(pair, stable=(), candidate=()) if id(pair) in again else pair for pair in pairs]
        result = judge.judge_live(
            answers, pairs, release=release, shadow_only=shadow_only, limits=limits, looks=self._looks,
            traffic="golden requests",
        )  # fmt: skip
        count = len({a.id for a in answers} | {p.id for p in pairs})
        patience = max(2 * self._config.traffic.interval, OWN_PATIENCE_S)
        if result.verdict is Verdict.PASS and now - _last_met(answers, pairs, shadow_only=shadow_only) > patience:
            message = f"No golden request reached the candidate in the last {patience:.0f} s."
            return GateResult(Gate.LIVE, Verdict.HOLD, message, evidence=result.evidence), count
        return result, count

    def failed_lately(self, now: float) -> str | None:
        """The last error of the candidate's with a live request within the window; None where there is none."""
        since = now - self._config.live.window
        with self._lock:
            met: list[Answer | Pair] = [a for a in self._live.answers if a.role == "candidate"]
            failed = [m for m in (*met, *self._live.pairs) if m.outcome in ("failed", "late") and m.at >= since]
        return max(failed, key=lambda m: m.at).error if failed else None

    def _recent(self, evidence: _Evidence, now: float) -> tuple[list[Answer], list[Pair]]:
        """The same stretch of time for both versions: the configured window, or as much more as the minimum needs."""
        with self._lock:
            answers, pairs = list(map(self._known, evidence.answers)), list(evidence.pairs)
        live = self._config.live
        since = now - live.window
        candidate = [a.at for a in answers if a.role == "candidate" and a.outcome in ("ok", "failed", "late")]
        if 0 < sum(at >= since for at in candidate) < live.min_requests:
            since = min(since, *candidate[-live.min_requests :])
        return [a for a in answers if a.at >= since][-MOST_JUDGED:], pairs[-10 * live.min_pairs :]

    def counted(self, now: float) -> Counted:
        """What the splitters of all servers did in this phase."""
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
        return Counted(
            observed=round(100 * answered / requests, 2) if requests else None,
            requests=Requests(*(sum(c[role] for c in counts) for role in ("stable", "candidate"))),
            shadowed=sum(c["shadowed"] for c in counts),
            synthetic=sum(c.get("own", 0) for c in counts),
            breaker="open" if "open" in states else "half_open" if "half_open" in states else "closed",
        )

    def doing(self, now: float) -> tuple[SplitterStatus, ...]:
        """What each server's splitter does now, by its own last word."""
        with self._lock:
            return tuple(shown(name, k.report, now - k.at) for name, k in self._links.items() if k.at is not None)

    def strayed(self, now: float) -> list[str]:
        """Where a splitter does, or did, something else than it was asked for, each in a sentence."""
        told = []
        with self._lock:
            for name, link in self._links.items():
                if link.foreign is not None:
                    told.append(foreign(name, link.foreign))
                if link.locked:
                    told.append(locked(name))
                elif link.sent is not None and link.at is not None:
                    does, _ = now_followed(link.report, now - link.at)
                    asked = Followed.of(self._asked(link.sent))
                    told += [otherwise(name, does, asked)] if does != asked else []
        return told

    def tripped(self) -> bool:
        """Whether some splitter keeps requests from the candidate since it failed too often in a row."""
        with self._lock:
            return any(k.report and k.report["breaker"]["state"] != "closed" for k in self._links.values())


def _last_met(answers: Sequence[Answer], pairs: Sequence[Pair], *, shadow_only: bool) -> float:
    """When a request last reached the candidate, among those that tell in this phase."""
    met = [p.at for p in pairs if p.outcome != "dropped"]
    if not shadow_only:
        met = [a.at for a in answers if a.role == "candidate"]
    return max(met, default=float("-inf"))


def _answer(sample: Mapping[str, Any], at: float, boot: str) -> Answer:
    keys = ("role", "took_ms", "outcome", "error", "id", "top", "mean", "again", "stable_ms", "hurried")
    return Answer(at=at, boot=boot, size=sample.get("bytes", 0), **{k: sample[k] for k in keys if k in sample})


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
        digest=sample.get("digest", ""),
        hurried=sample.get("hurried", False),
    )
