"""The gate ``live``: is the candidate as good as stable on the traffic of now?

Its checks are errors (below), latency (``live_latency.py``) and scores (``paired.py``). One that fails fails the gate;
else one that holds for want of evidence holds it. What is beyond its limit, but not surely so, holds too:
more traffic will tell.

How sure is sure. ``alpha`` is what a whole rollout may spend on being wrong about a candidate that is as good as
stable, or within the limits where those are absolute. Each look gets the same share of it, within a look each of the
three checks, within a check each of its tests and each kind of request (Bonferroni). What an effect has to exceed comes
on top. How often a good version is turned back, and a bad one is not,
``tests/unit/judge/test_judge_live_simulation.py`` simulates.

Errors. Failed and late attempts are the candidate's. An error that stable gives too is the request's, and so is a late
answer where stable took as long for the very same request. An attempt that was refused never reached the candidate; the
failures that opened the breaker count. It fails

- when there are more than ``max_failures``, their share is surely above ``failure_rate`` (exact binomial test), and the
  candidate gives errors surely more often than stable at the same time, where stable gives any. For that all errors
  count: stable is not asked twice, so which of its errors were the request's is not known;
- or at ``max_failures_in_row``, when stable gave no error meanwhile nor for as long before and after, and its own rate
  of errors surely makes no such row. An answer of stable's that took as long as the candidate is waited for counts as
  late, too, so a stall of the whole server is not the candidate's. Where stable did give some, those failures count
  that came one after another and that stable answered when they were tried again, if stable's errors of that time
  surely make no such row: a client that sends stable what fails can't hide a candidate that answers nobody.

A late answer for half of whose time the candidate was busy with requests that clients chose to send there (see
``baton.judge.checks``) is not surely its fault: where it fails by those alone, it holds. Nobody's answer is an error by
that: stable answers what the candidate is late with. An error always counts, since stable could answer that request;
but for one: that the request's own timeout was over, or too short. A client that asks for much and then for
little, in just the time that the idle stable needs, makes the busy candidate fail. Where it fails by those alone, it
holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from baton.domain import Gate, GateResult, Release, Verdict
from baton.evidence import ErrorsCheck, Failures, LiveCheck, LiveEvidence, LiveSamples
from baton.judge.checks import Crowd, hangs, more_often, stretches
from baton.judge.live_latency import judge_live_latency, judge_paired_live_latency
from baton.judge.paired import Compared, judge_scores, sound, worst
from baton.judge.shapes import Answer, LiveLimits, Pair

_CHECKS = 3
_GRAVITY = {Verdict.FAIL: 0, Verdict.HOLD: 1, Verdict.PASS: 2}


def judge_live(
    answers: Sequence[Answer],
    pairs: Sequence[Pair],
    *,
    release: Release,
    shadow_only: bool,
    limits: LiveLimits,
    looks: int,
    traffic: str = "live traffic",
) -> GateResult:
    """Judge a candidate by live traffic: ``answers`` of both versions, ``pairs`` of shadowed requests, of one stretch.

    ``shadow_only`` says that the candidate answers no client yet: then the pairs are all there is of it. ``looks`` is
    how many times at most a rollout asks this question. ``traffic`` says in words whose requests they were.
    ``observed``, ``limit`` and ``message`` are those of the check that decided (when all pass: of the latency);
    ``evidence`` has all of them. Raises ``ValueError`` for looks below 1.
    """
    if looks < 1:
        raise ValueError(f"{looks} looks; at least one is needed")
    alpha = limits.alpha / looks / _CHECKS
    attempts = sorted(_attempts(answers, pairs, limits), key=lambda attempt: attempt.at)
    compared = [Compared.of(pair, limits) for pair in pairs if sound(pair)]
    checks: list[LiveCheck] = [
        _errors(attempts, limits, alpha),
        judge_paired_live_latency(pairs, limits, alpha)
        if shadow_only
        else judge_live_latency(answers, pairs, limits, alpha),
        *judge_scores(answers, pairs, compared, release=release, shadow_only=shadow_only, limits=limits, alpha=alpha),
    ]
    stable, candidate = (sum(attempt.role == role for attempt in attempts) for role in ("stable", "candidate"))
    samples = LiveSamples(stable, candidate, len(compared))
    evidence = LiveEvidence(checks=tuple(checks), samples=samples, worst=worst(compared))
    deciding = min(checks, key=lambda check: _GRAVITY[check.verdict])
    message = deciding.message
    if deciding.verdict is Verdict.PASS:
        deciding = checks[1]
        message = f"as good as stable on {traffic}: {'; '.join(check.message for check in checks)}"
    message = f"{message[0].upper()}{message[1:]}."
    return GateResult(Gate.LIVE, deciding.verdict, message, deciding.observed, deciding.limit, evidence=evidence)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that reached a version, by a client's request or in shadow."""

    at: float
    role: str
    outcome: str
    took_ms: float | None
    error: str
    again: bool = False
    stable_ms: float | None = None
    """What the very same request took stable, which answered it after this."""
    crowded: bool = False
    """It was late, and may have been since clients chose what else the candidate had to do."""
    hurried: bool = False
    """It failed for want of time, of which its client had allowed so little."""

    @property
    def began(self) -> float:
        return self.at - (self.took_ms or 0.0) / 1000.0


