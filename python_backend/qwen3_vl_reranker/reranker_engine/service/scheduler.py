"""Schedules requests on the one thread that computes: iteration by iteration, and one forward pass in each.

An iteration does four things:

1. It refuses jobs whose client has cancelled or whose deadline has passed.
2. It prepares new jobs for at most ``PREPARE_S``. A job that needs long work (decoding, long texts, other hosts) goes
   to the ``PreparationPool`` and comes back when that is done.
3. It refuses jobs that cannot meet their deadline at the measured throughput.
4. All prepared jobs share one forward pass. Each gets a slice of it, and a finished job is answered.

New jobs join between two iterations. So a small request waits for the pass in progress, never for the end of a large
request.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from reranker_engine.inference.scoring import Scoring
from reranker_engine.inference.steps import StepKind

from .job import SLICE_S, Job, Refused
from .loading import is_device_lost
from .preparation import PreparationPool
from .throughput import Throughput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reranker_engine.inference.batching import BatchSlice
    from reranker_engine.inference.scorer import Scorer

WAIT_BELOW = 16
"""With fewer jobs in progress than this, ``run`` waits for the new ones to have an iteration. Those that are done by
then are answered by ``execute``, so that Triton's own figures (success, failure, duration) are right for them."""
EXECUTE_WAIT_S = 0.25
"""The longest that ``run`` waits. Requests in Triton's queue get no iteration meanwhile, and their deadline does not
run."""
PREPARE_S = 0.1
"""Time for preparation in one iteration, before the jobs that are prepared get their pass."""
POLL_S = 0.25
"""How often jobs that have not started are checked for cancellation and deadline."""
POLL_STARTED_S = 0.1
"""The same of started jobs: to ask Triton whether a client has cancelled is a round trip, and passes may be short."""


class EngineFailure(Exception):
    """An error that no handler may pass over, such as a panic in Rust code: the process ends, and is started again."""


class DeviceLost(BaseException):
    """The GPU can't be used by this process any more. No Exception: it ends the computing thread."""


class SchedulerListener(Protocol):
    """Is told by the computing thread what happens."""

    def heartbeat(self) -> None:
        """A step of preparation or a layer of a pass is done."""

    def pass_done(self, slices: Sequence[BatchSlice]) -> None:
        """A forward pass is done."""

    def idle(self) -> None:
        """No job is left."""

    def failed(self, text: str) -> None:
        """All jobs were answered with an error, and no new one is accepted: the process must end now."""


