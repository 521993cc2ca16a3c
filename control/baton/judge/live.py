"""The gate ``live``: is the candidate as good as stable on live traffic?

Its checks are errors (below), latency (``live_latency.py``) and scores (``paired.py``, ``distributions.py``). One that
fails fails the gate; else one that holds for want of evidence holds it. What is beyond its limit, but not surely so,
holds too: more traffic will tell.

**How sure is "surely".** ``ALPHA`` is the chance, for a whole rollout, of being wrong about a candidate that is as good
as stable, or within the limits where those are absolute. It is shared out equally (Bonferroni): over the looks at the
traffic, within a look over the three checks, within a check over its tests and kinds of request. The least effect that
matters comes on top. ``tests/unit/judge/test_judge_live_simulation.py`` simulates how often a good version is turned
back, and a bad one is not.

**Errors.** Failed and late attempts are the candidate's. An error that stable gives too is the request's, and so is a
late answer that took stable as long. An attempt that was refused never reached the candidate; the failures that opened
the breaker count. The check fails

- when there are more than ``max_failures``, their share is surely above ``failure_rate`` (exact binomial test), and the
  candidate gives errors surely more often than stable at the same time, where stable gives any. All of stable's errors
  count then: stable is not asked twice, so nobody knows which of them were the request's;
- or at ``max_failures_in_row``, when stable gave no error meanwhile nor for as long before and after, and its own rate
  of errors surely makes no such row. An answer of stable's that took as long as the candidate is waited for counts as
  late, so a stall of the whole server is not the candidate's. Where stable did give errors, only those failures count
  that came one after another and that stable then answered, if stable's errors of that time surely make no such row: a
  client that sends stable what fails can't hide a candidate that answers nobody.

A late answer is not surely the candidate's fault where it was busy for half of that time with repeated ids (see
``baton.judge.checks``). Stable answers what the candidate is late with, so clients get no error by that. Nor is it the
candidate's fault when the request's own timeout ended or was too short: a client can choose requests and timeouts so
that a busy candidate fails where an idle stable does not. Where the check fails only by such answers, it holds. Every
other error counts, since stable could answer that request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import scipy
from numpy.typing import NDArray

from baton.domain import WORST_FIRST, Gate, GateResult, Release, Verdict
from baton.evidence import ErrorsCheck, Failures, LiveCheck, LiveEvidence, LiveSamples
from baton.judge.checks import REPEATED_IDS, RepeatedIdLoad, hold_for_source, p_more_often, time_slices
from baton.judge.limits import LiveLimits
from baton.judge.live_latency import judge_live_latency, judge_paired_live_latency
from baton.judge.paired import Compared, comparable, judge_scores, worst
from baton.samples import Answer, Pair

ALPHA = 0.01
"""The chance that a candidate within its limits is turned back by bad luck, in the whole rollout."""
_CHECKS = 3


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
    """Judge a candidate by the traffic of one phase: ``answers`` of both versions, ``pairs`` of mirrored requests.

    ``shadow_only``: the candidate answers no client yet, so the pairs are all there is. ``looks`` is how many times at
    most a rollout asks this question. ``traffic`` says in words whose requests they were. ``observed``, ``limit`` and
    ``message`` are those of the check that decided (when all pass: of the latency); ``evidence`` has all checks. Raises
    ``ValueError`` for looks below 1.
    """
    if looks < 1:
        raise ValueError(f"{looks} looks; at least one is needed")
    alpha = ALPHA / looks / _CHECKS
    attempts = sorted(_attempts(answers, pairs, limits), key=lambda attempt: attempt.at)
    compared = [Compared.of(pair, limits) for pair in pairs if comparable(pair)]
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
    deciding = min(checks, key=lambda check: WORST_FIRST.index(check.verdict))
    message = deciding.message
    if deciding.verdict is Verdict.PASS:
        deciding = checks[1]
        message = f"the candidate is as good as stable on {traffic}: {'; '.join(check.message for check in checks)}"
    message = f"{message[0].upper()}{message[1:]}."
    return GateResult(Gate.LIVE, deciding.verdict, message, deciding.observed, deciding.limit, evidence=evidence)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that reached a version, by a client's request or a mirrored one."""

    at: float
    role: str
    outcome: str
    took_ms: float | None
    error: str
    again: bool = False
    stable_ms: float | None = None
    """What the same request took stable, which answered it after this."""
    crowded: bool = False
    """It was late, perhaps because of what clients chose to send the candidate."""
    hurried: bool = False
    """It failed because its client allowed so little time."""

    @property
    def began(self) -> float:
        return self.at - (self.took_ms or 0.0) / 1000.0


