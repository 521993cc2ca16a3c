"""The scheduler: small requests do not wait for the end of large ones; abandoned requests are not computed."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from harness.waiting import until
from tests.unit.engine.support import BASE

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import Scorer, ScorerSettings, scores_of
from reranker_engine.service import scheduler as scheduler_module
from reranker_engine.service.job import Job, Refused
from reranker_engine.service.scheduler import EngineFailure, Scheduler
from reranker_engine.service.throughput import MAX_AGE_S, TARGET_PASS_S, Throughput

LARGE = [{"text": f"a red circle beside {number} blue squares"} for number in range(1000)]
SMALL = [{"text": "a red circle"}, {"text": "a blue star"}]
PATIENT_S = 120
MOST = 8


@pytest.fixture(scope="module")
def scorer():
    return Scorer(BASE, ScorerSettings(max_batch_tokens=512))


@dataclass
class Passes:
    """Counts passes, and may act after each. Held, the computing thread waits at the end of each for a permit."""

    count: int = 0
    permits: threading.Semaphore | None = None
    beats: int = 0
    rests: int = 0
    ends: list[str] = field(default_factory=list)
    after: dict[int, object] = field(default_factory=dict)

    def pass_done(self, slices):
        self.count += 1
        if act := self.after.get(self.count):
            act()
        if self.permits:
            assert self.permits.acquire(timeout=PATIENT_S)

    def hold(self):
        self.permits = threading.Semaphore(0)

    def go_on(self, passes=10**6):
        self.permits.release(passes)

    def heartbeat(self):
        self.beats += 1

    def idle(self):
        self.rests += 1

    def failed(self, text):
        self.ends.append(text)


@dataclass
class Pending:
    result: object = None
    seconds: float = 0.0
    answered: threading.Event = field(default_factory=threading.Event)
    at_pass: int = 0

    def scores(self):
        assert self.answered.wait(PATIENT_S)
        assert isinstance(self.result, np.ndarray), self.result
        return scores_of(self.result)

    def refused(self):
        assert self.answered.wait(PATIENT_S)
        assert isinstance(self.result, Refused), self.result
        return self.result


def ask(scorer, passes, documents, *, timeout_s=None, cancelled=lambda: False):
    asked = Pending()
    request = scorer.parse(b'{"text": "find a red circle"}', [json.dumps(one).encode() for one in documents])

    def finish(job, result):
        asked.result, asked.seconds, asked.at_pass = result, time.monotonic() - job.arrived, passes.count
        asked.answered.set()

    return asked, Job(scorer.preparing(request), cancelled, finish, timeout_s)


@pytest.fixture
def scheduler(scorer, monkeypatch):
    for name in ("EXECUTE_WAIT_S", "PREPARE_S", "SLICE_S"):  # however slow the machine is
        monkeypatch.setattr(scheduler_module, name, PATIENT_S)
    passes = Passes()
    found = Scheduler(scorer, passes, max_requests=MOST)
    yield found, passes
    if passes.permits:
        passes.go_on()
    found.close()


def going_on(scheduler, passes, jobs):
    """``jobs`` had their first turn, and the computing thread stands still in the pass after it."""
    passes.hold()
    with beside(scheduler, jobs):
        passes.go_on(1)
    until(lambda: passes.count == 2, "they go on in the background")


@contextmanager
def beside(scheduler, jobs):
    """``jobs`` are there, or refused; at the end they had their turn."""
    thread = threading.Thread(target=scheduler.run, args=[jobs])
    thread.start()
    until(lambda: all(job.done or job in scheduler._jobs for job in jobs), "they are there")
    yield
    thread.join(PATIENT_S)
    assert not thread.is_alive()


def test_a_small_request_waits_for_a_pass_and_not_for_a_large_request(scorer, scheduler):
    scheduler, passes = scheduler
    large, job = ask(scorer, passes, LARGE)
    going_on(scheduler, passes, [job])
    for _ in range(5):
        small, job = ask(scorer, passes, SMALL)
        before = passes.count
        with beside(scheduler, [job]):
            passes.go_on(2)  # the one under way, and its own
        assert small.at_pass == before + 1
        until(lambda now=before + 2: passes.count == now, "the large one goes on")
    assert not large.answered.is_set()
    passes.go_on()
    scores = large.scores()
    assert passes.count > 20
    alone = scorer.score([prepare(scorer, LARGE[:7])])[0]
    assert np.abs(scores[:7] - alone).max() <= 1e-5
    assert np.abs(small.scores() - scorer.score([prepare(scorer, SMALL)])[0]).max() <= 1e-5


def prepare(scorer, documents):
    return scorer.prepare(
        scorer.parse(b'{"text": "find a red circle"}', [json.dumps(one).encode() for one in documents])
    )


def test_large_requests_beside_each_other_are_all_answered(scorer, scheduler):
    scheduler, passes = scheduler
    expected = scorer.score([prepare(scorer, LARGE[:200])])[0]
    asked = [ask(scorer, passes, LARGE[:200]) for _ in range(6)]
    for _, job in asked:
        scheduler.run([job])
    for one, _ in asked:
        assert np.abs(one.scores() - expected).max() <= 1e-5


def test_one_too_many_is_told_so_at_once(scorer, scheduler):
    """It neither waits nor delays others: those in progress are answered, and then there is room again."""
    scheduler, passes = scheduler
    asked = [ask(scorer, passes, LARGE) for _ in range(MOST + 2)]
    going_on(scheduler, passes, [job for _, job in asked])
    for one, _ in asked[MOST:]:
        assert one.refused().cause == "busy"
        assert str(one.result) == "busy: 8 requests are under way here, which is the limit; try again in a moment"
    one_more, job = ask(scorer, passes, SMALL)
    scheduler.run([job])
    assert one_more.refused().cause == "busy"
    passes.go_on()
    for one, _ in asked[:MOST]:
        one.scores()
    small, job = ask(scorer, passes, SMALL)
    scheduler.run([job])
    small.scores()


def test_the_thread_that_computes_shows_that_it_works(scorer, scheduler):
    """Within a pass as well: of a large model one may take longer than anybody waits for an answer to a question."""
    scheduler, passes = scheduler
    small, job = ask(scorer, passes, SMALL)
    scheduler.run([job])
    small.scores()
    until(lambda: passes.rests == 1, "it rests")
    assert passes.count == 1
    assert passes.beats > len(scorer.model.language_model.layers)
    before = passes.beats
    assert not threading.Event().wait(1.0)
    assert passes.beats == before  # with nothing to do there is nothing to show


def test_a_request_cancelled_on_its_way_is_not_computed_to_its_end(scorer, scheduler, monkeypatch):
    monkeypatch.setattr(scheduler_module, "POLL_STARTED_S", 0.0)
    scheduler, passes = scheduler
    gone = threading.Event()
    passes.after[3] = gone.set
    asked, job = ask(scorer, passes, LARGE, cancelled=gone.is_set)
    scheduler.run([job])
    assert asked.refused().cause == "cancelled"
    assert passes.count == 3


def test_a_request_whose_time_is_over_is_not_computed_to_its_end(scorer, scheduler):
    scheduler, passes = scheduler
    asked, job = ask(scorer, passes, LARGE, timeout_s=1000)

    def hurry():
        job.timeout_s = 1e-9

    passes.after[3] = hurry
    scheduler.run([job])
    assert asked.refused().cause == "deadline"
    assert passes.count == 3


def test_a_request_that_cannot_end_in_time_is_not_begun(scorer, scheduler):
    scheduler, passes = scheduler
    _, job = ask(scorer, passes, SMALL)
    scheduler.run([job])
    scheduler._throughput.record(1024, 1024.0)  # a second a token
    before = passes.count
    asked, job = ask(scorer, passes, LARGE, timeout_s=500)
    scheduler.run([job])
    assert passes.count == before
    assert asked.refused().cause == "deadline"
    text = str(asked.result)
    assert "the request's timeout is 500 s, but its " in text
    assert "send fewer documents at a time, or allow more time" in text
    asked, job = ask(scorer, passes, SMALL, timeout_s=500)
    scheduler.run([job])
    asked.scores()


def test_a_request_that_comes_too_late_is_not_even_decoded(scorer, scheduler):
    scheduler, passes = scheduler
    asked, job = ask(scorer, passes, SMALL, timeout_s=0.001)
    job.arrived -= 1
    scheduler.run([job])
    assert str(asked.refused()) == "deadline: the request's timeout of 0.001 s is over"
    assert job.prepared is None


def test_what_fails_while_preparing_fails_alone(scorer, scheduler):
    scheduler, passes = scheduler
    bad, bad_job = ask(scorer, passes, [{"image": "/etc/hostname"}])
    good, good_job = ask(scorer, passes, SMALL)
    scheduler.run([bad_job, good_job])
    assert isinstance(bad.result, InputError)
    good.scores()
    until(lambda: passes.rests == 1, "it rests")


def test_passes_that_fail_in_company_only_are_done_one_request_at_a_time(scorer, scheduler, monkeypatch):
    """Two large requests that together are too much for the memory: each alone to its end, not anew for ever."""
    scheduler, passes = scheduler
    advance = scorer.advance

    def narrow(scorings, max_slice):
        if len(scorings) > 1:
            raise MemoryError("narrow")
        return advance(scorings, max_slice)

    monkeypatch.setattr(scorer, "advance", narrow)
    asked = [ask(scorer, passes, LARGE[:150]), ask(scorer, passes, LARGE[150:300])]
    scheduler.run([job for _, job in asked])
    found = np.concatenate([one.scores() for one, _ in asked])
    monkeypatch.undo()
    assert np.abs(found - scorer.score([prepare(scorer, LARGE[:300])])[0]).max() <= 1e-5


def test_nothing_is_held_of_a_request_that_is_done(scorer, scheduler):
    """Triton's requests hold shared memory: nothing may wait for the garbage collector, or for the next request."""
    scheduler, passes = scheduler
    freed = threading.Event()

    class Held:
        def __call__(self):
            return False

        def __del__(self):
            freed.set()

    asked, job = ask(scorer, passes, LARGE[:100], cancelled=Held())
    scheduler.run([job])
    del job
    asked.scores()
    assert freed.wait(PATIENT_S)