def _attempts(answers: Sequence[Answer], pairs: Sequence[Pair], limits: LiveLimits) -> list[_Attempt]:
    crowd = Crowd(answers, limits)

    def attempt(role: str, outcome: str, error: str, its: Answer | Pair, took_ms: float | None) -> _Attempt:
        again = isinstance(its, Answer) and its.again
        if its.long and role == "candidate":
            return _Attempt(its.at, role, "client_error", took_ms, error, again)
        crowded = False
        if role == "candidate" and outcome == "late" and took_ms is not None:
            crowded = crowd.with_(its.began, its.at, itself=again) >= took_ms / 2000.0
        return _Attempt(its.at, role, outcome, took_ms, error, again, its.stable_ms, crowded, its.hurried)

    asked = [attempt(a.role, a.outcome, a.error, a, a.took_ms) for a in answers if a.outcome != "refused"]
    for pair in pairs:
        if pair.outcome == "ok" and pair.stable and not sound(pair):
            error = f"{len(pair.candidate)} scores, not all finite, where stable gave {len(pair.stable)}"
            asked.append(attempt("candidate", "failed", error, pair, pair.candidate_ms))
        elif pair.outcome != "dropped":
            asked.append(attempt("candidate", pair.outcome, pair.error, pair, pair.candidate_ms))
    return asked


def _errors(attempts: Sequence[_Attempt], limits: LiveLimits, alpha: float) -> ErrorsCheck:
    check = _failures(attempts, limits, alpha)
    rest = [attempt for attempt in attempts if not (attempt.crowded or attempt.hurried)]
    if check.verdict is not Verdict.FAIL or len(rest) == len(attempts):
        return check
    if _failures(rest, limits, alpha).verdict is Verdict.FAIL:
        return check
    crowded, hurried = sum(a.crowded for a in attempts), sum(a.hurried for a in attempts)
    on = []
    if crowded:
        on.append(
            f"requests whose ids were used before, and whose senders can choose which version answers: "
            f"{crowded} of the candidate's late answers came while it was busy with them"
        )
    if hurried:
        on.append(
            f"requests with a timeout of their own: the candidate failed {hurried} for want of time, and who allows "
            f"how much can choose when it is too little"
        )
    return hangs(check, "; and on ".join(on))


