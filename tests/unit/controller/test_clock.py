from __future__ import annotations

from baton.clock import ForwardClock


def test_a_clock_that_is_set_back_costs_no_time():
    wall = [1000.0]
    clock = ForwardClock(lambda: wall[0])
    assert clock() == 1000.0
    wall[0] = 400.0
    assert clock() == 1000.0
    wall[0] += 5.0
    assert clock() == 1005.0
    wall[0] = 100.0
    assert clock() == 1005.0
    wall[0] += 1.0
    assert clock() == 1006.0


def test_a_clock_that_is_set_forward_is_followed():
    wall = [1000.0]
    clock = ForwardClock(lambda: wall[0])
    assert clock() == 1000.0
    wall[0] = 4600.0
    assert clock() == 4600.0
