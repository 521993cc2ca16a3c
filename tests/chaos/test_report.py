"""Who is charged with a failed request, and which promises count as broken."""

from __future__ import annotations

import random

from bench.compare.death import Death
from harness.traffic import Request
from tests.chaos.fault import PHASES
from tests.chaos.faults import FAULTS
from tests.chaos.report import Strike, broken, last_copy, markdown, settle_failures, tables
from tests.chaos.run import plan

KEPT = next(f for f in FAULTS if not f.fails)
ALLOWED = next(f for f in FAULTS if f.fails)


def strike(at: float, fault=KEPT, end: int | None = 1, why: str = "") -> Strike:
    return Strike(fault, "steady", at, at + 1.0, at + 4.0, 1, 2, end, why)


def test_a_request_is_charged_to_the_first_fault_that_it_met():
    strikes = [strike(10.0), strike(20.0)]
    hung = Request(13.0, 21.0, None, "no answer")
    late = Request(22.0, 23.0, None, "no answer")
    alone = Request(16.0, 17.0, None, "no answer")
    assert settle_failures(strikes, [alone, hung, late]) == [alone]
    assert [s.failed for s in strikes] == [[hung], [late]]


def test_the_longest_time_without_an_answer():
    strikes = [strike(10.0)]
    settle_failures(strikes, [Request(9.0, t, 1) for t in (9.5, 10.5, 13.0, 13.5)])
    assert strikes[0].silence_s == 2.5


def test_promises():
    failed = Request(11.0, 12.0, None, "no answer")
    wrong = Request(11.0, 12.0, 7, "version 7 answered, which does not exist")
    for fault, request, said in (
        (KEPT, None, []),
        (KEPT, failed, ["1 requests failed, none may: no answer"]),
        (ALLOWED, failed, []),
        (ALLOWED, wrong, ["version 7 answered, which does not exist"]),
    ):
        one = strike(10.0, fault)
        one.failed = [] if request is None else [request]
        told = broken([one], [])
        assert [t.partition("steady: ")[2] for t in told] == said
    assert "did not come to rest: the splitter" in broken([strike(10.0, why="the splitter")], [])[0]
    assert broken([], [failed]) == ["1 requests failed while nothing was hit: no answer"]


def test_every_fault_is_tried_in_every_phase_before_any_is_tried_again():
    pairs = [(f, p) for f in FAULTS for p in f.phases]
    order = plan(random.Random(3), FAULTS, PHASES)
    first = [next(order) for _ in pairs]
    assert sorted((f.name, p) for f, p in first) == sorted((f.name, p) for f, p in pairs)
    assert first != pairs
    assert {p for _, p in first} == set(PHASES)


def test_the_last_copy():
    (figures,) = last_copy([Death("kill -9", 2.0, 6.0, 1.5)])
    assert figures.rows == [("kill -9", ["2.0", "6.0", "1.5", "4.0"])]
    assert last_copy([]) == []


def test_tables():
    strikes = [strike(10.0), strike(20.0, end=2), strike(30.0, ALLOWED), strike(40.0, why="it hangs")]
    told = {t.title: t.rows for t in tables(strikes)}
    assert told["All of them"] == [("all", ["1", "4", "0", "0.0", "4.0", "4.0", "2", "1", "1"])]
    assert [name for name, _ in told["Requests may fail until it is mended"]] == [ALLOWED.name]
    assert "| steady | 1 | 3 |" in "".join(markdown(t) for t in tables(strikes))
