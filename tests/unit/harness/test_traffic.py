"""The load generator tells all that became of its requests."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest
from harness.traffic import Client, Reply, Traffic, attempt, questions
from harness.waiting import Failed, until


def client(ask, name="someone"):
    return Client(name, lambda: contextlib.nullcontext(ask))


def test_a_stall_is_seen_by_every_request_that_it_kept_waiting():
    go = threading.Event()

    def ask(number):
        if number == 3:
            go.wait()
        return Reply(1)

    traffic = Traffic([client(ask)], rate=100.0)
    traffic.start()
    until(lambda: len(traffic.answers) == 3, "the first requests")
    stalled = time.time()
    until(lambda: time.time() > stalled + 0.3, "others to be due")
    go.set()
    until(lambda: len(traffic.answers) > 20, "those that were due meanwhile")
    traffic.stop()
    waited = [one for one in traffic.requests if one.due < stalled + 0.2][3:]
    assert len(waited) > 10
    assert min(one.latency_s for one in waited) > 0.05
    due = [one.due for one in traffic.requests]
    assert all(b - a == pytest.approx(0.01, abs=1e-5) for a, b in itertools.pairwise(due)), "on a fixed schedule"


def test_what_was_due_before_the_end_is_asked_and_nothing_after_it():
    entered, go = threading.Event(), threading.Event()

    def ask(number):
        entered.set()
        go.wait()
        return Reply(1)

    traffic = Traffic([client(ask)] * 2, rate=200.0)
    traffic.start()
    entered.wait()
    began = time.time()
    until(lambda: time.time() > began + 0.2, "many to be due")
    threading.Timer(0.1, go.set).start()
    traffic.stop()
    assert max(one.due for one in traffic.requests) < traffic._end
    assert traffic.sent >= 0.2 * 200
    assert len({one.due for one in traffic.requests}) == traffic.sent, "none is asked twice"


def test_a_request_that_is_never_answered_is_a_failure_at_the_end():
    go, entered = threading.Event(), threading.Event()

    def hangs(number):
        entered.set()
        go.wait()
        return Reply(1)

    traffic = Traffic([client(hangs, "a"), client(lambda _number: Reply(2), "b")], patience_s=0.1)
    traffic.start()
    entered.wait()
    until(lambda: traffic.versions[2], "an answer of the other")
    traffic.stop()
    (error,) = traffic.errors
    assert "a: It was not answered 0.1 s after the end" in error
    go.set()
    until(lambda: not any(thread.is_alive() for thread in traffic._threads), "the late answer")
    traffic.stop()
    assert len(traffic.errors) == 1
    assert set(traffic.versions) == {2}, "an answer after the end counts no more"


def test_failures_and_wrong_answers_are_told_and_the_client_goes_on():
    def ask(number):
        if number == 0:
            raise ConnectionError("gone")
        if number == 1:
            return Reply(7, (0.5,), wrong="version 7 does not exist")
        return Reply(1, (0.25,), 3, "1")

    began = time.time()
    with Traffic([client(ask)], pause_s=0.001) as traffic:
        until(lambda: traffic.versions[1] >= 5, "answers")
        assert [one.error for one in traffic.since(began) if one.error] == [one.error for one in traffic.failures]
    lost, wrong = traffic.failures
    assert (lost.version, lost.error) == (None, "ConnectionError: gone")
    assert (wrong.version, wrong.error) == (7, "version 7 does not exist")
    answer = traffic.answers[0]
    assert (answer.scores, answer.question, answer.response_version) == ((0.25,), 3, "1")
    assert traffic.sent == len(traffic.answers) + 2
    assert [one.error for one in traffic.latest] == [""]
    taken = traffic.taken()
    assert len(taken) >= 7
    assert (traffic.sent, traffic.errors) == (0, [])


def test_a_client_that_cannot_connect_is_a_failure():
    def refused():
        raise ConnectionError("refused")

    with Traffic([Client("a", refused)]) as traffic:
        until(lambda: traffic.errors, "it is told")
    assert len(traffic.errors) == 1
    assert "a: ConnectionError: refused" in traffic.errors[0]


def test_one_request_alone():
    assert attempt(Reply, 4).version == 4


def test_questions_are_of_the_kinds_that_were_asked_for():
    asked = questions(text=2, image=1)
    assert len(asked) == 3
    assert ["image" in str(one) for one in asked] == [False, False, True]


def test_what_never_comes_fails_and_tells_what_there_is():
    with pytest.raises(Failed, match=r"Waited 0 s for rain. There is: sun"):
        until(lambda: False, "rain", 0.05, instead=lambda: "sun")
