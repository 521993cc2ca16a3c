"""Routes are checked whole, leases end by themselves, ids stick to their side."""

from __future__ import annotations

import json
import random

import pytest
from tests.unit.splitter.fakes import TENSORS, UNCAPPED, Clock
from tests.unit.splitter.routes import route_of

from traffic_splitter.route import Caps, InvalidControl, Lease, parse_caps, parse_route, percentile

CAPS = Caps(weight=50.0, shadow=25.0, lease_s=15.0, contents=False)


def parsed(caps=UNCAPPED, **route):
    return parse_route(route_of(**route), stable=1, tensors=TENSORS, caps=caps)


def never() -> float:
    raise AssertionError("a request with an id is no matter of chance")


def test_every_key_arrives():
    route = parsed(weight=5.5, shadow=25, lease_s=14.2, salt="17", deadline_s=3, kinds=["query", "documents"])
    assert (route.candidate, route.weight, route.shadow, route.lease_s) == (2, 5.5, 25.0, 14.2)
    assert (route.salt, route.deadline_s, route.compare, route.contents) == ("17", 3.0, "scores", False)
    assert route.kinds == ("documents", "query")
    assert parsed(candidate=None, compare=None, kinds=[]).candidate is None


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("candidate", [0, -1, 1, 2**63, "2", 2.0, True, [2]]),
        ("weight", [-0.1, 100.1, "5", None, True, [], 1e999, json.loads("NaN")]),
        ("shadow", [-1, 101, "x", None, False]),
        ("lease_s", [0, -3, 3601, None, "9", json.loads("Infinity")]),
        ("deadline_s", [0, 601, None, True]),
        ("salt", [1, None, "x" * 201]),
        ("compare", ["model_version", "", 1, ["scores"], {}]),
        ("kinds", ["query", ["scores"], [1], None, [["query"]]]),
        ("contents", [None, 1, "true"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(key, values):
    for value in values:
        with pytest.raises(InvalidControl, match=rf"route\.{key} must be "):
            parsed(**{key: value})


@pytest.mark.parametrize("key", route_of())
def test_no_key_may_be_missing(key):
    route = route_of()
    del route[key]
    with pytest.raises(InvalidControl, match=f"route.{key} is missing"):
        parse_route(route, stable=1, tensors=TENSORS, caps=UNCAPPED)


def test_what_is_configured_may_be_asked():
    route = parsed(CAPS, weight=50, shadow=25, lease_s=15)
    assert (route.weight, route.shadow, route.lease_s, route.contents) == (50.0, 25.0, 15.0, False)
    assert parsed(UNCAPPED, lease_s=3600, contents=True).contents


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ({"weight": 100}, "route.weight is 100, and this service is configured for at most 50"),
        ({"shadow": 25.1}, "route.shadow is 25.1, and this service is configured for at most 25"),
        ({"lease_s": 3600}, "route.lease_s is 3600, and this service is configured for at most 15"),
        ({"contents": True}, "route.contents must be false: this service is not configured to keep documents"),
    ],
)
def test_more_than_is_configured_is_refused(route, why):
    with pytest.raises(InvalidControl) as refusal:
        parsed(CAPS, **({"lease_s": 15} | route))
    assert str(refusal.value) == why


def test_caps_come_from_the_configuration():
    given = {"max_weight": "50.0", "max_shadow": "25.0", "max_lease_s": "15.0", "contents": "false"}
    assert parse_caps(given) == CAPS
    assert parse_caps(given | {"contents": "true"}).contents
    assert parse_caps({}) == Caps(weight=0.0, shadow=0.0, lease_s=0.0, contents=False)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("max_weight", ["-1", "101", "nan", "inf", "", "x"]),
        ("max_shadow", ["-0.5", "1e3"]),
        ("max_lease_s", ["3601", "1h"]),
        ("contents", ["True", "yes", ""]),
    ],
)
def test_wrong_caps_are_refused_by_name(key, values):
    for value in values:
        with pytest.raises(ValueError, match=f"parameters: {key} must be "):
            parse_caps({key: value})


def test_an_unknown_key_and_no_object_are_refused():
    with pytest.raises(InvalidControl, match="unknown key 'wieght'"):
        parsed(wieght=5)
    for route in (None, [], "x", 5):
        with pytest.raises(InvalidControl, match="must be an object"):
            parse_route(route, stable=1, tensors=TENSORS, caps=UNCAPPED)


def test_an_id_stays_with_the_candidate_as_the_weight_grows():
    ids = [f"request-{number}" for number in range(2000)]
    before: set[str] = set()
    for weight in (0, 1, 5, 20, 50, 99.9, 100):
        route = parsed(weight=weight)
        now = {request_id for request_id in ids if route.picks_candidate(request_id, never)}
        assert before <= now
        # 2000 draws: 5 standard deviations of a binomial share are at most 5.6 points.
        assert abs(100 * len(now) / len(ids) - weight) < 5.6
        before = now
    assert before == set(ids)


def test_another_salt_takes_others():
    ids = [str(number) for number in range(1000)]
    one, two = (
        {request_id for request_id in ids if parsed(salt=salt, weight=50).picks_candidate(request_id, never)}
        for salt in ("1", "2")
    )
    assert 300 < len(one ^ two) < 700  # half, if the two have nothing to do with each other


def test_any_id_has_a_place():
    for request_id in ("", "a" * 10**5, "\ud800", "\0", "日本"):
        assert 0 <= percentile("s", request_id) < 100


def test_without_an_id_chance_decides():
    route, draw = parsed(weight=30), random.Random(1).random
    took = sum(route.picks_candidate("", draw) for _ in range(4000))
    assert abs(took / 4000 - 0.3) < 0.037  # 5 standard deviations
    assert parsed(weight=100).picks_candidate("", lambda: 1 - 2**-53)
    assert not parsed(weight=0).picks_candidate("", lambda: 0.0)
    assert not parsed(weight=100, candidate=None).picks_candidate("", lambda: 0.0)


def test_a_lease_ends_by_itself_and_counts_once():
    clock = Clock()
    lease = Lease(clock)
    assert (lease.current(), lease.left_s(), lease.lapses) == (None, 0.0, 0)
    route = parsed(lease_s=10)
    lease.replace(route)
    clock.now += 9.5
    assert lease.current() is route
    assert lease.left_s() == pytest.approx(0.5)
    clock.now += 0.5
    assert lease.current() is None
    assert lease.current() is None
    assert (lease.left_s(), lease.lapses) == (0.0, 1)


def test_a_renewed_lease_does_not_lapse_and_a_late_one_does():
    clock = Clock()
    lease = Lease(clock)
    for _ in range(5):
        lease.replace(parsed(lease_s=10))
        clock.now += 9
    assert lease.lapses == 0
    clock.now += 2
    lease.replace(parsed(lease_s=10))  # nobody asked while it was over: it lapsed all the same
    assert (lease.current() is not None, lease.lapses) == (True, 1)