class Scheduler:
    """Runs jobs to their end; see the module's description."""

    def __init__(self, scorer: Scorer, listener: SchedulerListener, max_requests: int) -> None:
        """``max_requests``: jobs in progress at once; further ones are refused."""
        self._scorer = scorer
        self._listener = listener
        self._max_requests = max_requests
        self._throughput = Throughput()
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._iterations = 0
        self._waiting_calls = 0
        self._in_iteration = False
        self._closed = False
        self._failure: EngineFailure | None = None
        self._pool = PreparationPool(self._returned)
        scorer.watch_layers(listener.heartbeat)
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def run(self, jobs: Sequence[Job]) -> None:
        """Accept ``jobs``; return when they are done, or when each had an iteration and can go on in the background.

        With many jobs in progress it returns at once. Triton's queue has no limit, and requests there have no deadline;
        here they have both, and a job over the limit is refused with a message that says so.
        """
        with self._changed:
            if self._failure:
                for job in jobs:
                    self._finish(job, self._failure)
                return
            others = len(self._jobs)
            accepted = list(jobs[: max(0, self._max_requests - others)])
            self._jobs += accepted
            for job in accepted:
                job.due_iteration = self._next_iteration()
            self._changed.notify_all()
        for job in jobs[len(accepted) :]:
            text = f"busy: {self._max_requests} requests are under way here, which is the limit; try again in a moment"
            self._finish(job, Refused("busy", text))
        with self._changed:
            if not accepted or others >= WAIT_BELOW:
                return

            def had_an_iteration(job: Job) -> bool:
                # A job in the preparation pool is waited for only if there is no other one.
                return job.done or (others > 0 if job.offloaded else self._iterations >= job.due_iteration)

            self._waiting_calls += 1
            self._changed.wait_for(lambda: all(map(had_an_iteration, accepted)), EXECUTE_WAIT_S)
            self._waiting_calls -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread when all jobs are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.close()

    def _returned(self, job: Job) -> None:
        """The preparation pool is done with a job."""
        with self._changed:
            job.offloaded, job.due_iteration = False, self._next_iteration()
            self._changed.notify_all()

    def _next_iteration(self) -> int:
        """The first iteration that includes a job which comes now: the one in progress has its list already."""
        return self._iterations + (2 if self._in_iteration else 1)

    def _work(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - with a dead thread, every request would wait for ever
            self._fail_all(error)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not any(not job.offloaded for job in self._jobs):
                    if self._closed and not self._jobs:
                        return
                    if not self._changed.wait(POLL_S if self._jobs else None) and self._jobs:
                        break  # to check them for cancellation and deadline
                jobs = list(self._jobs)
                self._in_iteration = True
            self._listener.heartbeat()
            try:
                self._iterate(jobs)
            except Exception as error:  # noqa: BLE001 - with a dead thread, every request would wait for ever
                for job in jobs:
                    if not job.done:
                        self._finish(job, error)
            del jobs  # an idle thread must not hold a request's memory
            with self._changed:
                self._jobs = [job for job in self._jobs if not job.done]
                self._iterations += 1
                self._in_iteration = False
                self._changed.notify_all()
                is_idle = not self._jobs
            if is_idle:
                self._listener.idle()

    def _fail_all(self, error: BaseException) -> None:
        """Answer all jobs, then end the process.

        The order matters: Triton never unloads a version whose process ends while it has a request.
        """
        text = f"{type(error).__name__}: {error}; the engine's process ends itself, and is started again"
        try:
            with self._changed:
                self._failure = EngineFailure(text)
                for job in self._jobs:
                    if job.offloaded and not self._pool.withdraw(job):
                        job.done = True  # a thread of the pool is running it; it cannot be stopped, and need not be
                        job.finish(job, self._failure)
                    elif not job.done:
                        self._finish(job, self._failure)
                self._jobs = []
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._waiting_calls)
        finally:
            self._listener.failed(text)

    def _iterate(self, jobs: list[Job]) -> None:
        self._refuse_abandoned(jobs)
        until = time.monotonic() + PREPARE_S
        unprepared = [job for job in jobs if not (job.done or job.offloaded or job.scoring)]
        for job in sorted(unprepared, key=lambda job: job.slices):
            self._prepare(job)
            if time.monotonic() > until:
                break
        ready = [job for job in jobs if not job.done and job.scoring is not None]
        for job in ready:
            self._refuse_hopeless(job, ready)
        scorings = {job: job.scoring for job in ready if not job.done and job.scoring is not None}
        if scorings:
            self._run_pass(scorings)

    def _refuse_abandoned(self, jobs: Sequence[Job]) -> None:
        """Refuse jobs that nobody waits for any more, before each pass. A new one is asked at once."""
        for job in jobs:
            refusal = job.refusal(POLL_STARTED_S if job.started else POLL_S)
            if refusal is not None and (not job.offloaded or self._pool.withdraw(job)):
                self._finish(job, refusal)

    def _refuse_hopeless(self, job: Job, ready: Sequence[Job]) -> None:
        """Refuse a job that cannot meet its deadline, unless some of it is computed already."""
        if job.timeout_s is None or job.started or job.scoring is None:
            return
        others = [one.scoring.work.tokens_left for one in ready if one is not job and one.scoring and not one.done]
        tokens = job.scoring.work.tokens_left
        seconds = self._throughput.least_seconds(tokens, others, self._scorer.settings.max_batch_tokens)
        if seconds is not None and job.overdue(time.monotonic(), seconds):
            self._finish(
                job,
                Refused(
                    "deadline",
                    f"deadline: the request's timeout is {job.timeout_s:g} s, but its {tokens} tokens take at least "
                    f"{seconds:.3g} s here at present; send fewer documents at a time, or allow more time",
                ),
            )

    def _prepare(self, job: Job) -> None:
        """One time slice of a job's preparation."""
        job.slices += 1
        if isinstance(job.error, Exception):
            self._finish(job, job.error)
            return
        if job.error is not None:
            raise job.error
        until = time.monotonic() + SLICE_S
        try:
            while job.prepared is None and time.monotonic() < until:
                step = next(job.steps)
                self._listener.heartbeat()
                if step is not StepKind.SHORT:
                    job.offloaded = True
                    self._pool.submit(job, step)
                    return
        except StopIteration as end:
            job.prepared = end.value
        except Exception as error:  # noqa: BLE001 - an error in one request must not fail the others
            job.offloaded = False
            self._finish(job, error)
        if job.prepared is not None and not job.done:
            job.scoring = Scoring(job.prepared)

    def _run_pass(self, scorings: dict[Job, Scoring]) -> None:
        start = time.monotonic()
        try:
            max_slice = self._throughput.slice_tokens(self._scorer.settings.max_batch_tokens)
            slices = self._scorer.advance(list(scorings.values()), max_slice)
        except Exception as error:
            if is_device_lost(error):  # to try each job alone would fail as often as there are jobs
                raise DeviceLost(error) from error
            self._retry_one_by_one(scorings, error)
            return
        self._throughput.record(sum(one.tokens for one in slices), time.monotonic() - start)
        self._listener.pass_done(slices)
        for job, scoring in scorings.items():
            if scoring.work.finished:
                self._finish(job, scoring.logits)

    def _retry_one_by_one(self, scorings: dict[Job, Scoring], error: Exception) -> None:
        """After a pass that failed: compute each of its jobs from the start and alone, so that only the cause fails."""
        if len(scorings) == 1:
            self._finish(next(iter(scorings)), error)
            return
        for job, scoring in sorted(scorings.items(), key=lambda item: len(item[1].prepared.documents)):
            job.scoring = Scoring(scoring.prepared)
            # Each to its end: together they would fail again, and start again, for ever.
            while not job.done:
                self._run_pass({job: job.scoring})
                if not job.done and (refusal := job.refusal(POLL_STARTED_S)) is not None:
                    self._finish(job, refusal)

    def _finish(self, job: Job, result: NDArray[np.float32] | Exception) -> None:
        job.done = True
        job.steps.close()
        job.scoring = job.error = None
        self._pool.release(job)
        job.finish(job, result)
