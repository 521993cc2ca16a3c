"""Clients that choose which version answers them: a good version is not turned back by that, a bad one still is.

Two versions with a single worker each stand in a queue of their own. Clients send requests at random, a fifth of all
are one hostile client's: it sends light requests with new ids until it knows some that come to the candidate, and then
heavy ones, 21 times the work, by those. ``blind`` is a judge that does not know which ids were used before.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tests.support.settings import live_limits

from baton.domain import Release, Verdict
from baton.judge import judge_live
from baton.samples import Answer, Pair

LIMITS = live_limits()
LOOKS = 12
RUNS = 5
SECONDS = 90.0
DEADLINE_S = 0.5
STABLE, CANDIDATE = "stable", "candidate"


class Queues:
    """What a splitter sees of two versions, the candidate of which takes ``slower`` times as long."""

    def __init__(self, rng, *, slower=1.0, weight=20.0, hangs_from=np.inf, fails=0.0):
        self.rng, self.slower, self.weight, self.hangs_from, self.fails = rng, slower, weight, hangs_from, fails
        self.free = {STABLE: 0.0, CANDIDATE: 0.0}
        self.ways: dict[str, str] = {}
        self.answers: list[Answer] = []
        self.fallbacks: list[tuple[float, int, dict]] = []
        self.bad = 0
        self.opens_at = 0.0

    def send(self, at, request_id, work_s, size):
        """Return the version that was to answer."""
        self._fall_back(at)
        again = request_id in self.ways
        way = CANDIDATE if 100 * self.rng.random() < self.weight else STABLE
        way = self.ways.setdefault(request_id, way) if request_id else way
        of = {"id": request_id, "again": again, "size": size}
        if way == STABLE or at < self.opens_at:
            self._ask_stable(at, work_s, of)
            return way
        begin = max(at, self.free[CANDIDATE])
        end = np.inf if at >= self.hangs_from else begin + work_s * self.slower
        self.free[CANDIDATE] = begin if at >= self.hangs_from else end
        failed = self.rng.random() < self.fails
        if end - at <= DEADLINE_S and not failed:
            self.answers.append(Answer(end, CANDIDATE, 1000 * (end - at), "ok", **of))
            self.bad = 0
            return way
        waited = min(end - at, DEADLINE_S)
        outcome = "failed" if failed and end - at <= DEADLINE_S else "late"
        told = {"at": at + waited, "took_ms": 1000 * waited, "outcome": outcome, "work_s": work_s, "of": of}
        heapq.heappush(self.fallbacks, (at + waited, len(self.answers), told))
        return way

    def _fall_back(self, until):
        """What the candidate did not answer, stable does."""
        while self.fallbacks and self.fallbacks[0][0] <= until:
            at, _, told = heapq.heappop(self.fallbacks)
            self.bad += 1
            if self.bad >= 5:  # the breaker; after its rest one more bad answer opens it again
                self.opens_at, self.bad = at + 5.0, 4
            stable_ms = self._ask_stable(at, told["work_s"], told["of"])
            more = {"error": "boom", "stable_ms": stable_ms, **told["of"]}
            self.answers.append(Answer(at, CANDIDATE, told["took_ms"], told["outcome"], **more))

    def _ask_stable(self, at, work_s, of):
        end = self.free[STABLE] = max(at, self.free[STABLE]) + work_s
        self.answers.append(Answer(end, STABLE, 1000 * (end - at), "ok", **of))
        return 1000 * (end - at)


def clients(rng, queues, *, rate=12.0, hostile=0.2, heavy=21.0, heavy_size=400_000, users=0):
    """Requests of ``SECONDS``. ``users``: so many clients, each with one id for all its requests; 0: no ids."""
    known: list[str] = []
    at = number = 0
    while (at := at + rng.exponential(1 / rate)) < SECONDS:
        number += 1
        size = int(rng.choice([500, 1000, 2000, 4000]))
        work_s = 0.008 * (1 + size / 1000) * rng.lognormal(0, 0.3)
        if rng.random() >= hostile:
            queues.send(at, f"user-{rng.integers(users)}" if users else "", work_s, size)
        elif len(known) < 3:
            if queues.send(at, f"probe-{number}", work_s, size) == CANDIDATE:
                known.append(f"probe-{number}")
        else:
            queues.send(at, known[number % len(known)], 0.01 * heavy, heavy_size)
    return queues.answers


def blind(answers):
    return [replace(answer, again=False, stable_ms=None, size=0) for answer in answers]


def rolled(answers, pairs=(), limits=LIMITS):
    """The verdict at the end, or the first that turns the candidate back; and the candidate's answers until then."""
    for look in range(1, LOOKS + 1):
        until = SECONDS * look / LOOKS
        result = judge_live(
            [answer for answer in answers if answer.at <= until],
            [pair for pair in pairs if pair.at <= until],
            release=Release.EQUIVALENT,
            shadow_only=False,
            limits=limits,
            looks=LOOKS,
        )
        if result.verdict is Verdict.FAIL:
            break
    return result, until