class TestThroughput:
    def test_nothing_known_means_no_limit_and_no_refusal(self):
        throughput = Throughput()
        assert throughput.slice_tokens(1000) == 1000
        assert throughput.least_seconds(500, [], 1000) is None

    def test_a_slice_takes_the_target_time(self):
        throughput = Throughput()
        throughput.record(10_000, 1.0)
        assert throughput.slice_tokens(16384) == 10_000 * TARGET_PASS_S
        assert throughput.slice_tokens(2000) == 2000

    def test_small_passes_tell_nothing_of_large_ones(self):
        """A token costs more in them; large requests would be refused without reason, and so never be measured."""
        throughput = Throughput()
        throughput.record(100, 1.0)
        assert throughput.least_seconds(10_000, [], 16384) is None
        throughput.record(10_000, 10.0)
        assert throughput.least_seconds(10_000, [], 16384) == pytest.approx(10.0)
        assert throughput.least_seconds(100, [], 16384) == pytest.approx(0.1)

    def test_others_count_up_to_the_same_number_of_tokens(self):
        throughput = Throughput()
        throughput.record(1000, 1.0)
        assert throughput.least_seconds(1000, [200, 50_000], 1000) == pytest.approx(2.2)

    def test_old_measurements_are_forgotten(self):
        now = [0.0]
        throughput = Throughput(lambda: now[0])
        throughput.record(1000, 100.0)
        assert throughput.least_seconds(1000, [], 1000) == pytest.approx(100)
        now[0] = MAX_AGE_S + 1
        assert throughput.least_seconds(1000, [], 1000) is None
        assert throughput.slice_tokens(1000) == 1000


