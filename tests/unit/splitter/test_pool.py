"""The threads: bounded, patient or not, and not to be lost."""

from __future__ import annotations

import threading
import time

import pytest
from harness.waiting import until

from traffic_splitter.pool import Pool, Timer

SOON_S = 60.0


@pytest.fixture
def errors():
    return []


@pytest.fixture
def pool(errors):
    made = Pool(2, "test", errors.append)
    yield made
    assert made.close(SOON_S)


class Hold:
    """A task that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.done = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(SOON_S)
        self.done.set()


def test_an_offer_is_taken_only_by_a_free_thread(pool):
    first, second, third = Hold(), Hold(), Hold()
    assert pool.free == 2
    assert pool.offer(first)
    assert pool.offer(second)
    assert pool.free == 0
    assert not pool.offer(third)
    first.go.set()
    until(lambda: pool.free == 1, "a thread is free")
    assert pool.offer(third)
    second.go.set()
    third.go.set()
    until(third.done.is_set, "the third")


def test_what_is_submitted_waits_in_line(pool):
    holds = [Hold() for _ in range(5)]
    for hold in holds:
        pool.submit(hold)
    assert holds[0].begun.wait(SOON_S)
    assert holds[1].begun.wait(SOON_S)
    assert not holds[2].begun.is_set()
    for hold in holds:
        hold.go.set()
    until(lambda: all(hold.done.is_set() for hold in holds), "all of them")
    until(lambda: pool.free == 2, "both threads are free")


def test_an_error_costs_no_thread(pool, errors):
    for _ in range(5):
        pool.submit(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    hold = Hold()
    hold.go.set()
    pool.submit(hold)
    until(hold.done.is_set, "the task after the errors")
    until(lambda: pool.free == 2, "both threads are free")
    assert [type(error) for error in errors] == [ZeroDivisionError] * 5


def test_closing_waits_for_what_is_under_way_but_not_for_ever():
    pool = Pool(1, "test", pytest.fail)
    hold = Hold()
    pool.submit(hold)
    assert hold.begun.wait(SOON_S)
    assert not pool.close(0.05)
    hold.go.set()
    assert pool.close(SOON_S)
    assert hold.done.is_set()


def test_the_timer_acts_in_order_of_time(errors):
    timer = Timer(errors.append)
    seen: list[str] = []
    done = threading.Event()
    begin = time.monotonic()
    timer.after(0.2, done.set)
    timer.after(0.1, lambda: seen.append("second"))
    timer.after(0.0, lambda: seen.append("first"))
    timer.after(0.05, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert done.wait(SOON_S)
    assert time.monotonic() - begin >= 0.2
    timer.after(3600, lambda: seen.append("never"))
    timer.close()
    assert seen == ["first", "second"]
    assert len(errors) == 1
