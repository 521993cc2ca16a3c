"""The breaker opens after five failures in a row, tries one request after a rest, and ignores what is long over."""

from __future__ import annotations

import pytest
from tests.splitter.fakes import Clock

from traffic_splitter.breaker import FAILURES, REST_S, Breaker
from traffic_splitter.patience import ENOUGH, LAST, Patience


def end(breaker: Breaker, *, good: bool | None) -> None:
    ticket = breaker.enter()
    assert ticket is not None
    breaker.leave(ticket, good=good)


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        end(breaker, good=False)
    assert (breaker.state, breaker.opened) == ("open", 1)
    return breaker


def test_only_failures_in_a_row_open_it():
    breaker = Breaker(Clock())
    for _ in range(10):
        for _ in range(FAILURES - 1):
            end(breaker, good=False)
        end(breaker, good=True)
    assert (breaker.state, breaker.opened) == ("closed", 0)


def test_what_tells_nothing_neither_opens_nor_mends():
    breaker = Breaker(Clock())
    for _ in range(FAILURES - 1):
        end(breaker, good=False)
    for _ in range(20):
        end(breaker, good=None)
    assert breaker.state == "closed"
    end(breaker, good=False)
    assert breaker.state == "open"


def test_open_it_lets_nothing_through_until_it_has_rested():
    clock = Clock()
    breaker = opened(clock)
    assert breaker.enter() is None
    clock.now += REST_S - 0.01
    assert breaker.enter() is None
    clock.now += 0.01
    assert breaker.state == "half_open"
    assert breaker.enter() is not None
    assert breaker.enter() is None  # one alone


@pytest.mark.parametrize(("good", "state"), [(True, "closed"), (False, "open"), (None, "half_open")])
def test_the_one_try_decides(good, state):
    clock = Clock()
    breaker = opened(clock)
    clock.now += REST_S
    end(breaker, good=good)
    assert breaker.state == state
    assert breaker.opened == (2 if good is False else 1)
    assert (breaker.enter() is None) == (state == "open")


def test_attempts_from_before_it_opened_do_not_count():
    clock = Clock()
    breaker = Breaker(clock)
    old = breaker.enter()
    assert old is not None
    for _ in range(FAILURES):
        end(breaker, good=False)
    breaker.leave(old, good=True)
    assert breaker.state == "open"
    clock.now += REST_S
    trial = breaker.enter()
    assert trial is not None
    breaker.leave(old, good=False)
    assert breaker.state == "half_open"
    breaker.leave(trial, good=True)
    breaker.leave(old, good=False)
    assert (breaker.state, breaker.opened) == ("closed", 1)


def test_a_new_candidate_begins_anew():
    breaker = opened(Clock())
    breaker.reset()
    assert breaker.state == "closed"
    for _ in range(FAILURES - 1):
        end(breaker, good=False)
    assert breaker.state == "closed"


def test_patience_is_the_limit_until_enough_is_known():
    patience = Patience()
    for _ in range(ENOUGH - 1):
        patience.learn(0.3)
    assert patience.deadline_s(10) == 10
    patience.learn(0.3)
    assert patience.deadline_s(10) == pytest.approx(1.2)
    assert patience.deadline_s(1) == 1


def test_patience_has_a_floor_that_the_limit_overrides():
    patience = Patience()
    for _ in range(ENOUGH):
        patience.learn(0.001)
    assert patience.deadline_s(10) == 0.5
    assert patience.deadline_s(0.2) == 0.2


def test_patience_looks_at_the_p95_of_the_last_answers():
    patience = Patience()
    for _ in range(LAST):
        patience.learn(9.0)
    for took in [0.2] * 190 + [5.0] * 10:  # exactly a twentieth is slow: the p95 is still a quick one
        patience.learn(took)
    assert patience.deadline_s(100) == pytest.approx(0.8)
    patience.learn(5.0)
    assert patience.deadline_s(100) == pytest.approx(20)
