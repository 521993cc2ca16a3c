import pytest
from tests.support.settings import judge_latency, judge_warmup

from baton.domain import Verdict
from baton.errors import TimedOut, TritonError, Unreachable
from baton.probe import Cancelled, measure_latency, measure_warmup

REQUESTS = [{"n": i} for i in range(4)]


class World:
    """A clock that moves only while an engine answers: version 1 in 10 ms a step of size, others by ``ratio``."""

    def __init__(self, ratio=1.0, cold=0, fails=None):
        self.now, self.asked, self.ratio, self.cold, self.fails = 100.0, [], ratio, cold, fails or {}

    def clock(self):
        return self.now

    def infer(self, version, inputs, timeout_s):
        self.asked.append((version, inputs["n"]))
        count = sum(asked == version for asked, _ in self.asked)
        if version in self.fails:
            after, error = self.fails[version]
            if count > after:
                raise error
        self.now += 0.01 * (1 + inputs["n"]) * (self.ratio if version != 1 else 1) * (10 if count <= self.cold else 1)
        return {}

    def latency(self, requests=REQUESTS, **more):
        limits = {"min_samples": 200, "max_samples": 2000, "budget_s": 120.0, "timeout_s": 30.0}
        more = {"decide": self.enough, "cancelled": lambda: False, **limits, **more}
        return measure_latency(self.infer, 1, 2, requests, clock=self.clock, **more)

    def warmup(self, requests=REQUESTS, **more):
        more = {"decide": lambda s: judge_warmup(s).verdict is not Verdict.RUNNING, **more}
        limits = {"warm_requests": 16, "timeout_s": 30.0, "cancelled": lambda: False}
        return measure_warmup(self.infer, 2, requests, clock=self.clock, **limits | more)

    @staticmethod
    def enough(samples):
        return judge_latency(samples).verdict is not Verdict.RUNNING


def test_in_turn_and_each_as_often_first():
    world = World()
    samples = world.latency(decide=lambda _: False, min_samples=16, max_samples=16)
    assert samples.complete
    assert samples.requests == (0, 1, 2, 3, 0, 1, 2, 3)
    timed = [version for version, _ in world.asked[len(REQUESTS) * 2 :]]
    blocks = ["".join(map(str, timed[i : i + 4])) for i in range(0, len(timed), 4)]
    assert blocks == ["1221", "2112", "1221", "2112", "2112", "1221", "2112", "1221"]
    assert len(samples.stable) == len(samples.candidate) == 16
    assert samples.stable[2:4] == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, Verdict.PASS), (1.5, Verdict.FAIL)])
def test_it_ends_as_soon_as_the_judge_knows(ratio, verdict):
    samples = World(ratio).latency(budget_s=1e6)
    assert not samples.complete
    assert len(samples.candidate) == 200
    assert judge_latency(samples).verdict is verdict


def test_what_was_not_enough_is_added_to():
    first = World().latency(decide=lambda _: False, min_samples=16, max_samples=16)
    world, looks = World(1.5), []

    def look(samples):
        looks.append(len(samples.stable))
        return False

    second = world.latency(decide=look, min_samples=16, max_samples=24, before=first)
    assert second.complete
    assert len(second.stable) == len(second.candidate) == 2 * len(second.requests) == 16 + 24
    assert (second.stable[:16], second.candidate[:16], second.requests[:8]) == (
        first.stable, first.candidate, first.requests,
    )  # fmt: skip
    assert second.candidate[16:18] == pytest.approx(tuple(1.5 * t for t in second.stable[16:18]))
    assert looks == [26, 38]  # never at what was judged before


def test_looks_are_few():
    looks = []
    World().latency(decide=lambda s: looks.append(len(s.stable)), budget_s=1e6)
    assert looks[0] == 200
    assert len(looks) <= 7
    assert looks[-1] <= 2000


def test_the_budget_ends_it_and_too_little_holds():
    samples = World().latency(budget_s=3)
    assert samples.complete
    assert judge_latency(samples).verdict is Verdict.HOLD


@pytest.mark.parametrize("error", [TritonError("out of memory"), TimedOut("no answer within 30 s")])
@pytest.mark.parametrize("after", [0, 7])
def test_an_error_answer_ends_it_and_is_named(error, after):
    samples = World(fails={2: (after, error)}).latency()
    assert samples.candidate_failure == f"version 2: {error}"
    assert len(samples.stable) == len(samples.candidate) == 2 * len(samples.requests)
    assert judge_latency(samples).verdict is Verdict.FAIL
    samples = World(fails={1: (after, error)}).latency()
    assert judge_latency(samples).verdict is Verdict.HOLD


@pytest.mark.parametrize("version", [1, 2])
def test_a_server_that_is_gone_is_nobodys_fault(version):
    with pytest.raises(Unreachable):
        World(fails={version: (5, Unreachable("gone"))}).latency()
    with pytest.raises(Unreachable):
        World(fails={2: (5, Unreachable("gone"))}).warmup()


@pytest.mark.parametrize("measure", ["latency", "warmup"])
def test_an_abort_takes_effect_within_one_request(measure):
    for allowed in (0, 3, 30):
        world = World()
        with pytest.raises(Cancelled):
            getattr(world, measure)(cancelled=lambda: len(world.asked) >= allowed)  # noqa: B023
        assert len(world.asked) == allowed


def test_nothing_to_ask_raises():
    for call in (
        lambda: World().latency(requests=[]),
        lambda: World().warmup(requests=[]),
    ):
        with pytest.raises(ValueError, match="no request"):
            call()


def test_warm_in_one_round():
    world = World(cold=3)
    samples = world.warmup()
    assert (len(samples.first), len(samples.steady), samples.warmed) == (1, 20, 16)
    assert judge_warmup(samples).verdict is Verdict.PASS
    assert [n for _, n in world.asked[:16]] == [0, 1, 2, 3] * 4
    assert {n for _, n in world.asked[16:]} == {3}


def test_still_cold_in_the_first_round_gets_two_more():
    samples = World(cold=17).warmup()
    assert len(samples.first) == 3
    assert judge_warmup(samples).verdict is Verdict.PASS


def test_a_version_that_fails_while_it_warms_up_fails():
    for after in (0, 5, 20):
        samples = World(fails={2: (after, TimedOut("hung"))}).warmup()
        assert judge_warmup(samples).verdict is Verdict.FAIL


def test_the_budget_cuts_warming_up_short_but_not_the_answer():
    samples = World().warmup(budget_s=0.05, decide=lambda _: False)
    assert samples.warmed < 16
    assert (len(samples.first), len(samples.steady), samples.complete) == (1, 20, True)
