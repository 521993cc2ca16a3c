"""Sends each request to one of the two versions and answers it exactly once.

No thread ever waits for the candidate on behalf of a client. A request that goes there is a :class:`_Flight`, which
is claimed by whoever comes first: the candidate's good answer, its error, or the timer. The two latter hand it to the
stable version.

The stable version may die, too, and Triton says so to nobody. While the candidate has a share of the traffic, it is
asked what stable answers with an error, and what stable leaves unanswered while it answers nobody else either; a good
answer of the candidate's is then the client's.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial

from .breaker import Breaker
from .patience import Patience
from .request import Answer, Clockwork, Request, Scores, Threads, flaw
from .route import Lease, Route, Tensors
from .samples import Ledger
from .shadow import Shadow
from .tally import Tally

STABLE_CALLS = 20
"""Calls of the stable version at a time; more wait in line, as they would in the engine's own queue."""
CANDIDATE_CALLS = 10
"""Calls of the candidate at a time, the bulkhead: a hung candidate takes no more of this process than these.

Triton's side of a python model has 32 threads (``thread-pool-size``), and each call to another model holds one until it
ends; sending an answer takes one, too. With 32 hung calls nothing is sent any more, by any version (seen on 24.10). A
thread of ours has one call or one answer in hand, so 20 + 10 of them and ``execute`` always leave a thread there.
"""

NO_TICKET = -1
"""Of a request that goes to stable first: its attempts with the candidate tell the breaker nothing."""


