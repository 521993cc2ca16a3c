"""The figures of the comparison, computed from answers that are written down by hand."""

from __future__ import annotations

import math

import pytest
from bench.compare.measure import Swing, measured, moments, seconds_without_service, swing, windows
from harness.traffic import Request

OLD, NEW = 1, 2


def asked(start, end, *, rate=10, took=0.02, version=OLD):
    """Requests due at ``rate`` a second from start until end, each answered (or failed) after ``took`` seconds."""
    return [
        Request(start + n / rate, start + n / rate + took, version, "" if version else "refused")
        for n in range(round((end - start) * rate))
    ]


def test_each_second_has_its_own_requests_and_p95():
    found = windows([*asked(100, 101, took=0.02), *asked(101, 102, took=0.5)], 100, 102)
    assert [w.start for w in found] == [100, 101]
    assert [w.due for w in found] == [10, 10]
    assert [w.p95_s for w in found] == pytest.approx([0.02, 0.5])


def test_an_answer_counts_as_service_when_it_came_and_as_latency_when_it_was_due():
    first, second = windows([Request(0.9, 1.4, OLD)], 0, 2)
    assert (first.due, first.answered, first.p95_s) == (1, 0, pytest.approx(0.5))
    assert (second.due, second.answered) == (0, 1)
    assert math.isnan(second.p95_s)


def test_what_lies_outside_and_a_second_that_is_not_whole_are_left_out():
    found = windows(asked(-1, 4), 0, 2.7)
    assert len(found) == 2
    assert sum(w.due for w in found) == 20


def test_windows_begin_where_they_are_told_to():
    assert [w.due for w in windows(asked(0, 1), 0.25, 2.25)] == [7, 0]


def test_p95_is_not_the_slowest_of_many():
    answers = [*asked(0, 1, rate=100, took=0.01)[:-1], Request(0.99, 5.0, OLD)]
    assert windows(answers, 0, 1)[0].p95_s == pytest.approx(0.01)


def test_a_second_in_which_every_request_failed_is_without_service():
    answers = [*asked(0, 2), *asked(2, 5, version=None), *asked(5, 7, version=NEW)]
    assert seconds_without_service(windows(answers, 0, 7)) == 3


def test_a_second_with_one_success_is_not_without_service():
    answers = [*asked(0, 1, version=None), Request(0.5, 0.52, OLD)]
    assert seconds_without_service(windows(answers, 0, 1)) == 0


def test_a_stall_is_without_service_though_every_request_is_answered_at_last():
    stalled = [Request(1 + n / 10, 4.5, OLD) for n in range(30)]
    assert seconds_without_service(windows([*asked(0, 1), *stalled, *asked(4.5, 6)], 0, 6)) == 3


def test_a_second_in_which_nothing_was_asked_is_not_without_service():
    assert seconds_without_service(windows([*asked(0, 1), *asked(3, 4)], 0, 4)) == 0


def test_swing_is_the_middle_and_both_ends_of_the_p95s():
    answers = [*asked(0, 1, took=0.03), *asked(1, 2, took=0.02), *asked(2, 3, took=0.4)]
    assert swing(windows(answers, 0, 3)) == Swing(*(pytest.approx(s) for s in (0.03, 0.02, 0.4)))


def test_swing_passes_over_seconds_without_an_answer():
    answers = [*asked(0, 1, took=0.03), *asked(1, 2, version=None, took=3)]
    assert swing(windows(answers, 0, 2)).highest_s == pytest.approx(0.03)
    nothing = swing(windows(asked(0, 2, version=None), 0, 2))
    assert all(math.isnan(s) for s in (nothing.median_s, nothing.lowest_s, nothing.highest_s))


def test_failures_count_as_requests_that_were_due_but_not_in_the_p95():
    (window,) = windows([*asked(0, 1, took=0.03), *asked(0, 1, version=None, took=9)], 0, 1)
    assert window.due == 20
    assert window.p95_s == pytest.approx(0.03)


MARKS = {"start": 0.0, "command": 5.0, "old": OLD, "new": NEW}


def test_an_update_lasts_until_only_the_new_version_answers():
    answers = [*asked(0, 8), *asked(7, 20, version=NEW, took=0.07)]
    at = moments(answers, **MARKS, returned=6.0, end=20.0)
    assert at.first_new == pytest.approx(7.07)
    assert at.last_old == pytest.approx(7.92)
    assert at.switched == pytest.approx(7.92)
    figures = measured(answers, at, new=NEW, memory_before=1, memory_peak=2)
    assert figures.update_s == pytest.approx(2.92)
    assert figures.first_answer_s == pytest.approx(0.07)


def test_an_outage_ends_with_the_first_new_answer():
    answers = [*asked(0, 5), *asked(5, 9, version=None), *asked(9, 20, version=NEW, took=0.2)]
    figures = measured(
        answers, moments(answers, **MARKS, returned=8.5, end=20.0), new=NEW, memory_before=1, memory_peak=2
    )
    assert figures.update_s == pytest.approx(4.2)
    assert (figures.sent, figures.failed) == (200, 40)
    assert figures.dark_s == 4
    assert figures.before.highest_s == pytest.approx(0.02)
    assert figures.during.highest_s == pytest.approx(0.2)


def test_what_comes_after_the_update_is_not_during_it():
    answers = [*asked(0, 6), *asked(6, 12, version=NEW), *asked(12, 20, version=NEW, took=0.9)]
    at = moments(answers, **MARKS, returned=7.0, end=20.0)
    assert at.calm == 7.0
    assert measured(answers, at, new=NEW, memory_before=1, memory_peak=2).during.highest_s == pytest.approx(0.02)


def test_a_version_that_never_answered_has_no_end():
    answers = asked(0, 20)
    assert moments(answers, **MARKS, returned=6.0, end=20.0).first_new == math.inf