class Panic(BaseException):
    """As pyo3 raises where Rust code panics: no Exception."""


def test_a_panic_answers_everybody_and_ends_the_process(scorer, monkeypatch):
    """A thread that is dead would leave everybody waiting for ever."""
    passes = Passes()
    scheduler = Scheduler(scorer, passes, max_requests=4)
    long, long_job = ask(scorer, passes, LARGE)
    going_on(scheduler, passes, [long_job])
    assert not long.answered.is_set()
    bad, bad_job = ask(scorer, passes, SMALL)

    def panics():
        raise Panic("retry-limit-in-match over")
        yield

    bad_job.steps = panics()
    with beside(scheduler, [bad_job]):
        passes.go_on()
    for one in (bad, long):
        assert one.answered.wait(PATIENT_S)
        assert isinstance(one.result, EngineFailure)
        assert str(one.result).startswith("Panic: retry-limit-in-match over; the engine's process ends itself")
    until(lambda: passes.ends == [str(bad.result)], "it ends the process")
    late, late_job = ask(scorer, passes, SMALL)
    scheduler.run([late_job])
    assert late.result is bad.result  # nobody waits for a thread that is gone
    scheduler.close()


def test_a_failure_between_two_iterations_ends_the_process_too(scorer):
    """Nobody waits then; who comes next would."""
    passes = Passes()
    passes.idle = lambda: 1 / 0
    scheduler = Scheduler(scorer, passes, max_requests=4)
    asked, job = ask(scorer, passes, SMALL)
    scheduler.run([job])
    asked.scores()
    until(lambda: len(passes.ends) == 1, "it ends the process")
    late, late_job = ask(scorer, passes, SMALL)
    scheduler.run([late_job])
    assert isinstance(late.result, EngineFailure)
    scheduler.close()


