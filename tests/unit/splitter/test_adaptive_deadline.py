"""The candidate's time limit: the route's, until stable's answers show that a shorter one is enough."""

from __future__ import annotations

import pytest

from traffic_splitter.adaptive_deadline import ANSWERS_KEPT, MIN_ANSWERS, AdaptiveDeadline


def test_the_route_s_limit_applies_until_enough_answers_are_known():
    deadline = AdaptiveDeadline()
    for _ in range(MIN_ANSWERS - 1):
        deadline.observe(0.3)
    assert deadline.seconds(10) == 10
    deadline.observe(0.3)
    assert deadline.seconds(10) == pytest.approx(1.2)
    assert deadline.seconds(1) == 1


def test_there_is_a_shortest_time_unless_the_route_s_limit_is_shorter():
    deadline = AdaptiveDeadline()
    for _ in range(MIN_ANSWERS):
        deadline.observe(0.001)
    assert deadline.seconds(10) == 0.5
    assert deadline.seconds(0.2) == 0.2


def test_it_follows_the_p95_of_the_latest_answers():
    deadline = AdaptiveDeadline()
    for _ in range(ANSWERS_KEPT):
        deadline.observe(9.0)
    for took in [0.2] * 190 + [5.0] * 10:  # exactly a twentieth is slow: the p95 is still a quick one
        deadline.observe(took)
    assert deadline.seconds(100) == pytest.approx(0.8)
    deadline.observe(5.0)
    assert deadline.seconds(100) == pytest.approx(20)
