"""The thread that computes: requests take turns on it, whoever brought them and whenever."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from reranker_engine.inference.scoring import Scoring
from reranker_engine.inference.steps import Next

from .job import SLICE_S, Job, Refused
from .preparation import Lanes
from .throughput import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from reranker_engine.inference.batching import Portion
    from reranker_engine.inference.scorer import Scorer

TOGETHER = 16
"""Requests under way up to which Triton is kept until the newest had a turn: what is done by then is answered so that
Triton's own figures (success, failure, duration) tell the truth about it."""
HOLD_S = 0.25
"""How long Triton is kept at most. What waits in its queue meanwhile has no turn, and its deadline does not run."""
ROUND_S = 0.1
"""How long requests are prepared on the computing thread before those that are prepared have a pass."""
LOOK_S = 0.25
"""How often it is looked whether somebody still waits for what is not begun."""


class Broken(Exception):
    """What no handler may pass over, a panic in Rust code above all: this process ends itself, and is started anew."""


class Watcher(Protocol):
    """Hears of what is done."""

    def beat(self) -> None:
        """The computing thread did a little of its work."""

    def passed(self, portions: Sequence[Portion]) -> None:
        """A pass is done."""

    def rested(self) -> None:
        """All jobs are done."""

    def broken(self, text: str) -> None:
        """All jobs are answered, with an error, and none is taken any more: the process must end now."""


