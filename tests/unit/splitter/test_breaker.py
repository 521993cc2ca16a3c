"""The breaker opens after five failures in a row, tries one request after a rest, and ignores what is long over."""

from __future__ import annotations

import pytest
from tests.unit.splitter.fakes import Clock

from traffic_splitter.breaker import COOLDOWN_S, FAILURES, Breaker


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
    clock.now += COOLDOWN_S - 0.01
    assert breaker.enter() is None
    clock.now += 0.01
    assert breaker.state == "half_open"
    assert breaker.enter() is not None
    assert breaker.enter() is None  # one alone


@pytest.mark.parametrize(("good", "state"), [(True, "closed"), (False, "open"), (None, "half_open")])
def test_the_one_try_decides(good, state):
    clock = Clock()
    breaker = opened(clock)
    clock.now += COOLDOWN_S
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
    clock.now += COOLDOWN_S
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