def runs(count, *, hostile=0.2, users=0, heavy=21.0, heavy_size=400_000, **candidate):
    told = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        queues = Queues(rng, **candidate)
        told.append(clients(rng, queues, hostile=hostile, users=users, heavy=heavy, heavy_size=heavy_size))
    return told


def verdicts(results):
    return Counter(result.verdict for result, _ in results)


HEAVY = {
    "21 times the work": {},
    "as small as others": {"heavy_size": 1000},
    "5 times the work": {"heavy": 5.0},
    "late on both": {"heavy": 60.0},
}


@pytest.mark.parametrize("which", HEAVY)
def test_a_client_that_sends_heavy_requests_to_the_candidate_alone_turns_no_good_version_back(which):
    of = runs(RUNS, **HEAVY[which])
    before, after = (verdicts(map(rolled, side)) for side in (map(blind, of), of))
    say(f"good version, {which}: turned back {before[Verdict.FAIL]} of {RUNS} before, {after[Verdict.FAIL]} after")
    # What is late with both versions opens the breaker, so that few of them reach the candidate.
    assert before[Verdict.FAIL] >= (1 if which == "late on both" else RUNS - 1)
    assert after[Verdict.FAIL] == 0


def hangs_on(result):
    """What the check depends on that decided."""
    return next(check.hangs_on for check in result.evidence.checks if check.hangs_on)


def test_it_says_what_the_verdict_hangs_on():
    result, _ = rolled(runs(1)[0])
    assert result.verdict is Verdict.HOLD
    assert hangs_on(result)


def say(what):
    """Shown by ``pytest -s``."""
    sys.stdout.write(f"\n{what}\n")


def told(what, before, after):
    """Print how much later the candidate was turned back than by the judge that is blind, as a ratio."""
    times, answers = (
        [np.mean([of(each) for each in side]) for side in (before, after)]
        for of in (lambda each: each[1], lambda each: each[0].evidence.samples.candidate)
    )
    say(
        f"{what}: turned back {verdicts(before)[Verdict.FAIL]} of {len(before)} before, "
        f"{verdicts(after)[Verdict.FAIL]} after; {answers[1]:.0f} answers of the candidate "
        f"({answers[1] / answers[0]:.2f} times as many), {times[1]:.0f} s ({times[1] / times[0]:.2f} times as long)"
    )
    return times[1] / times[0]


BAD = {
    "1.5 times as slow, limit 1.2": ({"slower": 1.5}, replace(LIMITS, latency_limit=1.2)),
    "twice as slow": ({"slower": 2.0}, LIMITS),
    "fails 3 in 10": ({"fails": 0.3}, LIMITS),
    "hangs": ({"hangs_from": 10.0}, LIMITS),
}


@pytest.mark.parametrize(
    ("bad", "hostile", "users", "longer"),
    [
        ("1.5 times as slow, limit 1.2", 0.0, 0, 1.0),
        ("twice as slow", 0.0, 0, 1.0),
        ("fails 3 in 10", 0.0, 0, 1.0),
        ("hangs", 0.0, 0, 1.0),
        ("twice as slow", 0.0, 400, 2.0),  # only the first request of each id tells
        ("fails 3 in 10", 0.0, 10, 1.0),
        ("hangs", 0.0, 10, 1.0),
        ("fails 3 in 10", 0.2, 0, 1.2),
        ("hangs", 0.2, 0, 3.0),  # the first of them may be the hostile client's doing
        ("hangs", 0.2, 10, 4.0),
    ],
)
def test_a_bad_version_is_turned_back_and_hardly_later_than_before(bad, hostile, users, longer):
    candidate, limits = BAD[bad]
    of = runs(RUNS, hostile=hostile, users=users, **candidate)
    before, after = ([rolled(each, limits=limits) for each in which] for which in (map(blind, of), of))
    ratio = told(f"{bad}, {'a hostile client' if hostile else 'honest clients'}, {users} ids", before, after)
    assert ratio <= longer + 1e-9
    assert verdicts(after)[Verdict.FAIL] >= verdicts(before)[Verdict.FAIL] >= 1