class Turns:
    """Computes jobs pass by pass, those that have least left first; between two passes newcomers join.

    A job is prepared for ``SLICE_S`` at a time, by other threads where that takes long (``Lanes``), and what a request
    with much to do may take of one pass is what takes about ``TURN_S``. So a small request waits for the pass that is
    under way, and never for a large request's end.
    """

    def __init__(self, scorer: Scorer, watcher: Watcher, most: int) -> None:
        """``most``: how many jobs may be under way; further ones are refused."""
        self._scorer = scorer
        self._watcher = watcher
        self._most = most
        self._pace = Pace()
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._rounds = 0
        self._waiting = 0
        self._busy = False
        self._closed = False
        self._broken: Broken | None = None
        self._lanes = Lanes(self._back)
        scorer.watch_layers(watcher.beat)
        self._thread = threading.Thread(target=self._work, name="turns", daemon=True)
        self._thread.start()

    def run(self, jobs: Sequence[Job]) -> None:
        """Compute ``jobs``: returns when they are done, or have had a turn and the rest can go on in the background.

        While many are under way it returns at once: Triton's queue has no bound, and who waits there has no turn.
        Here what is one too many gets its answer, which says so.
        """
        with self._changed:
            if self._broken:
                for job in jobs:
                    self._finish(job, self._broken)
                return
            others = len(self._jobs)
            taken = list(jobs[: max(0, self._most - others)])
            self._jobs += taken
            for job in taken:
                job.turn = self._next_turn()
            self._changed.notify_all()
        for job in jobs[len(taken) :]:
            text = f"busy: {self._most} requests are under way here, which is the limit; try again in a moment"
            self._finish(job, Refused("busy", text))
        with self._changed:
            if not taken or others >= TOGETHER:
                return

            def had_a_turn(job: Job) -> bool:
                # While other threads prepare a request it is waited for where it is the only one.
                return job.done or (others > 0 if job.apart else self._rounds >= job.turn)

            self._waiting += 1
            self._changed.wait_for(lambda: all(map(had_a_turn, taken)), HOLD_S)
            self._waiting -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread when all jobs are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._lanes.close()

    def _back(self, job: Job) -> None:
        """Other threads are done with it."""
        with self._changed:
            job.apart, job.turn = False, self._next_turn()
            self._changed.notify_all()

    def _next_turn(self) -> int:
        """The round under way does not know a newcomer; the one after it does."""
        return self._rounds + (2 if self._busy else 1)

    def _work(self) -> None:
        try:
            self._rounds_to_the_end()
        except BaseException as error:  # noqa: BLE001 - a thread that is dead would leave everybody waiting for ever
            self._break(error)

    def _rounds_to_the_end(self) -> None:
        while True:
            with self._changed:
                while not any(not job.apart for job in self._jobs):
                    if self._closed and not self._jobs:
                        return
                    if not self._changed.wait(LOOK_S if self._jobs else None) and self._jobs:
                        break  # to look whether somebody waits for them
                jobs = list(self._jobs)
                self._busy = True
            self._watcher.beat()
            try:
                self._round(jobs)
            except Exception as error:  # noqa: BLE001 - without this thread nobody would ever be answered again
                for job in jobs:
                    if not job.done:
                        self._finish(job, error)
            del jobs  # While there is nothing to do, no request's memory must be held.
            with self._changed:
                self._jobs = [job for job in self._jobs if not job.done]
                self._rounds += 1
                self._busy = False
                self._changed.notify_all()
                rested = not self._jobs
            if rested:
                self._watcher.rested()

    def _break(self, error: BaseException) -> None:
        """Answer everything, since Triton never lets go of a version whose process dies with a request; then end."""
        text = f"{type(error).__name__}: {error}; the engine's process ends itself, and is started again"
        try:
            with self._changed:
                self._broken = Broken(text)
                for job in self._jobs:
                    if job.apart and not self._lanes.withdraw(job):
                        job.done = True  # a thread is at it, which can't be stopped and needs not be
                        job.finish(job, self._broken)
                    elif not job.done:
                        self._finish(job, self._broken)
                self._jobs = []
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._waiting)
        finally:
            self._watcher.broken(text)

    def _round(self, jobs: list[Job]) -> None:
        """Prepare what is not prepared yet, for a while, and let all that is have a pass."""
        self._look(jobs)
        until = time.monotonic() + ROUND_S
        waiting = [job for job in jobs if not (job.done or job.apart or job.scoring)]
        for job in sorted(waiting, key=lambda job: job.slices):
            self._prepare(job)
            if time.monotonic() > until:
                break
        ready = [job for job in jobs if not job.done and job.scoring is not None]
        for job in ready:
            self._check_time(job, ready)
        scorings = {job: job.scoring for job in ready if not job.done and job.scoring is not None}
        if scorings:
            self._pass(scorings)

    def _look(self, jobs: Sequence[Job]) -> None:
        """Refuse what nobody waits for any more. Those that are begun are looked at before each of their passes."""
        for job in jobs:
            fresh = not job.slices and not job.apart
            refused = job.refused(0.0 if job.begun or fresh else LOOK_S)
            if refused is not None and (not job.apart or self._lanes.withdraw(job)):
                self._finish(job, refused)

    def _check(self, job: Job) -> None:
        if (refused := job.refused()) is not None:
            self._finish(job, refused)

    def _check_time(self, job: Job, ready: Sequence[Job]) -> None:
        """Refuse a job that can't end in time, as long as nothing of it is computed."""
        if job.timeout_s is None or job.begun or job.scoring is None:
            return
        others = [other.scoring.work.left for other in ready if other is not job and other.scoring and not other.done]
        tokens = job.scoring.work.left
        seconds = self._pace.least_seconds(tokens, others, self._scorer.settings.max_batch_tokens)
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
        job.slices += 1
        if isinstance(job.failed, Exception):
            self._finish(job, job.failed)
            return
        if job.failed is not None:
            raise job.failed
        until = time.monotonic() + SLICE_S
        try:
            while job.prepared is None and time.monotonic() < until:
                step = next(job.steps)
                self._watcher.beat()
                if step is not Next.SHORT:
                    job.apart = True
                    self._lanes.take(job, step)
                    return
        except StopIteration as end:
            job.prepared = end.value
        except Exception as error:  # noqa: BLE001 - one request's surprise must not fail its neighbours
            job.apart = False
            self._finish(job, error)
        if job.prepared is not None and not job.done:
            job.scoring = Scoring(job.prepared)

    def _pass(self, scorings: dict[Job, Scoring]) -> None:
        start = time.monotonic()
        try:
            portions = self._scorer.advance(
                list(scorings.values()), self._pace.turn(self._scorer.settings.max_batch_tokens)
            )
        except Exception as error:  # noqa: BLE001 - out of memory, mostly
            self._alone(scorings, error)
            return
        self._pace.note(sum(portion.tokens for portion in portions), time.monotonic() - start)
        self._watcher.passed(portions)
        for job, scoring in scorings.items():
            if scoring.work.finished:
                self._finish(job, scoring.logits)

    def _alone(self, scorings: dict[Job, Scoring], error: Exception) -> None:
        """After a pass that failed: each of its requests anew and on its own, so that only the guilty one fails."""
        if len(scorings) == 1:
            self._finish(next(iter(scorings)), error)
            return
        for job, scoring in sorted(scorings.items(), key=lambda item: len(item[1].prepared.documents)):
            job.scoring = Scoring(scoring.prepared)
            # To its end: together with the others it would fail again, and begin anew for ever.
            while not job.done:
                self._pass({job: job.scoring})
                if not job.done:
                    self._check(job)

    def _finish(self, job: Job, result: NDArray[np.float32] | Exception) -> None:
        job.done = True
        job.steps.close()
        job.scoring = job.failed = None
        self._lanes.leave(job)
        job.finish(job, result)
