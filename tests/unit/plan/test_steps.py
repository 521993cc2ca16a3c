"""The way from no traffic to all of it: where a candidate is after so much progress, and where it stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.config import DEFAULT_STEPS
from baton.domain import Step
from baton.plan.steps import LEAST, Position, further, length, position

PAUSE = Step(pause=True)
LINEAR = (Step(20.0, over=10.0), Step(60.0, over=20.0))
PAUSED = (Step(5.0, hold=5.0), PAUSE, Step(50.0, hold=5.0), PAUSE)


@pytest.mark.parametrize(
    ("progress", "weight", "index"),
    [(0, 5, 0), (15, 5, 0), (29.999, 5, 0), (30, 5, 1), (52.5, 16.25, 1), (75, 27.5, 1), (97.5, 38.75, 1),
     (119.999, 50, 1), (120, 100, 2), (10_000, 100, 2)],
)  # fmt: skip
def test_the_default_way(progress, weight, index):
    """5 % for 30 s, then linearly to 50 % at 120 s, then all."""
    where = position(DEFAULT_STEPS, progress, 0)
    assert where.weight == pytest.approx(weight, abs=0.001)
    assert where.index == index
    assert not where.pause


def test_the_default_way_takes_two_minutes():
    assert length(DEFAULT_STEPS) == 120
    assert further(DEFAULT_STEPS, 118.0, 0, 5.0) == 120
    assert further(DEFAULT_STEPS, 30.0, 0, 5.0) == 35
    assert further(DEFAULT_STEPS, 120.0, 0, 5.0) == 120


def test_every_step_is_met_however_long_the_interval():
    assert further(DEFAULT_STEPS, 0.0, 0, 1000.0) == 30
    assert further(DEFAULT_STEPS, 28.0, 0, 5.0) == 30
    assert further(DEFAULT_STEPS, 30.0, 0, 1000.0) == 120


def test_without_steps_all_at_once():
    assert position((), 0.0, 0) == Position(0, 100.0, 0.0)
    assert further((), 0.0, 0, 5.0) == 0.0


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, Position(0, LEAST, 10)), (0.4, Position(0, LEAST, 9.6)), (5, Position(0, 10, 5)), (10, Position(1, 20, 20)),
     (20, Position(1, 40, 10)), (30, Position(2, 100, 0))],
)  # fmt: skip
def test_linear_steps_grow_from_the_weight_before(progress, expected):
    """The first one from the least share that gives evidence, and not from none."""
    assert position(LINEAR, progress, 0) == expected


def test_a_first_step_below_the_least_share_keeps_to_its_own():
    assert position((Step(0.5, over=10.0),), 0.0, 0).weight == 0.5


@pytest.mark.parametrize(
    ("progress", "approvals", "expected"),
    [
        (0, 0, Position(0, 5, 5)),
        (5, 0, Position(1, 5, 0, pause=True)),
        (5, 1, Position(2, 50, 5)),
        (0, 1, Position(0, 5, 5)),
        (9, 1, Position(2, 50, 1)),
        (10, 1, Position(3, 50, 0, pause=True)),
        (10, 2, Position(4, 100, 0)),
        (10, 5, Position(4, 100, 0)),
    ],
)
def test_pauses(progress, approvals, expected):
    assert position(PAUSED, progress, approvals) == expected


@pytest.mark.parametrize(
    ("progress", "approvals", "seconds", "expected"),
    [(0, 0, 3, 3), (0, 0, 5, 5), (3, 0, 5, 5), (5, 0, 5, 5), (5, 1, 3, 8), (3, 1, 5, 5), (8, 1, 5, 10), (10, 2, 5, 10)],
)
def test_progress_stops_at_a_pause(progress, approvals, seconds, expected):
    assert further(PAUSED, progress, approvals, seconds) == expected


def test_a_pause_at_the_very_beginning():
    steps = (PAUSE, Step(10.0, hold=5.0))
    assert position(steps, 0.0, 0) == Position(0, 0.0, 0.0, pause=True)
    assert further(steps, 0.0, 0, 5.0) == 0.0
    assert position(steps, 0.0, 1) == Position(1, 10.0, 5.0)


def test_pauses_in_a_row_want_a_person_each():
    steps = (Step(10.0, hold=5.0), PAUSE, PAUSE, Step(20.0, hold=5.0))
    assert [position(steps, 5.0, n).index for n in range(3)] == [1, 2, 3]
    assert [further(steps, 5.0, n, 60.0) for n in range(3)] == [5, 5, 10]


# Whatever the steps

SECONDS = st.integers(0, 120).map(float)


@st.composite
def ways(draw: st.DrawFn) -> tuple[Step, ...]:
    """Steps as the configuration takes them: weights that never fall, each held or reached linearly, and pauses."""
    weights = sorted(draw(st.lists(st.integers(1, 100), max_size=5)))
    steps: list[Step] = []
    for weight in weights:
        steps += [PAUSE] * draw(st.integers(0, 2))
        seconds = float(draw(st.integers(0, 60)))
        steps.append(Step(float(weight), **{draw(st.sampled_from(["hold", "over"])): seconds}))
    return (*steps, *[PAUSE] * draw(st.integers(0, 1)))


def stop_of(steps: tuple[Step, ...], approvals: int) -> tuple[float, int]:
    """Progress at, and index of, the first pause that nobody has let past; the whole way when there is none."""
    pauses = [i for i, s in enumerate(steps) if s.pause]
    index = pauses[approvals] if approvals < len(pauses) else len(steps)
    return length(steps[:index]), index


@given(ways(), SECONDS, SECONDS, st.integers(0, 4))
def test_the_share_never_falls(steps, progress, more, approvals):
    assert position(steps, progress, approvals).weight <= position(steps, progress + more, approvals).weight
    assert position(steps, progress, approvals).weight <= position(steps, progress, approvals + 1).weight


@given(ways(), SECONDS, SECONDS, st.integers(0, 4))
def test_progress_never_falls_and_never_passes_a_pause(steps, start, seconds, approvals):
    end, index = stop_of(steps, approvals)
    progress = further(steps, 0.0, approvals, start)
    on = further(steps, progress, approvals, seconds)
    assert progress <= on <= min(progress + seconds, end)
    where = position(steps, on, approvals)
    assert where.index <= index
    assert where.pause == (on == end and index < len(steps) and where.index == index)
    if index < len(steps):
        most = max((s.weight for s in steps[:index]), default=0.0)
        assert where.weight <= most, "no more than the steps before the pause gave"
        assert position(steps, start + 1e6, approvals) == Position(index, most, 0.0, pause=True)


@given(ways(), SECONDS, st.integers(0, 4))
def test_what_is_left_leads_to_the_next_step(steps, progress, approvals):
    where = position(steps, progress, approvals)
    assert 0.0 <= where.weight <= 100.0
    assert (where.left > 0) == (not where.pause and where.index < len(steps))
    if where.left > 0:
        step = steps[where.index]
        assert where.left <= step.hold + step.over
        after = position(steps, progress + where.left, approvals)
        assert after.index > where.index, "the step is over then, and not before"
        assert position(steps, progress + 0.999 * where.left, approvals).index == where.index
        assert where.weight <= step.weight <= after.weight


@given(ways(), st.integers(0, 4), st.floats(0.5, 100.0))
def test_the_whole_way_meets_every_step(steps, approvals, interval):
    """However often the live analysis lets it go on, it comes to the same place, and every share was in force."""
    end, index = stop_of(steps, approvals)
    progress, met = 0.0, []
    while progress < end:
        met.append(position(steps, progress, approvals).index)
        progress = further(steps, progress, approvals, interval)
    assert progress == end
    assert position(steps, progress, approvals).index == index
    assert sorted(set(met)) == [i for i, s in enumerate(steps[:index]) if s.hold + s.over]
    assert met == sorted(met)
