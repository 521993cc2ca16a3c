"""The splitter says which ids were used before: their sender could know where they go."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from tests.unit.splitter.fakes import Stage, failing

from traffic_splitter.control import Control
from traffic_splitter.kinds import digest_of
from traffic_splitter.route import Caps
from traffic_splitter.used_ids import UsedIds


def test_an_id_is_new_once_for_each_salt():
    ids = UsedIds()
    assert [ids.add("1", "a"), ids.add("1", "b"), ids.add("1", "a")] == [False, False, True]
    assert [ids.add("2", "a"), ids.add("2", "a")] == [False, True]


def test_hardly_any_new_id_looks_used():
    ids = UsedIds()
    used = [ids.add("salt", str(number)) for number in range(50_000)]
    assert sum(used) <= 5
    assert all(ids.add("salt", str(number)) for number in range(0, 50_000, 100))


def test_samples_say_whose_id_was_used_before():
    stage = Stage(weight=100)
    for request_id in ("a", "", "a", ""):
        stage.send(request_id)
    assert [sample.get("again", False) for sample in stage.samples()] == [False, False, True, False]


def test_while_the_candidate_has_no_share_an_id_tells_nobody_anything():
    stage = Stage(weight=0)
    stage.send("a")
    stage.follow(weight=100)
    stage.send("a")
    stage.send("a")
    assert [sample.get("again", False) for sample in stage.samples()] == [False, False, True]


def test_an_id_that_stable_answered_was_used_too():
    stage = Stage(weight=0.001)
    stage.send("a")
    stage.follow(weight=100)
    stage.send("a")
    assert [(s["role"], s.get("again", False)) for s in stage.samples()] == [("stable", False), ("candidate", True)]


def test_both_samples_of_a_request_that_the_candidate_failed_are_of_one_use():
    stage = Stage(weight=100)
    stage.versions[2] = failing()
    stage.send("a")
    stable, candidate = stage.samples()
    assert "again" not in stable
    assert "again" not in candidate
    assert candidate["stable_ms"] == stable["took_ms"] == 10.0


def test_a_late_answer_says_what_the_very_same_request_took_stable():
    stage = Stage(weight=100, deadline_s=2)
    stage.send("a", run=False)
    stage.clock.now += 2
    stage.timer.run()
    stage.took_s = 3.0
    stage.stable_pool.run()
    late = next(sample for sample in stage.samples() if sample["role"] == "candidate")
    assert (late["outcome"], late["took_ms"], late["stable_ms"]) == ("late", 2000.0, 3000.0)


def test_what_is_late_and_then_an_error_of_stables_is_the_requests_doing():
    stage = Stage(weight=100, deadline_s=2)
    stage.versions[1] = failing("no such picture")
    stage.send("a", run=False)
    stage.clock.now += 2
    stage.timer.run()
    stage.stable_pool.run()
    late = next(sample for sample in stage.samples() if sample["role"] == "candidate")
    assert late["outcome"] == "client_error"


def test_samples_carry_the_size_of_the_request():
    stage = Stage(weight=100)
    stage.send()
    assert stage.samples()[0]["bytes"] == 100


def test_which_way_a_request_without_an_id_goes_follows_from_no_generator_of_ours():
    splitter = Stage().splitter
    draw: Any = type(splitter)(
        1,
        splitter.tensors,
        stable_pool=splitter._stable_pool,
        candidate_pool=splitter._candidate_pool,
        timer=splitter._timer,
        calls=splitter.calls,
    )._draw
    assert isinstance(draw.__self__, secrets.SystemRandom)


def test_the_very_same_texts_have_one_digest_under_one_salt():
    texts = {"query": [b"red"], "documents": [b"a", b"b"]}
    assert digest_of(texts, "1") == digest_of(dict(reversed(texts.items())), "1") != ""
    assert digest_of(texts, "1") != digest_of(texts, "2")
    assert digest_of(texts, "1") != digest_of(texts | {"documents": [b"ab"]}, "1")
    assert digest_of({}, "1") == ""


def test_the_report_holds_no_salt():
    stage = Stage()
    salt = secrets.token_hex(16)
    stage.follow(weight=50, shadow=100, salt=salt)
    stage.send("a")
    control = Control(stage.splitter, hashlib.sha256(b"token").hexdigest(), Caps())
    report = control.answer(json.dumps({"token": "token"}).encode())
    assert json.loads(report)["samples"]
    assert salt not in report