@pytest.mark.parametrize("where", ["advance", "steps"])
def test_no_kind_of_failure_leaves_the_thread_dead(scorer, monkeypatch, where):
    passes = Passes()
    scheduler = Scheduler(scorer, passes, max_requests=4)
    asked, job = ask(scorer, passes, SMALL)

    def ends(*_):
        raise SystemExit
        yield

    if where == "steps":
        job.steps = ends()
    else:
        monkeypatch.setattr(scorer, "advance", lambda *_: next(ends()))
    scheduler.run([job])
    assert isinstance(asked.result, EngineFailure)
    until(lambda: len(passes.ends) == 1, "it ends the process")
    scheduler.close()


def test_a_gpu_that_is_lost_ends_the_process_at_the_first_error(scorer, monkeypatch):
    """Each later pass would fail as well. The error is raised here: no GPU took part."""
    passes, tries = Passes(), []
    scheduler = Scheduler(scorer, passes, max_requests=4)

    def lost(scorings, _max_slice):
        tries.append(len(scorings))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(scorer, "advance", lost)
    both = [ask(scorer, passes, SMALL) for _ in range(2)]
    scheduler.run([job for _, job in both])
    for one, _ in both:
        assert one.answered.wait(PATIENT_S)
        assert isinstance(one.result, EngineFailure)
        assert "an illegal memory access was encountered; the engine's process ends itself" in str(one.result)
    until(lambda: len(passes.ends) == 1, "it ends the process")
    assert len(tries) == 1, "no job is tried again alone"
    scheduler.close()


def test_an_error_of_one_request_ends_no_process(scorer, scheduler, monkeypatch):
    found, passes = scheduler
    real = scorer.advance

    def refuses(scorings, max_slice):
        if len(scorings) > 1:
            raise RuntimeError("CUDA error: out of memory")
        return real(scorings, max_slice)

    monkeypatch.setattr(scorer, "advance", refuses)
    both = [ask(scorer, passes, SMALL) for _ in range(2)]
    found.run([job for _, job in both])
    for one, _ in both:
        one.scores()
    assert passes.ends == []