class Splitter:
    """Takes requests and returns at once; answers come from the pools.

    Until :meth:`follow` puts a route in force, and when its lease is over, the stable version answers alone.
    """

    def __init__(
        self,
        stable: int,
        tensors: Tensors,
        *,
        stable_pool: Threads,
        candidate_pool: Threads,
        timer: Clockwork,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self.stable = stable
        self.tensors = tensors
        self.lease = Lease(clock)
        self.breaker = Breaker(clock)
        self.ledger = Ledger(clock)
        self.patience = Patience()
        self._tally = Tally(self.ledger)
        self._stable_pool = stable_pool
        self._candidate_pool = candidate_pool
        self._timer = timer
        self._clock = clock
        self._draw = draw or random.Random().random
        self._shadow = Shadow(candidate_pool, timer, self.breaker, self.patience, self.ledger, clock)
        self._candidate: int | None = None
        self._heard = clock()
        """When stable last answered anybody."""

    def follow(self, route: Route) -> None:
        """Put a route in force, at once and whole."""
        if route.candidate not in (None, self._candidate):
            self._candidate = route.candidate
            self.breaker.reset()
        self.lease.replace(route)

    def take(self, request: Request) -> None:
        """Send the request on its way."""
        route = self.lease.current()
        self.ledger.count("requests")
        if route is None or not route.takes(request.id, self._draw):
            self._to_stable(request, route, shadow=True)
            return
        ticket = self.breaker.enter()
        if ticket is None:
            self._refuse(request, route, "the breaker is open")
            return
        flight = _Flight(request, route, ticket, self._clock())
        if not self._candidate_pool.offer(partial(self._attempt, flight, request)):
            self.breaker.leave(ticket, good=None)
            self._refuse(request, route, f"all {self._candidate_pool.size} calls of the candidate are busy")
            return
        self._timer.after(self.patience.deadline_s(route.deadline_s), partial(self._expire, flight))

    def _refuse(self, request: Request, route: Route, why: str) -> None:
        self.ledger.count("refused")
        self._tally.answer("candidate", request.id, None, "refused", why)
        self._to_stable(request, route, shadow=False)

    def _to_stable(self, request: Request, route: Route | None, *, shadow: bool) -> None:
        """The ordinary way. ``shadow``: the candidate may see the request afterwards."""
        if route is None or not route.shared:
            self._stable_pool.submit(partial(self._serve, request, route, shadow=shadow))
            return
        flight = _Flight(request, route, NO_TICKET, self._clock())
        self._stable_pool.submit(partial(self._serve_flight, flight, shadow=shadow))
        self._watch(flight)

    def _attempt(self, flight: _Flight, request: Request) -> None:
        """On the candidate's thread: ask it, and answer if that went well and nobody was first."""
        answer, took_s, problem = self._call_candidate(request, flight.route)
        in_time = flight.first()
        if problem is None and flight.claim():
            try:
                request.reply(answer)
            finally:
                self.ledger.count("candidate")
                if in_time:
                    self.breaker.leave(flight.ticket, good=True)
                    self._tally.answer("candidate", request.id, took_s, "ok", scores=Scores.of(answer))
        elif in_time and problem is not None and flight.claim():
            self._stable_pool.submit(partial(self._replace, request, flight, took_s, problem))
        elif problem is not None:
            self._give_up(flight)

    def _expire(self, flight: _Flight) -> None:
        """On the timer's thread: the candidate is late. Stable is asked, and the first good answer is the client's."""
        request = flight.request
        if request is None or not flight.first():
            return
        self._stable_pool.submit(partial(self._fall_back, flight))
        self.breaker.leave(flight.ticket, good=False)
        self.ledger.count("late")
        waited_s = self._clock() - flight.begin
        self._tally.answer("candidate", request.id, waited_s, "late", f"no answer within {waited_s:.3g} s")

    def _replace(self, request: Request, flight: _Flight, took_s: float, problem: str) -> None:
        """On a stable thread: the candidate failed. Only stable's answer tells whose fault that was."""
        answer, stable_s = self._call_stable(request, flight.route)
        self._deliver(request, answer, stable_s)
        if answer.error is None:
            self.breaker.leave(flight.ticket, good=False)
            self.ledger.count("failed")
            self._tally.answer("candidate", request.id, took_s, "failed", problem)
        else:
            self.breaker.leave(flight.ticket, good=None)
            self._tally.answer("candidate", request.id, took_s, "client_error", problem)

    def _fall_back(self, flight: _Flight) -> None:
        """On a stable thread: the candidate is late, and is not asked again by a shadow."""
        request = flight.request
        if request is None:
            return
        answer, took_s = self._call_stable(request, flight.route)
        if answer.error is not None:
            self._wait_for_candidate(flight, answer, took_s)
        elif flight.claim():
            self._deliver(request, answer, took_s)

    def _serve(self, request: Request, route: Route | None, *, shadow: bool) -> None:
        """On a stable thread: nobody else may answer."""
        answer, took_s = self._call_stable(request, route)
        self._finish(request, route, answer, took_s, shadow=shadow)

    def _serve_flight(self, flight: _Flight, *, shadow: bool) -> None:
        """On a stable thread: the candidate may answer what stable can't."""
        request, route = flight.request, flight.route
        if request is None:
            return  # the candidate answered while it stood in line
        answer, took_s = self._call_stable(request, route)
        if answer.error is not None:
            self._wait_for_candidate(flight, answer, took_s)
            self._candidate_pool.submit(partial(self._rescue, flight))
        elif flight.claim():
            self._finish(request, route, answer, took_s, shadow=shadow)

    def _watch(self, flight: _Flight) -> None:
        delay_s = self.patience.deadline_s(flight.route.deadline_s)
        self._timer.after(delay_s, partial(self._miss, flight))

    def _miss(self, flight: _Flight) -> None:
        """On the timer's thread: stable has not answered yet. Slow is one that answers others meanwhile."""
        if flight.request is None or flight.failed is not None:
            return
        if self._heard > flight.begin:
            flight.begin = self._clock()
            self._watch(flight)
            return
        self._candidate_pool.submit(partial(self._rescue, flight))

    def _rescue(self, flight: _Flight) -> None:
        """On a candidate thread: stable answered with an error, or not at all."""
        request = flight.request
        if request is None:
            return
        answer, took_s, problem = self._call_candidate(request, flight.route)
        if problem is not None:
            if self._give_up(flight):
                self._tally.answer("candidate", request.id, took_s, "client_error", problem)
        elif flight.claim():
            try:
                request.reply(answer)
            finally:
                self.ledger.count("candidate", "rescued")
                self._tally.answer("candidate", request.id, took_s, "ok", scores=Scores.of(answer))
                if flight.failed is not None:
                    error, stable_s = flight.failed
                    self._tally.answer("stable", request.id, stable_s, "failed", error.error or "no message")
                else:
                    self._tally.answer("stable", request.id, self._clock() - flight.begin, "late", "no answer")

    def _wait_for_candidate(self, flight: _Flight, answer: Answer, took_s: float) -> None:
        """Stable's error is the client's only if the candidate has no better answer within its deadline.

        One that is left alone is not waited for so long: the error may well be the client's own.
        """
        flight.failed = (answer, took_s)
        limit_s = flight.route.deadline_s
        delay_s = limit_s if self.breaker.state == "closed" else self.patience.deadline_s(limit_s)
        self._timer.after(delay_s, partial(self._give_up, flight))

    def _give_up(self, flight: _Flight) -> bool:
        """The candidate has no answer: what stable said is the client's, if it said anything. True when it was."""
        failed = flight.failed
        request = flight.claim() if failed is not None else None
        if failed is None or request is None:
            return False
        self._stable_pool.submit(partial(self._finish, request, flight.route, *failed, shadow=False))
        return True

    def _call_candidate(self, request: Request, route: Route) -> tuple[Answer, float, str | None]:
        """Its answer, the seconds that took, and why the client must not get it."""
        assert route.candidate is not None  # noqa: S101 - Route.shared
        self.ledger.count("sent_to_candidate")
        begin = self._clock()
        answer = request.call(route.candidate, route.compare)
        return answer, self._clock() - begin, flaw(answer, self._shape(request, route))

    def _call_stable(self, request: Request, route: Route | None) -> tuple[Answer, float]:
        begin = self._clock()
        answer = request.call(self.stable, route.compare if route else None)
        if answer.error is None:
            self._heard = self._clock()
        return answer, self._clock() - begin

    def _finish(self, request: Request, route: Route | None, answer: Answer, took_s: float, *, shadow: bool) -> None:
        """Deliver; a share of the good answers is shadowed, after the client has them."""
        scores = self._deliver(request, answer, took_s)
        if not shadow or route is None or answer.error is not None or 100 * self._draw() >= route.shadow:
            return
        # The call may have taken long: nothing more may reach a candidate that the route no longer names.
        now = self.lease.current()
        if now is not None and now.candidate is not None and now.candidate == route.candidate:
            self._shadow.offer(request, route, self._shape(request, route), took_s, scores)

    def _deliver(self, request: Request, answer: Answer, took_s: float) -> Scores:
        """Hand stable's answer to the client, and write it down."""
        try:
            request.reply(answer)
        finally:
            scores = Scores.of(answer)
            self.ledger.count("stable")
            if answer.error is None:
                self.patience.learn(took_s)
                self._tally.answer("stable", request.id, took_s, "ok", scores=scores)
            else:
                self.ledger.count("client_errors")
                self._tally.answer("stable", request.id, took_s, "client_error", answer.error)
        return scores

    def _shape(self, request: Request, route: Route) -> tuple[int, ...] | None:
        """What the compared tensor must look like; None when the client did not ask for it."""
        return self.tensors.scores[route.compare] if route.compare and request.wants(route.compare) else None


class _Flight:
    """A request that two versions may answer, to be answered once.

    ``ticket``: of the attempt with the candidate, where that comes first. ``failed``: stable's error and the seconds
    that took, kept for the client while the candidate may still have an answer.
    """

    __slots__ = ("_done", "_lock", "_request", "begin", "failed", "route", "ticket")

    def __init__(self, request: Request, route: Route, ticket: int, begin: float) -> None:
        self._lock = threading.Lock()
        self._request: Request | None = request
        self._done = False
        self.failed: tuple[Answer, float] | None = None
        self.route = route
        self.ticket = ticket
        self.begin = begin

    @property
    def request(self) -> Request | None:
        """The request, for one who may answer it later; None when it is claimed."""
        return self._request

    def claim(self) -> Request | None:
        """The request for the first who asks, None for all others.

        The flight lets go of it: the timer holds flights until their deadline, long after most are answered, and a
        request holds shared memory.
        """
        with self._lock:
            request, self._request = self._request, None
            return request

    def first(self) -> bool:
        """True for the first of two: the candidate's attempt ended, and it is late."""
        with self._lock:
            done, self._done = self._done, True
            return not done
