"""The table of states, and what it promises: in whatever order things happen, a request is answered once, and well."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from greenlet import greenlet
from tests.unit.splitter.fakes import FakeRequest, Stage, failing, scored

from traffic_splitter.dispatch import TRANSITIONS, Event, HedgedRequest, State
from traffic_splitter.request import Answer
from traffic_splitter.route import STABLE_ALONE
from traffic_splitter.sample_buffer import SampleBuffer
from traffic_splitter.sample_writer import SampleWriter

BEGINNINGS = (State.CANDIDATE_FIRST, State.STABLE_FIRST, State.ONLY_STABLE)


def reached(state: State) -> set[State]:
    """Every state that can follow."""
    found = {after for (before, _), after in TRANSITIONS.items() if before is state}
    return found.union(*map(reached, found))


def test_every_state_is_reached_and_every_way_ends_with_an_answer():
    assert set().union(BEGINNINGS, *map(reached, BEGINNINGS)) == set(State)
    for state in State:
        # reached() would not return if there were a circle.
        assert (State.ANSWERED in reached(state)) == (state is not State.ANSWERED)


def test_every_event_occurs_and_none_moves_an_answered_request():
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert not [event for state, event in TRANSITIONS if state is State.ANSWERED]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_a_request_moves_as_the_table_says_and_in_no_other_way(state, event):
    stage = Stage()
    hedged = HedgedRequest(FakeRequest(stage), STABLE_ALONE, SampleWriter(SampleBuffer(stage.clock)), 0.0)
    hedged.state = state
    after = TRANSITIONS.get((state, event))
    assert hedged.move(event) is (None if after is None else state)
    assert hedged.state is (after or state)
    assert (hedged.request is None) == (after is State.ANSWERED), "it lets go of an answered request"


# Every order of events: the tasks of both pools are greenlets that stand in a version's call until that is to end.

GOOD_1, GOOD_2, BAD_1, BAD_2 = scored(0.1), scored(0.2), failing("stable's error"), failing("the candidate's error")
CASES = {
    "both can answer": (GOOD_1, GOOD_2, {0.1, 0.2}),
    "stable can": (GOOD_1, BAD_2, {0.1}),
    "the candidate can": (BAD_1, GOOD_2, {0.2, "stable's error"}),
    "neither can": (BAD_1, BAD_2, {"stable's error"}),
}


class Course:
    """One request on a stage, led through some steps; the steps that are possible next."""

    def __init__(self, stable: Answer, candidate: Answer, weight: float, draw: float, steps: tuple[str, ...]) -> None:
        self.stage = Stage(weight=weight, deadline_s=2)
        self.stage.versions = {1: partial(self._in_call, stable), 2: partial(self._in_call, candidate)}
        self.stage.draws = [draw]
        self.pools = {"stable": self.stage.stable_pool, "candidate": self.stage.candidate_pool}
        self.calls: dict[str, greenlet] = {}
        """The call that each version's thread stands in."""
        self.late: set[str] = set()
        self.request = self.stage.send(run=False)
        self.steps = steps
        for step in steps:
            self._take(step)

    def possible(self) -> list[str]:
        waiting = [f"{name} begins" for name, pool in self.pools.items() if pool.tasks and name not in self.calls]
        return [*waiting, *(f"{name} ends" for name in self.calls), *["time passes"] * bool(self.stage.timer.entries)]

    def _in_call(self, answer: Answer, _request: FakeRequest) -> Answer:
        greenlet.getcurrent().parent.switch()
        return answer

    def _take(self, step: str) -> None:
        name, what = step.split()
        if name == "time":
            self.stage.clock.now = max(self.stage.clock.now, min(at for at, _ in self.stage.timer.entries))
            self.stage.timer.run()
            return
        task = greenlet(self.pools[name].tasks.pop(0)) if what == "begins" else self.calls.pop(name)
        task.switch()
        if not task.dead:
            self.calls[name] = task


def courses(*case: Any) -> Iterator[Course]:
    """Every course from the request's arrival until nothing more can happen."""
    open_: list[tuple[str, ...]] = [()]
    while open_:
        course = Course(*case, steps=open_.pop())
        choices = course.possible()
        open_ += [(*course.steps, choice) for choice in choices]
        if not choices:
            yield course


@pytest.mark.parametrize(("stable", "candidate", "answers"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("draw", [0.0, 0.99], ids=["to the candidate", "to stable"])
def test_in_every_order_of_events_a_request_is_answered_once_and_well(stable, candidate, answers, draw):
    seen = set()
    for course in courses(stable, candidate, 50, draw):
        steps, request, counts = course.steps, course.request, course.stage.counts
        assert len(request.replies) == 1, f"{len(request.replies)} answers: {steps}"
        assert len(request.calls) == len(set(request.calls)), f"a version is asked twice: {steps}"
        (answer,) = request.replies
        seen.add(answer.error or round(answer.scores.item(), 3))
        if answer is BAD_1 and candidate is GOOD_2:
            before = steps[: steps.index("candidate ends")] if "candidate ends" in steps else steps
            assert "time passes" in before, f"the candidate has a good answer in time: {steps}"
        assert course.stage.splitter.breaker.enter() is not None
        assert counts["requests"] == counts.get("stable", 0) + counts.get("candidate", 0) == 1, steps
        assert counts.get("sent_to_candidate", 0) == request.calls.count(2)
    assert seen == answers


@pytest.mark.parametrize(("stable", "candidate", "_answers"), CASES.values(), ids=CASES)
def test_a_candidate_without_a_share_answers_nobody(stable, candidate, _answers):
    for course in courses(stable, candidate, 0, 0.0):
        assert (course.request.replies, course.request.calls) == ([stable], [1])


def test_when_both_have_failed_the_client_waits_for_nothing_more():
    """The candidate is late and then fails; stable's error is not held back for an answer that can't come."""
    stage = Stage(weight=100, deadline_s=2)
    stage.versions = {1: BAD_1, 2: BAD_2}
    request = stage.send(run=False)
    attempt = stage.candidate_pool.tasks.pop()
    stage.clock.now += 2
    stage.timer.run()
    attempt()
    stage.run()
    assert request.replies == [BAD_1]


def test_a_silent_stable_that_fails_in_the_end_does_not_bring_its_request_to_the_candidate_twice():
    stage = Stage(weight=50, deadline_s=2)
    stage.versions = {1: BAD_1, 2: BAD_2}
    stage.draws = [0.99]
    request = stage.send(run=False)
    stage.clock.now += 2
    stage.timer.run()
    stage.candidate_pool.run()
    stage.run()
    assert (request.replies, request.calls) == ([BAD_1], [2, 1])