def shadows(slower):
    """Five requests a second that both versions answered."""
    rng = np.random.default_rng(1)
    times = 20 * rng.lognormal(0, 0.5, int(5 * SECONDS))
    return [
        Pair(i / 5, "", "text", ms, ms * slower * rng.lognormal(0, 0.1), "ok", digest=str(i))
        for i, ms in enumerate(times.tolist())
    ]


def test_where_ten_ids_are_all_there_is_a_slow_version_holds_or_is_turned_back_by_shadowed_requests():
    of = runs(RUNS, hostile=0.0, users=10, slower=2.0)
    assert Verdict.FAIL not in verdicts(map(rolled, of))
    slow = [told for told in of if rolled(blind(told))[0].verdict is Verdict.FAIL]
    assert slow
    assert {rolled(told)[0].verdict for told in slow} == {Verdict.HOLD}
    assert {rolled(told, shadows(2.0))[0].verdict for told in slow} == {Verdict.FAIL}
    assert {rolled(told, shadows(1.0))[0].verdict for told in slow} == {Verdict.HOLD}


def test_ten_ids_are_no_reason_to_wait_for_ever():
    of = runs(RUNS, hostile=0.0, users=10)
    found = verdicts(map(rolled, of))
    assert Verdict.FAIL not in found
    assert found[Verdict.PASS] >= verdicts(map(rolled, map(blind, of)))[Verdict.PASS] >= 1


def many(role, count, *, size=1000, took_ms=10.0, start=0.0, **more):
    return [Answer(start + i / 10, role, took_ms * (1 + i % 7 / 10), "ok", size=size, **more) for i in range(count)]


def one_size():
    """One answer in eleven is to a large request, and the candidate is slow with those alone."""
    large = [many(role, 30, size=70_000, took_ms=ms, start=0.03) for role, ms in ((STABLE, 10.0), (CANDIDATE, 90.0))]
    answers = [*many(STABLE, 300), *many(CANDIDATE, 300), *large[0], *large[1]]
    return sorted(answers, key=lambda answer: answer.at)


def test_slow_answers_to_requests_of_one_size_alone_hold_and_say_so():
    one = judge(one_size())
    assert one.verdict is Verdict.HOLD
    assert hangs_on(one).startswith("requests of 65536 to 131071 bytes (30 of 30 ")
    spread = [replace(a, size=1000 << i % 5) for i, a in enumerate(one_size())]
    assert judge(spread).verdict is Verdict.FAIL


def test_a_client_that_asks_the_candidate_for_other_scores_turns_no_version_back():
    def scored(role, top, **more):
        return [replace(a, top=top + i % 10 / 100, mean=top / 2) for i, a in enumerate(many(role, 200, **more))]

    of_all = [*scored(STABLE, 0.8), *scored(CANDIDATE, 0.8)]
    low = scored(CANDIDATE, 0.1, id="known", again=True)
    assert judge(blind([*of_all, *low])).verdict is Verdict.FAIL
    assert judge([*of_all, *low]).verdict is Verdict.PASS
    # With ids used before alone: no proof of either.
    told = judge([replace(a, again=True) for a in (*of_all, *low)])
    assert told.verdict is Verdict.HOLD
    assert hangs_on(told)


def pairs(count, *, wrong=False, digest=""):
    """Shadowed requests; ``wrong``: the candidate ranks them upside down."""
    rng = np.random.default_rng(2)
    told = []
    for i in range(count):
        scores = rng.random(4)
        others = 1 - scores if wrong else scores
        both = tuple(scores.tolist()), tuple(others.tolist())
        told.append(Pair(i / 10, "", "text", 10.0, 10.0, "ok", *both, digest=digest or f"{wrong}-{i}"))
    return told


def one_request(times=200):
    """One that the candidate is wrong about, sent again and again."""
    return [*pairs(60), *pairs(times, wrong=True, digest="one")]


def test_one_request_that_is_sent_again_and_again_decides_nothing():
    limits = replace(LIMITS, drift_limit=0.2)

    def verdict(of):
        return judge_live((), of, release=Release.RETRAINED, shadow_only=True, limits=limits, looks=LOOKS)

    result = verdict(one_request())
    assert result.verdict is Verdict.HOLD
    assert "200 of 260 times" in hangs_on(result)
    # As many requests that differ are no single client's word, and neither is one that is all there is.
    assert verdict([*pairs(60), *pairs(200, wrong=True)]).verdict is Verdict.FAIL
    assert verdict(pairs(200, wrong=True, digest="one")).verdict is Verdict.FAIL


