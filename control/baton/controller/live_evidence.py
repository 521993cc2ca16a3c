"""What the splitters saw of requests to a candidate, and what the live analysis says of it: the gate ``live``.

It is kept in memory only. After a restart of the control plane it is collected anew, and the rollout holds until there
is enough of it. Samples of Baton's own requests (``baton.controller.probing``) are kept apart from those of clients.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from baton import judge
from baton.config import ServiceConfig
from baton.controller.settings import live_limits
from baton.domain import Gate, GateResult, Release, Verdict
from baton.judge.paired import comparable
from baton.samples import Answer, Pair

OWN_PATIENCE_S = 30.0
"""Baton's own requests come one at a time, and one may take long."""
MOST_SAMPLES = 20_000
MOST_JUDGED = 4000
"""The newest answers that are judged each time: more would change no verdict, and take longer."""
MOST_IDS = 200_000
"""Request ids of which the first use is remembered."""


@dataclass
class _Samples:
    """Of requests of clients, or of Baton's own."""

    answers: deque[Answer] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    pairs: deque[Pair] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))


class LiveEvidenceCollector:
    """Of one service. All methods may be called from any thread; times are seconds since the epoch."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._live, self._own = _Samples(), _Samples()
        self._live_at = float("-inf")
        """When the last live request was reported, or the rollout's evidence began."""
        self._stage: tuple[int, str] | None = None
        """The rollout, and the part of it, that the samples are of."""
        self._first: dict[int, tuple[float, str]] = {}
        """By hash of an id: when it was first used, and which splitter process saw that. Each knows its own alone."""
        traffic = config.traffic
        self._limits = live_limits(config)
        duration = traffic.shadow_for + sum(s.hold + s.over for s in traffic.steps)
        # Holds make a rollout longer: so twice as many analyses as it takes without are planned for.
        self._looks = max(2, round(2 * duration / traffic.interval))

    def begin(self, rollout: int, stage: str, now: float, noise: Callable[[], float | None] = lambda: None) -> bool:
        """Collect for this stage of this rollout, and drop what is of another. True when it begins anew.

        ``noise`` is asked then: how far a version's own scores move between batches.

        Pairs of the same rollout's shadow count on while traffic is split: they compare the same two versions.
        """
        with self._lock:
            if self._stage == (rollout, stage):
                return False
            if self._stage is None or self._stage[0] != rollout:
                self._live.pairs.clear()
                self._own.pairs.clear()
                self._first.clear()
                self._live_at = now
            self._stage = (rollout, stage)
            self._limits = live_limits(self._config, noise())
            self._live.answers.clear()
            self._own.answers.clear()
            return True

    def collects_for(self, rollout: int, stage: str) -> bool:
        """Whether the samples are still of that stage of that rollout."""
        with self._lock:
            return self._stage == (rollout, stage)

    def add(self, samples: Sequence[Mapping[str, Any]], boot: str, now: float, *, live: bool) -> None:
        """Take the samples of one report of the splitter process ``boot``. ``live``: it counted new live requests."""
        with self._lock:
            if live:
                self._live_at = now
            for sample in samples:
                at, kept = now - sample["age_s"], self._own if sample.get("own") else self._live
                if sample["what"] == "answer":
                    kept.answers.append(_answer(sample, at, boot))
                    self._note(kept.answers[-1])
                elif sample["what"] == "pair":
                    kept.pairs.append(_pair(sample, at))

    def _note(self, answer: Answer) -> None:
        """Remember which splitter saw an id first, by when the request began: reports come in any order."""
        if not answer.id:
            return
        if len(self._first) >= MOST_IDS:  # the older half goes
            self._first = dict(list(self._first.items())[MOST_IDS // 2 :])
        used, use = hash(answer.id), (answer.began, answer.boot)
        self._first[used] = min(self._first.get(used, use), use)

    def _known(self, answer: Answer) -> Answer:
        """The answer, marked as a repeated one if another splitter saw its id before."""
        first = self._first.get(hash(answer.id)) if answer.id and not answer.again else None
        return answer if first is None or first[1] == answer.boot else replace(answer, again=True)

    def quiet_for(self, now: float) -> float:
        """Seconds since the last live request was reported, or since the rollout's evidence began."""
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
        if result.verdict is Verdict.PASS and now - _last_reached(answers, pairs, shadow_only=shadow_only) > patience:
            message = f"No live request reached the candidate in the last {patience:.0f} s."
            return GateResult(Gate.LIVE, Verdict.HOLD, message, evidence=result.evidence)
        return result

    def judge_own(self, now: float, release: Release, *, shadow_only: bool, golden: int) -> tuple[GateResult, int]:
        """What Baton's own requests say of the candidate so far, and how many of them that is judged by.

        Errors and latency need as many requests as live traffic does. Scores are judged once for each of the ``golden``
        requests, however often it was sent: the same request again shows nothing new. So with a golden set that is
        smaller than the minimum, its size is the minimum.
        """
        answers, pairs = self._recent(self._own, now)
        latest = {pair.id.split("-")[1]: pair for pair in pairs if pair.outcome != "dropped"}
        limits = replace(self._limits, min_pairs=min(self._limits.min_pairs, golden))
        counted = {id(pair) for pair in latest.values()}
        # Of comparable pairs whose request was sent again since, only the times count.
        again = [id(pair) for pair in pairs if comparable(pair) and id(pair) not in counted]
        pairs = [replace(pair, stable=(), candidate=()) if id(pair) in again else pair for pair in pairs]
        result = judge.judge_live(
            answers, pairs, release=release, shadow_only=shadow_only, limits=limits, looks=self._looks,
            traffic="golden requests",
        )  # fmt: skip
        count = len({a.id for a in answers} | {p.id for p in pairs})
        patience = max(2 * self._config.traffic.interval, OWN_PATIENCE_S)
        if result.verdict is Verdict.PASS and now - _last_reached(answers, pairs, shadow_only=shadow_only) > patience:
            message = f"No golden request reached the candidate in the last {patience:.0f} s."
            return GateResult(Gate.LIVE, Verdict.HOLD, message, evidence=result.evidence), count
        return result, count

    def failed_lately(self, now: float) -> str | None:
        """The candidate's last error on a live request within the window, or None."""
        since = now - self._config.live.window
        with self._lock:
            reached: list[Answer | Pair] = [a for a in self._live.answers if a.role == "candidate"]
            failed = [m for m in (*reached, *self._live.pairs) if m.outcome in ("failed", "late") and m.at >= since]
        return max(failed, key=lambda m: m.at).error if failed else None

    def _recent(self, samples: _Samples, now: float) -> tuple[list[Answer], list[Pair]]:
        """The same time span for both versions: the configured window, or as much more as the minimum needs."""
        with self._lock:
            answers, pairs = list(map(self._known, samples.answers)), list(samples.pairs)
        live = self._config.live
        since = now - live.window
        candidate = [a.at for a in answers if a.role == "candidate" and a.outcome in ("ok", "failed", "late")]
        if 0 < sum(at >= since for at in candidate) < live.min_requests:
            since = min(since, *candidate[-live.min_requests :])
        return [a for a in answers if a.at >= since][-MOST_JUDGED:], pairs[-10 * live.min_pairs :]


def _last_reached(answers: Sequence[Answer], pairs: Sequence[Pair], *, shadow_only: bool) -> float:
    """When the last request that counts in this stage reached the candidate."""
    reached = [p.at for p in pairs if p.outcome != "dropped"]
    if not shadow_only:
        reached = [a.at for a in answers if a.role == "candidate"]
    return max(reached, default=float("-inf"))


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