def _attempts(answers: Sequence[Answer], pairs: Sequence[Pair], limits: LiveLimits) -> list[_Attempt]:
    load = RepeatedIdLoad(answers, limits)

    def attempt(role: str, outcome: str, error: str, its: Answer | Pair, took_ms: float | None) -> _Attempt:
        again = isinstance(its, Answer) and its.again
        if its.long and role == "candidate":
            return _Attempt(its.at, role, "client_error", took_ms, error, again)
        crowded = False
        if role == "candidate" and outcome == "late" and took_ms is not None:
            crowded = load.seconds(its.began, its.at, itself=again) >= took_ms / 2000.0
        return _Attempt(its.at, role, outcome, took_ms, error, again, its.stable_ms, crowded, its.hurried)

    asked = [attempt(a.role, a.outcome, a.error, a, a.took_ms) for a in answers if a.outcome != "refused"]
    for pair in pairs:
        if pair.outcome == "ok" and pair.stable and not comparable(pair):
            error = f"{len(pair.candidate)} scores, too few, too many or not finite; stable gave {len(pair.stable)}"
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
    sources = []
    if crowded:
        sources.append(f"{REPEATED_IDS} ({crowded} of the candidate's late answers came while it was busy with them)")
    if hurried:
        sources.append(
            f"requests with a timeout of their own, which their senders choose ({hurried} of the candidate's failures "
            f"ran out of that time)"
        )
    return hold_for_source(check, "; and by ".join(sources))


def _failures(attempts: Sequence[_Attempt], limits: LiveLimits, alpha: float) -> ErrorsCheck:
    candidates = [attempt for attempt in attempts if attempt.role == "candidate"]
    every = [attempt for attempt in attempts if attempt.role == "stable"]
    routed = [attempt for attempt in every if not attempt.again]
    stables = routed if len(routed) >= limits.min_requests else every
    asked = [attempt for attempt in candidates if attempt.outcome != "client_error"]
    failed = [attempt for attempt in asked if attempt.outcome != "ok"]
    deadline = min((a.took_ms for a in failed if a.outcome == "late" and a.took_ms is not None), default=math.inf)
    bad = [attempt.outcome != "ok" or (attempt.took_ms or 0.0) >= deadline for attempt in stables]
    share, stable_share = len(failed) / max(len(asked), 1), sum(bad) / max(len(stables), 1)
    words = (
        f"the candidate failed {len(failed)} of {len(asked)} requests ({share:.1%}, limit {limits.failure_rate:.1%}), "
        f"stable failed {sum(bad)} of {len(stables)}"
    )
    last_error = (failed[-1].error or failed[-1].outcome) if failed else None
    last = f"; its last error: {last_error}" if failed else ""

    def check(verdict: Verdict, before: str = "", *, few: bool = False) -> ErrorsCheck:
        return ErrorsCheck(
            verdict=verdict,
            message=f"{before}{words}{last if verdict is not Verdict.PASS else ''}",
            observed=share,
            limit=limits.failure_rate,
            candidate=Failures(len(asked), len(failed), share),
            stable=Failures(len(stables), sum(bad), stable_share),
            client_errors=len(candidates) - len(asked),
            last_error=last_error,
            have=len(asked) if few else None,
            need=limits.min_requests if few else None,
        )

    for row in _failure_rows(asked, limits.max_failures_in_row):
        begin, end = min(attempt.began for attempt in row), row[-1].at
        around = end - begin
        both = zip(bad, stables, strict=True)
        meanwhile = [flag for flag, its in both if its.began <= end + around and its.at >= begin - around]
        if not meanwhile or len(asked) * stable_share ** len(row) > alpha:
            continue
        answered = _answered_by_stable(row)
        likely = len(asked) * (sum(meanwhile) / len(meanwhile)) ** answered
        if not any(meanwhile) or (answered >= limits.max_failures_in_row and likely <= alpha):
            well, of = len(meanwhile) - sum(meanwhile), len(meanwhile)
            told = f"{well} of {of}" if well < of else f"all {of}"
            message = (
                f"the candidate failed {len(row)} consecutive requests of {len(asked)}, while stable answered {told} "
                f"correctly{last}"
            )
            limit = limits.max_failures_in_row
            return replace(check(Verdict.FAIL), message=message, observed=len(row), limit=limit, in_row=len(row))
    if len(failed) > limits.max_failures and share > limits.failure_rate:
        sure = scipy.stats.binom.sf(len(failed) - 1, len(asked), limits.failure_rate) <= alpha
        errors, where = np.array([a.outcome != "ok" for a in candidates]), time_slices(_at(stables), _at(candidates))
        # Stable that gives no errors can't be to blame, however few its answers are.
        if sure and (not any(bad) or p_more_often(np.array(bad), errors, where) <= alpha):
            return check(Verdict.FAIL)
        if share - stable_share > limits.failure_rate:
            return check(Verdict.HOLD, "more traffic is needed to decide: ")
    if len(asked) < limits.min_requests:
        needed = f"too few requests to judge errors ({len(asked)} of {limits.min_requests}): "
        return check(Verdict.HOLD, needed, few=True)
    return check(Verdict.PASS)


def _answered_by_stable(row: Sequence[_Attempt]) -> int:
    """Count failures that came one after another, each after stable had answered the request of the one before."""
    count, since = 0, -math.inf
    for attempt in row:
        if attempt.stable_ms is not None and attempt.began >= since:
            count, since = count + 1, attempt.at + attempt.stable_ms / 1000.0
    return count


def _at(attempts: Sequence[_Attempt]) -> NDArray[np.float64]:
    return np.array([attempt.at for attempt in attempts])


def _failure_rows(asked: Sequence[_Attempt], least: int) -> list[list[_Attempt]]:
    """Return the unbroken rows of ``least`` failures and more."""
    rows = [list(row) for failed, row in groupby(asked, key=lambda attempt: attempt.outcome != "ok") if failed]
    return [row for row in rows if len(row) >= max(least, 1)]