def test_what_is_late_with_stable_as_well_is_the_requests_doing():
    lates = [Answer(7.0 + i, CANDIDATE, 500.0, "late", "no answer within 0.5 s", stable_ms=3000.0) for i in range(4)]
    of_all = [*many(STABLE, 200), *many(CANDIDATE, 50)]
    assert judge(blind([*of_all, *lates])).verdict is Verdict.FAIL
    result = judge([*of_all, *lates])
    assert result.verdict is Verdict.PASS
    assert result.evidence.checks[0].client_errors == 4
    assert judge([*of_all, *(replace(late, stable_ms=20.0) for late in lates)]).verdict is Verdict.FAIL


def crowded():
    """The candidate is late while it works on heavy requests that a client sent to it alone, one after the other."""
    heavy = [Answer(6.5 + i, CANDIDATE, 500.0, "late", id="known", again=True, stable_ms=990.0) for i in range(4)]
    lates = [Answer(6.8 + i / 2, CANDIDATE, 500.0, "late", "no answer", stable_ms=9.0) for i in range(5)]
    return sorted([*many(STABLE, 200), *many(CANDIDATE, 50), *heavy, *lates], key=lambda answer: answer.at)


def test_what_is_late_while_a_client_keeps_the_candidate_busy_holds():
    result = judge(crowded())
    assert result.verdict is Verdict.HOLD
    assert "5 of the candidate's late answers" in hangs_on(result)
    quiet = [replace(answer, again=False) for answer in crowded()]
    assert judge(quiet).verdict is Verdict.FAIL


def test_a_hung_candidate_is_not_excused_by_light_requests_that_hang_as_well():
    hung = [
        Answer(7.0 + i / 5, CANDIDATE, 500.0, "late", "no answer", id=f"user-{i % 9}", again=True, stable_ms=9.0)
        for i in range(12)
    ]
    assert judge([*many(STABLE, 200), *many(CANDIDATE, 50), *hung]).verdict is Verdict.FAIL


def test_an_error_counts_whoever_chose_the_way_of_its_request():
    errors = [Answer(7.0 + i, CANDIDATE, 5.0, "failed", "boom", again=True, stable_ms=9.0) for i in range(3)]
    assert judge([*many(STABLE, 200), *many(CANDIDATE, 50), *errors]).verdict is Verdict.FAIL


def hurried():
    """A client allows the candidate less time than it needs, for which stable's was enough."""
    text = "deadline: the request's timeout of 0.2 s is over"
    errors = [Answer(6.5 + i / 4, CANDIDATE, 5.0, "failed", text, stable_ms=9.0, hurried=True) for i in range(9)]
    return [*many(STABLE, 200), *many(CANDIDATE, 50), *errors]


def test_what_fails_for_want_of_the_time_that_a_client_chose_holds():
    result = judge(hurried())
    assert result.verdict is Verdict.HOLD
    assert "9 of the candidate's failures" in hangs_on(result)
    assert judge([replace(answer, hurried=False) for answer in hurried()]).verdict is Verdict.FAIL
    pairs_ = [
        Pair(
            7.0 + i / 9,
            "",
            "",
            9.0,
            9.0,
            *(("failed", (), (), "x") if i % 2 else ("ok", (0.5,), (0.5,))),
            hurried=bool(i % 2),
        )
        for i in range(60)
    ]
    shadow = {"release": Release.EQUIVALENT, "shadow_only": True, "limits": LIMITS, "looks": LOOKS}
    assert judge_live((), pairs_, **shadow).verdict is Verdict.HOLD
    assert judge_live((), [replace(pair, hurried=False) for pair in pairs_], **shadow).verdict is Verdict.FAIL
    # Other errors count all the same.
    errors = [Answer(7.0 + i, CANDIDATE, 5.0, "failed", "boom", stable_ms=9.0) for i in range(3)]
    assert judge([*hurried(), *errors]).verdict is Verdict.FAIL


def judge(answers):
    ordered = sorted(answers, key=lambda answer: answer.at)
    return judge_live(ordered, (), release=Release.EQUIVALENT, shadow_only=False, limits=LIMITS, looks=LOOKS)
