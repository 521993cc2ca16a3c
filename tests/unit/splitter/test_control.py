"""Control requests: who may steer, what is refused, what a report says."""

from __future__ import annotations

import hashlib
import json

import pytest
from tests.unit.splitter.fakes import UNCAPPED, Stage, scored
from tests.unit.splitter.routes import route_of

from traffic_splitter.control import MAX_REQUEST_BYTES, NO_TOKEN, Control
from traffic_splitter.route import Caps, InvalidControl

TOKEN = "sesame"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def ask(stage):
    control = Control(stage.splitter, HASH, UNCAPPED)
    return lambda **asked: json.loads(control.answer(json.dumps({"token": TOKEN} | asked).encode()))


def test_a_report_of_nothing(ask):
    report = ask()
    assert report == report | {
        "stable": 1,
        "route": None,
        "lapses": 0,
        "breaker": {"state": "closed", "opened": 0},
        "deadline_s": None,
        "samples": [],
        "next": 0,
        "lost": 0,
    }
    assert set(report["counts"].values()) == {0}
    assert report["boot"] == ask()["boot"]


def test_a_route_is_in_force_at_once(stage, ask):
    report = ask(route=route_of(weight=100, shadow=25, lease_s=14.2, deadline_s=3))
    assert report["route"] == {
        "candidate": 2,
        "weight": 100.0,
        "shadow": 25.0,
        "contents": False,
        "lease_left_s": 14.2,
    }
    assert report["before"] is None
    assert report["deadline_s"] == 3.0
    assert stage.send().calls == [2]
    stage.clock.now += 15
    report = ask()
    assert (report["route"], report["deadline_s"], report["lapses"]) == (None, None, 1)
    assert report["counts"]["candidate"] == 1


def test_a_report_tells_what_was_followed_until_the_request_came(stage, ask):
    ask(route=route_of(weight=10, contents=True))
    stage.clock.now += 1
    report = ask(route=route_of(weight=20))
    assert report["before"] == {
        "candidate": 2,
        "weight": 10.0,
        "shadow": 0.0,
        "contents": True,
        "lease_left_s": 599.0,
    }
    assert report["route"]["weight"] == 20.0
    report = ask()
    assert report["before"] == report["route"]


def test_more_than_is_configured_is_refused_also_with_the_token(stage):
    control = Control(stage.splitter, HASH, Caps(weight=50.0, shadow=0.0, lease_s=15.0))
    usual = {"token": TOKEN, "route": route_of(weight=50, lease_s=15)}
    control.answer(json.dumps(usual).encode())
    for more in ({"weight": 100}, {"shadow": 1}, {"lease_s": 600}, {"contents": True}):
        with pytest.raises(InvalidControl, match="configured"):
            control.answer(json.dumps(usual | {"route": usual["route"] | more}).encode())
    route = stage.splitter.lease.current()
    assert (route.weight, route.shadow, route.lease_s, route.contents) == (50.0, 0.0, 15.0, False)


def test_a_route_that_is_refused_leaves_the_one_in_force(stage, ask):
    ask(route=route_of(weight=100))
    with pytest.raises(InvalidControl, match=r"route\.weight must be a number from 0 to 100"):
        ask(route=route_of(weight=101))
    assert stage.send().calls == [2]


def test_samples_come_page_by_page_for_one_boot(stage, ask):
    for _ in range(3):
        stage.send()
    first = ask()
    assert [sample["seq"] for sample in first["samples"]] == [1, 2, 3]
    stage.send()
    assert [s["seq"] for s in ask(after=first["next"], boot=first["boot"])["samples"]] == [4]
    assert len(ask(after=first["next"], boot="another process")["samples"]) == 4
    assert len(ask(after=first["next"])["samples"]) == 4


@pytest.mark.parametrize("token", [None, "", "sesam", "sesame ", 5, ["sesame"], "\ud800"])
def test_without_the_token_nothing_is_told_and_nothing_done(stage, token):
    stage.follow(weight=100)
    control = Control(stage.splitter, HASH, UNCAPPED)
    asked = {"token": token, "route": route_of(weight=0)}
    with pytest.raises(InvalidControl, match="the token is missing or wrong"):
        control.answer(json.dumps(asked).encode())
    assert stage.send().calls == [2]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b'"sesame"',
        b"sesame",
        b'{"token": "sesame"',
        b"[" * 60000,
        b'{"token":"sesame","after":NaN}',
    ],
)
def test_what_is_no_object_is_refused_without_echo(stage, raw):
    with pytest.raises(InvalidControl) as refusal:
        Control(stage.splitter, HASH, UNCAPPED).answer(raw)
    assert str(refusal.value) == "one JSON object is expected"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"after": -1}, "after must be"),
        ({"after": "5"}, "after must be"),
        ({"after": True}, "after must be"),
        ({"boot": 5}, "boot must be"),
        ({"rout": {}}, "unknown key 'rout'"),
        ({"route": []}, "route must be an object"),
    ],
)
def test_other_keys_are_checked(ask, asked, why):
    with pytest.raises(InvalidControl, match=why):
        ask(**asked)


def test_a_large_request_is_not_parsed(ask):
    with pytest.raises(InvalidControl, match=f"at most {MAX_REQUEST_BYTES} bytes"):
        ask(boot="x" * MAX_REQUEST_BYTES)


@pytest.mark.parametrize("token", ["", TOKEN, HASH])
def test_without_a_hash_nobody_steers(stage, token):
    """Files that a Baton of before wrote: stable alone answers."""
    control = Control(stage.splitter, NO_TOKEN, Caps())
    with pytest.raises(InvalidControl, match="the token is missing or wrong"):
        control.answer(json.dumps({"token": token}).encode())
    assert stage.send().calls == [1]


def test_the_hash_is_not_the_token(stage):
    with pytest.raises(InvalidControl, match="the token is missing or wrong"):
        Control(stage.splitter, HASH, UNCAPPED).answer(json.dumps({"token": HASH}).encode())


@pytest.mark.parametrize("wrong", [TOKEN, HASH[:-1], HASH.upper(), f"{HASH}0", f"{HASH}\n"])
def test_what_is_no_hash_is_refused_without_echo(stage, wrong):
    with pytest.raises(ValueError, match="token_sha256 must be 64 hexadecimal digits") as refusal:
        Control(stage.splitter, wrong, UNCAPPED)
    assert wrong not in str(refusal.value)


def test_odd_ids_and_scores_leave_the_report_readable(stage, ask):
    stage.follow(weight=100)
    stage.versions[2] = scored(1e30, -1e30)
    for request_id in ('"}', "\ud800", "x" * 10000, "\0"):
        stage.send(request_id)
    ids = [sample["id"] for sample in ask()["samples"]]
    assert ids == ['"}', "\ud800", "x" * 200, "\0"]
