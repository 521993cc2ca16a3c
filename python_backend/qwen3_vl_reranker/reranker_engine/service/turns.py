"""The thread that computes: requests take turns on it, whoever brought them and whenever."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from reranker_engine.inference.scoring import Prepared, Scoring

from .pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from reranker_engine.inference.batching import Portion
    from reranker_engine.inference.scorer import Scorer

SLICE_S = 0.05
"""How long decoding and tokenizing of one request goes on before the others have their turn."""


class Refused(Exception):
    """A request that is not computed, or not to its end, and why.

    Attributes:
        cause: ``cancelled`` or ``deadline``.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Watcher(Protocol):
    """Hears of what is done."""

    def passed(self, portions: Sequence[Portion]) -> None:
        """A pass is done."""

    def rested(self) -> None:
        """All jobs are done."""


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        steps: Decodes and tokenizes it.
        cancelled: Whether its client went away.
        finish: Called once, on the computing thread, with the job, and with the logits or what went wrong. Must
            not raise.
        timeout_s: How long its client waits from ``arrived`` on; None: for ever.
        prepared: What ``steps`` gave.
        scoring: How far it is, while it is neither being prepared nor done.
    """

    steps: Generator[None, None, Prepared]
    cancelled: Callable[[], bool]
    finish: Callable[[Job, NDArray[Any] | Exception], None]
    timeout_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    scoring: Scoring | None = None
    done: bool = False

    @property
    def begun(self) -> bool:
        return self.scoring is not None and self.scoring.work.done > 0

    def overdue(self, now: float, more_s: float = 0.0) -> bool:
        """Whether ``more_s`` from ``now`` on are more than its client waits."""
        return self.timeout_s is not None and now - self.arrived + more_s > self.timeout_s


class Turns:
    """Computes jobs pass by pass, those that have least left first; between two passes newcomers join.

    A job is prepared for ``SLICE_S`` at a time, and what a request with much to do may take of one pass is what takes
    about ``TURN_S``. So a small request waits for the pass that is under way, and never for a large request's end.
    """

    def __init__(self, scorer: Scorer, watcher: Watcher, most: int) -> None:
        """``most``: how many jobs may be left to run in the background, see ``run``."""
        self._scorer = scorer
        self._watcher = watcher
        self._most = most
        self._pace = Pace()
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._rounds = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="turns", daemon=True)
        self._thread.start()

    def run(self, jobs: Sequence[Job]) -> None:
        """Compute ``jobs``: returns when they are done, or have had a turn and the rest can go on in the background.

        At most ``most`` jobs are left in the background, whoever brought them: a queue belongs where its length can be
        seen and bounded, which is in Triton.
        """
        with self._changed:
            self._jobs += jobs
            # The round under way does not know them; the one after it does.
            turn = self._rounds + (2 if len(self._jobs) > len(jobs) else 1)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: all(job.done for job in jobs) or (self._rounds >= turn and len(self._jobs) <= self._most)
            )

    def close(self) -> None:
        """End the thread when all jobs are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                jobs = list(self._jobs)
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
                self._changed.notify_all()
                rested = not self._jobs
            if rested:
                self._watcher.rested()

    def _round(self, jobs: list[Job]) -> None:
        """Prepare what is not prepared yet, for a while, and let all that is have a pass."""
        for job in jobs:
            self._check(job)
            if not job.done and job.scoring is None:
                self._prepare(job)
        ready = [job for job in jobs if not job.done and job.scoring is not None]
        for job in ready:
            self._check_time(job, ready)
        scorings = {job: job.scoring for job in ready if not job.done and job.scoring is not None}
        if scorings:
            self._pass(scorings)

    def _check(self, job: Job) -> None:
        if job.cancelled():
            self._finish(job, Refused("cancelled", "the client cancelled the request"))
        elif job.overdue(time.monotonic()):
            self._finish(job, Refused("deadline", f"deadline: the request's timeout of {job.timeout_s:g} s is over"))

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
        until = time.monotonic() + SLICE_S
        try:
            while time.monotonic() < until:
                next(job.steps)
        except StopIteration as end:
            job.prepared = end.value
            job.scoring = Scoring(end.value)
        except Exception as error:  # noqa: BLE001 - one request's surprise must not fail its neighbours
            self._finish(job, error)

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

    @staticmethod
    def _finish(job: Job, result: NDArray[Any] | Exception) -> None:
        job.done = True
        job.steps.close()
        job.scoring = None
        job.finish(job, result)
