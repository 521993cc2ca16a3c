"""Shadowing: a request that stable has answered is sent to the candidate too; no client gets that answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from .adaptive_deadline import AdaptiveDeadline
from .breaker import Breaker
from .calls import VersionCalls
from .kinds import contents_of, digest_of, kind_of
from .pool import Pool, Timer
from .request import Answer, Request, Scores, reason_to_reject
from .route import Route
from .sample_writer import SampleWriter

MAX_CALLS = 4
"""Shadow calls that run at a time."""
MAX_HELD_BYTES = 64 * 2**20
"""Inputs that running shadow calls hold together: shared memory that live requests need."""


class Shadow:
    """Never waits, and takes nothing that live requests need: a request for which there is no room is dropped.

    Shadow calls use the candidate's pool, breaker and deadline, as live attempts do.
    """

    def __init__(
        self,
        pool: Pool,
        timer: Timer,
        calls: VersionCalls,
        breaker: Breaker,
        deadline: AdaptiveDeadline,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._timer = timer
        self._calls = calls
        self._breaker = breaker
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._held = 0

    def offer(
        self,
        request: Request,
        route: Route,
        shape: Sequence[int] | None,
        took_s: float,
        stable: Scores,
        samples: SampleWriter,
    ) -> None:
        """Send the request to the candidate if there is room. Its client has stable's answer already."""
        pair = _Pair(request.id, took_s, stable, samples)
        if route.candidate is not None and (why := self._calls.given_up(route.candidate)) is not None:
            pair.drop(why)
            return
        if (size := self._reserve(request)) is None:
            pair.drop("no room for another shadow call")
            return
        ticket = self._breaker.enter()
        if ticket is None:
            self._release(size)
            pair.drop("the breaker is open")
        elif not self._pool.offer(partial(self._attempt, pair, request, route, shape, ticket, size)):
            self._breaker.leave(ticket, good=None)
            self._release(size)
            pair.drop("every call of the candidate's is busy")
        else:
            samples.count("shadowed")

    def _attempt(
        self, pair: _Pair, request: Request, route: Route, shape: Sequence[int] | None, ticket: int, size: int
    ) -> None:
        assert route.candidate is not None  # noqa: S101 - a route without one shadows nothing
        try:
            # Before the call, so that the timer's thread has nothing to parse.
            texts = request.texts()
            pair.kind = kind_of(texts, route.kinds)
            pair.digest = digest_of(texts, route.salt)
            pair.contents = contents_of(texts) if route.contents else None
            deadline_s = self._deadline.seconds(route.deadline_s)
            self._timer.after(deadline_s, partial(self._late, pair, ticket, deadline_s))
            begin = self._clock()
            answer = self._calls.call(request, route.candidate, route.compare)
            took_s = self._clock() - begin
            if pair.claim():
                problem = reason_to_reject(answer, shape)
                # Stable answered this very request, so an error is the candidate's own, unless time ran out.
                self._breaker.leave(ticket, good=None if answer.hurried else problem is None)
                pair.write(took_s, "ok" if problem is None else "failed", problem or "", answer)
        finally:
            # Not earlier, also when the answer is late: the call holds the inputs until it ends.
            self._release(size)

    def _late(self, pair: _Pair, ticket: int, deadline_s: float) -> None:
        if pair.claim():
            self._breaker.leave(ticket, good=False)
            pair.write(deadline_s, "late", f"no answer within {deadline_s:.3g} s")

    def _reserve(self, request: Request) -> int | None:
        """The bytes that the call will hold, or None: there is no room for it."""
        if self._running >= MAX_CALLS or 2 * self._pool.free < self._pool.size:
            return None
        size = request.size()
        with self._lock:
            if self._running >= MAX_CALLS or self._held + size > MAX_HELD_BYTES:
                return None
            self._running += 1
            self._held += size
            return size

    def _release(self, size: int) -> None:
        with self._lock:
            self._running -= 1
            self._held -= size


class _Pair:
    """One shadowed request. Both the call and the timer may end it; whoever claims it first writes its sample."""

    __slots__ = ("_claimed", "_id", "_lock", "_samples", "_stable", "contents", "digest", "kind")

    def __init__(self, request_id: str, took_s: float, stable: Scores, samples: SampleWriter) -> None:
        self._id = request_id
        self._stable = took_s, stable
        self._samples = samples
        self.kind = self.digest = ""
        self.contents: dict[str, list[str]] | None = None
        self._lock = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """True for the first caller."""
        with self._lock:
            claimed, self._claimed = self._claimed, True
            return not claimed

    def drop(self, why: str) -> None:
        self._samples.count("shadow_dropped")
        self._samples.pair(self._id, "", self._stable, (None, Scores()), "dropped", why)

    def write(self, took_s: float, outcome: str, error: str, answer: Answer | None = None) -> None:
        if outcome != "ok":
            self._samples.count("shadow_failed")
        scores, hurried = (Scores.of(answer), answer.hurried) if answer else (Scores(), False)
        self._samples.pair(
            self._id,
            self.kind,
            self._stable,
            (took_s, scores),
            outcome,
            error,
            self.contents,
            self.digest,
            hurried=hurried,
        )
