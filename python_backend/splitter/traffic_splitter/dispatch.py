"""Sends each request to one of the two versions and answers it exactly once.

No thread ever waits for the candidate on behalf of a client. A request that goes there is a :class:`_Flight`, which
is claimed by whoever comes first: the candidate's good answer, its error, or the timer. The two latter hand it to the
stable version.

The stable version may die, too, and Triton says so to nobody. While the candidate has a share of the traffic, it is
asked what stable answers with an error, and what stable leaves unanswered while it answers nobody else either; a good
answer of the candidate's is then the client's.
"""

from __future__ import annotations

import copy
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial

from .breaker import Breaker
from .calls import Calls
from .ids import Ids
from .patience import Patience
from .probes import CANDIDATE, Announced, Own
from .request import Answer, Clockwork, Request, Scores, Threads, flaw
from .route import Lease, Route, Tensors
from .samples import Books, Ledger
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

LAST_RESORT_S = 10.0
"""Where stable was given up the candidate has so long for a request: all come at once, and nobody else answers."""
NO_TICKET = -1
"""Of a request that goes to stable first: its attempts with the candidate tell the breaker nothing."""


class Splitter:
    """Takes requests and returns at once; answers come from the pools.

    Until :meth:`follow` puts a route in force, and when its lease is over, the stable version answers alone. Where that
    one was given up, the route goes on: the candidate that had a share a moment ago is then the only one that answers.
    """

    def __init__(
        self,
        stable: int,
        tensors: Tensors,
        *,
        stable_pool: Threads,
        candidate_pool: Threads,
        timer: Clockwork,
        calls: Calls,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self.stable = stable
        self.tensors = tensors
        self.lease = Lease(clock)
        self.breaker = Breaker(clock)
        self.ledger = Ledger(clock)
        self.patience = Patience()
        self.calls = calls
        self.announced = Announced()
        self._stable_pool = stable_pool
        self._candidate_pool = candidate_pool
        self._timer = timer
        self._clock = clock
        # Of the system: what a generator of our own draws could be told from where requests went.
        self._draw = draw or secrets.SystemRandom().random
        self._ids = Ids()
        self._candidate: int | None = None
        self._heard = clock()
        """When stable last answered anybody."""
        self._write_into(self.ledger)
        # The control plane's own requests meet the same pools, breaker and patience, and are written down apart. They
        # are few, so every one that stable answers is shadowed, where anything is: chance draws 0. Last of all: what is
        # assigned from here on is not shared.
        self._apart = copy.copy(self)
        self._apart._draw = lambda: 0.0  # noqa: SLF001 - one of its own kind
        self._apart._write_into(Own(self.ledger))  # noqa: SLF001

    def _write_into(self, books: Books) -> None:
        self._books, self._tally = books, Tally(books)
        self._shadow = Shadow(
            self._candidate_pool, self._timer, self.calls, self.breaker, self.patience, books, self._clock
        )

    def follow(self, route: Route) -> None:
        """Put a route in force, at once and whole."""
        if route.candidate not in (None, self._candidate):
            self._candidate = route.candidate
            self.breaker.reset()
        self.lease.replace(route)

    def take(self, request: Request) -> None:
        """Send the request on its way."""
        route, announced = self._route(), self.announced.claim(request.id)
        if announced is None:
            if route is not None and route.shared and request.id:
                request.again = self._ids.again(route.salt, request.id)
            self._send(request, route, candidate=route is not None and route.takes(request.id, self._draw))
        else:
            shared = route is not None and route.shared
            self._apart._send(request, route, candidate=shared and announced == CANDIDATE)  # noqa: SLF001

    def _route(self) -> Route | None:
        """What is in force, or was last, where nobody else is left to answer."""
        route = self.lease.current()
        if route is None and self.calls.given_up(self.stable) is not None:
            return self.lease.over
        return route

    def _send(self, request: Request, route: Route | None, *, candidate: bool) -> None:
        self._books.count("requests")
        if route is None or not candidate:
            self._to_stable(request, route, shadow=True)
            return
        if route.candidate is not None and (why := self.calls.given_up(route.candidate)) is not None:
            self._refuse(request, route, why)
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
        self._books.count("refused")
        self._tally.answer("candidate", request, None, "refused", why)
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
                self._books.count("candidate")
                if in_time:
                    self.breaker.leave(flight.ticket, good=True)
                    self._tally.answer("candidate", request, took_s, "ok", scores=Scores.of(answer))
        elif in_time and problem is not None and flight.claim():
            self._stable_pool.submit(partial(self._replace, request, flight, took_s, problem, answer.hurried))
        elif problem is not None:
            self._give_up(flight)

    def _expire(self, flight: _Flight) -> None:
        """On the timer's thread: the candidate is late. Stable is asked, and the first good answer is the client's."""
        request = flight.request
        if request is None or not flight.first():
            return
        self._stable_pool.submit(partial(self._fall_back, flight, request, self._clock() - flight.begin))
        self.breaker.leave(flight.ticket, good=False)
        self._books.count("late")

    def _replace(self, request: Request, flight: _Flight, took_s: float, problem: str, hurried: bool) -> None:  # noqa: FBT001 - of partial
        """On a stable thread: the candidate failed. Only stable's answer tells whose fault that was.

        Not even that tells where the client allowed too little time: who chooses it can choose a moment, too.
        """
        answer, stable_s = self._call_stable(request, flight.route)
        self._deliver(request, answer, stable_s)
        if answer.error is None:
            self.breaker.leave(flight.ticket, good=None if hurried else False)
            self._books.count("failed")
            self._tally.answer("candidate", request, took_s, "failed", problem, stable_s=stable_s, hurried=hurried)
        else:
            self.breaker.leave(flight.ticket, good=None)
            self._tally.answer("candidate", request, took_s, "client_error", problem)

    def _fall_back(self, flight: _Flight, request: Request, waited_s: float) -> None:
        """On a stable thread: the candidate is late, and is not asked again by a shadow.

        Only stable's answer to the same request tells whose fault that is, unless the candidate was quicker yet.
        """
        outcome, stable_s = "late", None
        try:
            if flight.request is not None:
                answer, stable_s = self._call_stable(request, flight.route)
                if answer.error is not None:
                    outcome = "client_error"
                    self._wait_for_candidate(flight, answer, stable_s)
                elif flight.claim():
                    self._deliver(request, answer, stable_s)
        finally:
            error = f"no answer within {waited_s:.3g} s"
            self._tally.answer("candidate", request, waited_s, outcome, error, stable_s=stable_s)

    def _serve(self, request: Request, route: Route | None, *, shadow: bool) -> None:
        """On a stable thread: nobody else may answer, unless stable is found dead by this very request."""
        answer, took_s = self._call_stable(request, route)
        if answer.error is not None and (now := self._route()) is not None and now.shared:
            self._ask_candidate(_Flight(request, now, NO_TICKET, self._clock()), answer, took_s)
            return
        self._finish(request, route, answer, took_s, shadow=shadow)

    def _serve_flight(self, flight: _Flight, *, shadow: bool) -> None:
        """On a stable thread: the candidate may answer what stable can't."""
        request, route = flight.request, flight.route
        if request is None:
            return  # the candidate answered while it stood in line
        answer, took_s = self._call_stable(request, route)
        if answer.error is not None:
            self._ask_candidate(flight, answer, took_s)
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
                self._tally.answer("candidate", request, took_s, "client_error", problem)
        elif flight.claim():
            try:
                request.reply(answer)
            finally:
                self._books.count("candidate", "rescued")
                self._tally.answer("candidate", request, took_s, "ok", scores=Scores.of(answer))
                if flight.failed is not None:
                    error, stable_s = flight.failed
                    self._tally.answer("stable", request, stable_s, "failed", error.error or "no message")
                else:
                    self._tally.answer("stable", request, self._clock() - flight.begin, "late", "no answer")

    def _ask_candidate(self, flight: _Flight, answer: Answer, took_s: float) -> None:
        """Stable answered with an error: a good answer of the candidate's is the client's instead."""
        self._wait_for_candidate(flight, answer, took_s)
        self._candidate_pool.submit(partial(self._rescue, flight))

    def _wait_for_candidate(self, flight: _Flight, answer: Answer, took_s: float) -> None:
        """Stable's error is the client's only if the candidate has no better answer within its deadline.

        One that is left alone is not waited for so long: the error may well be the client's own.
        """
        flight.failed = (answer, took_s)
        limit_s = flight.route.deadline_s
        delay_s = limit_s if self.breaker.state == "closed" else self.patience.deadline_s(limit_s)
        if self.calls.given_up(self.stable) is not None:
            delay_s = max(delay_s, LAST_RESORT_S)
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
        self._books.count("sent_to_candidate")
        begin = self._clock()
        answer = self.calls.call(request, route.candidate, route.compare)
        return answer, self._clock() - begin, flaw(answer, self._shape(request, route))

    def _call_stable(self, request: Request, route: Route | None) -> tuple[Answer, float]:
        begin = self._clock()
        answer = self.calls.call(request, self.stable, route.compare if route else None)
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
            self._books.count("stable")
            if answer.error is None:
                self.patience.learn(took_s)
                self._tally.answer("stable", request, took_s, "ok", scores=scores)
            else:
                self._books.count("client_errors")
                self._tally.answer("stable", request, took_s, "client_error", answer.error)
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
