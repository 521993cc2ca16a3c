"""Shadow: requests that stable has answered are sent to the candidate as well; nobody gets that answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from .breaker import Breaker
from .calls import Calls
from .kinds import contents_of, digest_of, kind_of
from .patience import Patience
from .request import Answer, Clockwork, Request, Scores, Threads, flaw
from .route import Route
from .samples import Books
from .tally import Tally

UNDER_WAY = 4
"""Shadow calls at a time."""
HELD_BYTES = 64 * 2**20
"""Inputs that shadow calls hold at most: shared memory that live requests need."""


class Shadow:
    """Offers never wait and never harm: what does not fit is dropped and counted.

    They go through the candidate's pool, breaker and deadline like live attempts.
    """

    def __init__(
        self,
        pool: Threads,
        timer: Clockwork,
        calls: Calls,
        breaker: Breaker,
        patience: Patience,
        ledger: Books,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._timer = timer
        self._calls = calls
        self._breaker = breaker
        self._patience = patience
        self._ledger = ledger
        self._tally = Tally(ledger)
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._held = 0

    def offer(self, request: Request, route: Route, shape: Sequence[int] | None, took_s: float, stable: Scores) -> None:
        """Send it to the candidate if there is room; its client has stable's answer already."""
        pair = _Pair(request.id, took_s, stable)
        if route.candidate is not None and (why := self._calls.given_up(route.candidate)) is not None:
            self._drop(pair, why)
            return
        if (size := self._reserve(request)) is None:
            self._drop(pair, "no room for another shadow call")
            return
        ticket = self._breaker.enter()
        if ticket is None:
            self._release(size)
            self._drop(pair, "the breaker is open")
        elif not self._pool.offer(partial(self._attempt, pair, request, route, shape, ticket, size)):
            self._breaker.leave(ticket, good=None)
            self._release(size)
            self._drop(pair, "every call of the candidate's is busy")
        else:
            self._ledger.count("shadowed")

    def _attempt(
        self, pair: _Pair, request: Request, route: Route, shape: Sequence[int] | None, ticket: int, size: int
    ) -> None:
        assert route.candidate is not None  # noqa: S101 - a route without one shadows nothing
        try:
            # Before the call, so that the timer need not parse anything.
            texts = request.texts()
            pair.kind = kind_of(texts, route.kinds)
            pair.digest = digest_of(texts, route.salt)
            pair.contents = contents_of(texts) if route.contents else None
            deadline_s = self._patience.deadline_s(route.deadline_s)
            self._timer.after(deadline_s, partial(self._late, pair, ticket, deadline_s))
            begin = self._clock()
            answer = self._calls.call(request, route.candidate, route.compare)
            took_s = self._clock() - begin
            if pair.claim():
                self._end(pair, ticket, took_s, answer, flaw(answer, shape))
        finally:
            # Also when the pair was late: the inputs are held until the call is over.
            self._release(size)

    def _end(self, pair: _Pair, ticket: int, took_s: float, answer: Answer, problem: str | None) -> None:
        # Stable answered this very request, so an error is the candidate's own, but for one of the time that it had.
        self._breaker.leave(ticket, good=None if answer.hurried else problem is None)
        if problem is not None:
            self._ledger.count("shadow_failed")
        outcome = "ok" if problem is None else "failed"
        self._tally.pair(
            pair.id,
            pair.kind,
            pair.stable,
            (took_s, Scores.of(answer)),
            outcome,
            problem or "",
            pair.contents,
            pair.digest,
            hurried=answer.hurried,
        )

    def _late(self, pair: _Pair, ticket: int, deadline_s: float) -> None:
        if pair.claim():
            self._breaker.leave(ticket, good=False)
            self._ledger.count("shadow_failed")
            error = f"no answer within {deadline_s:.3g} s"
            self._tally.pair(
                pair.id, pair.kind, pair.stable, (deadline_s, Scores()), "late", error, pair.contents, pair.digest
            )

    def _drop(self, pair: _Pair, why: str) -> None:
        self._ledger.count("shadow_dropped")
        self._tally.pair(pair.id, "", pair.stable, (None, Scores()), "dropped", why)

    def _reserve(self, request: Request) -> int | None:
        """The bytes that the call will hold, or None when it has no room."""
        if self._under_way >= UNDER_WAY or 2 * self._pool.free < self._pool.size:
            return None
        size = request.size()
        with self._lock:
            if self._under_way >= UNDER_WAY or self._held + size > HELD_BYTES:
                return None
            self._under_way += 1
            self._held += size
            return size

    def _release(self, size: int) -> None:
        with self._lock:
            self._under_way -= 1
            self._held -= size


class _Pair:
    """One shadowed request; the first of call and timer writes it down."""

    __slots__ = ("_claimed", "_lock", "contents", "digest", "id", "kind", "stable")

    def __init__(self, request_id: str, took_s: float, stable: Scores) -> None:
        self.id = request_id
        self.stable = took_s, stable
        self.kind = self.digest = ""
        self.contents: dict[str, list[str]] | None = None
        self._lock = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """True for the first who asks."""
        with self._lock:
            claimed, self._claimed = self._claimed, True
            return not claimed