def _failures(attempts: Sequence[_Attempt], limits: LiveLimits, alpha: float) -> ErrorsCheck:
    mine = [attempt for attempt in attempts if attempt.role == "candidate"]
    every = [attempt for attempt in attempts if attempt.role == "stable"]
    chance = [attempt for attempt in every if not attempt.again]
    theirs = chance if len(chance) >= limits.min_requests else every
    asked = [attempt for attempt in mine if attempt.outcome != "client_error"]
    failed = [attempt for attempt in asked if attempt.outcome != "ok"]
    deadline = min((a.took_ms for a in failed if a.outcome == "late" and a.took_ms is not None), default=math.inf)
    bad = [attempt.outcome != "ok" or (attempt.took_ms or 0.0) >= deadline for attempt in theirs]
    share, stable_share = len(failed) / max(len(asked), 1), sum(bad) / max(len(theirs), 1)
    words = (
        f"the candidate failed {len(failed)} of {len(asked)} requests ({share:.1%}, limit {limits.failure_rate:.1%}), "
        f"stable {sum(bad)} of {len(theirs)}"
    )
    last_error = (failed[-1].error or failed[-1].outcome) if failed else None
    last = f"; its last error: {last_error}" if failed else ""
    least = limits.min_requests

    def check(verdict: Verdict, before: str = "", *, few: bool = False) -> ErrorsCheck:
        return ErrorsCheck(
            verdict=verdict,
            message=f"{before}{words}{last if verdict is not Verdict.PASS else ''}",
            observed=share,
            limit=limits.failure_rate,
            candidate=Failures(len(asked), len(failed), share),
            stable=Failures(len(theirs), sum(bad), stable_share),
            client_errors=len(mine) - len(asked),
            last_error=last_error,
            have=len(asked) if few else None,
            need=least if few else None,
        )

    for row in _rows(asked, limits.max_failures_in_row):
        begin, end = min(attempt.began for attempt in row), row[-1].at
        around = end - begin
        meanwhile = [
            flag
            for flag, its in zip(bad, theirs, strict=True)
            if its.began <= end + around and its.at >= begin - around
        ]
        if not meanwhile or len(asked) * stable_share ** len(row) > alpha:
            continue
        settled = _settled(row)
        likely = len(asked) * (sum(meanwhile) / len(meanwhile)) ** settled
        if not any(meanwhile) or (settled >= limits.max_failures_in_row and likely <= alpha):
            well = (
                f"{len(meanwhile) - sum(meanwhile)} of {len(meanwhile)}" if any(meanwhile) else f"all {len(meanwhile)}"
            )
            message = (
                f"the candidate failed {len(row)} requests in a row, of {len(asked)}, while stable answered "
                f"{well} well{last}"
            )
            limit = limits.max_failures_in_row
            return replace(check(Verdict.FAIL), message=message, observed=len(row), limit=limit, in_row=len(row))
    if len(failed) > limits.max_failures and share > limits.failure_rate:
        sure = scipy.stats.binom.sf(len(failed) - 1, len(asked), limits.failure_rate) <= alpha
        where = stretches(_at(theirs), _at(mine))
        # Stable that gives no errors can't be to blame, however few its answers are.
        if sure and (
            not any(bad) or more_often(np.array(bad), np.array([a.outcome != "ok" for a in mine]), where) <= alpha
        ):
            return check(Verdict.FAIL)
        if share - stable_share > limits.failure_rate:
            return check(Verdict.HOLD, "too early to tell: ")
    if len(asked) < least:
        return check(Verdict.HOLD, f"too little traffic to tell, at least {least} requests are needed: ", few=True)
    return check(Verdict.PASS)


def _settled(row: Sequence[_Attempt]) -> int:
    """Count failures that came one after another, each after stable had answered the very same request."""
    count, since = 0, -math.inf
    for attempt in row:
        if attempt.stable_ms is not None and attempt.began >= since:
            count, since = count + 1, attempt.at + attempt.stable_ms / 1000.0
    return count


def _at(attempts: Sequence[_Attempt]) -> NDArray[np.float64]:
    return np.array([attempt.at for attempt in attempts])


def _rows(asked: Sequence[_Attempt], least: int) -> list[list[_Attempt]]:
    """Return the unbroken rows of ``least`` failures and more."""
    rows: list[list[_Attempt]] = [[]]
    for attempt in asked:
        if attempt.outcome != "ok":
            rows[-1].append(attempt)
        elif rows[-1]:
            rows.append([])
    return [row for row in rows if len(row) >= max(least, 1)]
