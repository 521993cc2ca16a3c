"""Sends each request to one of the two versions and answers it exactly once.

No thread ever waits for the candidate on behalf of a client. A request that goes there is a :class:`HedgedRequest`,
which is claimed by whoever comes first: the candidate's good answer, its error, or the timer. The two latter hand it
to the stable version.

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

from .adaptive_deadline import AdaptiveDeadline
from .breaker import Breaker
from .calls import VersionCalls
from .pool import Pool, Timer
from .probes import CANDIDATE, ExpectedProbe
from .request import Answer, Request, Scores, reason_to_reject
from .route import Lease, Route, Tensors
from .sample_buffer import SampleBuffer
from .sample_writer import SampleWriter
from .shadow import Shadow
from .used_ids import UsedIds

STABLE_CALLS = 20
"""VersionCalls of the stable version at a time; more wait in line, as they would in the engine's own queue."""
CANDIDATE_CALLS = 10
"""VersionCalls of the candidate at a time, the bulkhead: a hung candidate takes no more of this process than these.

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
        stable_pool: Pool,
        candidate_pool: Pool,
        timer: Timer,
        calls: VersionCalls,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self.stable = stable
        self.tensors = tensors
        self.lease = Lease(clock)
        self.breaker = Breaker(clock)
        self.samples = SampleBuffer(clock)
        self.deadline = AdaptiveDeadline()
        self.calls = calls
        self.expected_probe = ExpectedProbe()
        self._stable_pool = stable_pool
        self._candidate_pool = candidate_pool
        self._timer = timer
        self._clock = clock
        # Of the system: what a generator of our own draws could be told from where requests went.
        self._draw = draw or secrets.SystemRandom().random
        self._used_ids = UsedIds()
        self._candidate: int | None = None
        self._heard = clock()
        """When stable last answered anybody."""
        self._writer = SampleWriter(self.samples)
        self._shadow = Shadow(candidate_pool, timer, calls, self.breaker, self.deadline, clock)
        # The control plane's own requests meet the same pools, breaker and deadline, and are written down apart. They
        # are few, so every one that stable answers is shadowed, where anything is: chance draws 0. Last of all: what is
        # assigned from here on is not shared.
        self._apart = copy.copy(self)
        self._apart._draw = lambda: 0.0  # noqa: SLF001 - one of its own kind
        self._apart._writer = SampleWriter(self.samples, own=True)  # noqa: SLF001

    def apply(self, route: Route) -> None:
        """Put a route in force, at once and whole."""
        if route.candidate not in (None, self._candidate):
            self._candidate = route.candidate
            self.breaker.reset()
        self.lease.replace(route)

    def dispatch(self, request: Request) -> None:
        """Send the request on its way."""
        route, announced = self._route(), self.expected_probe.claim(request.id)
        if announced is None:
            if route is not None and route.splits and request.id:
                request.again = self._used_ids.add(route.salt, request.id)
            self._send(request, route, candidate=route is not None and route.picks_candidate(request.id, self._draw))
        else:
            shared = route is not None and route.splits
            self._apart._send(request, route, candidate=shared and announced == CANDIDATE)  # noqa: SLF001

    def _route(self) -> Route | None:
        """What is in force, or was last, where nobody else is left to answer."""
        route = self.lease.current()
        if route is None and self.calls.given_up(self.stable) is not None:
            return self.lease.lapsed_route
        return route

    def _send(self, request: Request, route: Route | None, *, candidate: bool) -> None:
        self._writer.count("requests")
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
        hedged = HedgedRequest(request, route, ticket, self._clock())
        if not self._candidate_pool.offer(partial(self._attempt, hedged, request)):
            self.breaker.leave(ticket, good=None)
            self._refuse(request, route, f"all {self._candidate_pool.size} calls of the candidate are busy")
            return
        self._timer.after(self.deadline.seconds(route.deadline_s), partial(self._expire, hedged))

    def _refuse(self, request: Request, route: Route, why: str) -> None:
        self._writer.count("refused")
        self._writer.answer("candidate", request, None, "refused", why)
        self._to_stable(request, route, shadow=False)

    def _to_stable(self, request: Request, route: Route | None, *, shadow: bool) -> None:
        """The ordinary way. ``shadow``: the candidate may see the request afterwards."""
        if route is None or not route.splits:
            self._stable_pool.submit(partial(self._serve, request, route, shadow=shadow))
            return
        hedged = HedgedRequest(request, route, NO_TICKET, self._clock())
        self._stable_pool.submit(partial(self._serve_flight, hedged, shadow=shadow))
        self._watch(hedged)

    def _attempt(self, hedged: HedgedRequest, request: Request) -> None:
        """On the candidate's thread: ask it, and answer if that went well and nobody was first."""
        answer, took_s, problem = self._call_candidate(request, hedged.route)
        in_time = hedged.first()
        if problem is None and hedged.claim():
            try:
                request.reply(answer)
            finally:
                self._writer.count("candidate")
                if in_time:
                    self.breaker.leave(hedged.ticket, good=True)
                    self._writer.answer("candidate", request, took_s, "ok", scores=Scores.of(answer))
        elif in_time and problem is not None and hedged.claim():
            self._stable_pool.submit(partial(self._replace, request, hedged, took_s, problem, answer.hurried))
        elif problem is not None:
            self._give_up(hedged)

    def _expire(self, hedged: HedgedRequest) -> None:
        """On the timer's thread: the candidate is late. Stable is asked, and the first good answer is the client's."""
        request = hedged.request
        if request is None or not hedged.first():
            return
        self._stable_pool.submit(partial(self._fall_back, hedged, request, self._clock() - hedged.begin))
        self.breaker.leave(hedged.ticket, good=False)
        self._writer.count("late")

    def _replace(self, request: Request, hedged: HedgedRequest, took_s: float, problem: str, hurried: bool) -> None:  # noqa: FBT001 - of partial
        """On a stable thread: the candidate failed. Only stable's answer tells whose fault that was.

        Not even that tells where the client allowed too little time: who chooses it can choose a moment, too.
        """
        answer, stable_s = self._call_stable(request, hedged.route)
        self._deliver(request, answer, stable_s)
        if answer.error is None:
            self.breaker.leave(hedged.ticket, good=None if hurried else False)
            self._writer.count("failed")
            self._writer.answer("candidate", request, took_s, "failed", problem, stable_s=stable_s, hurried=hurried)
        else:
            self.breaker.leave(hedged.ticket, good=None)
            self._writer.answer("candidate", request, took_s, "client_error", problem)

    def _fall_back(self, hedged: HedgedRequest, request: Request, waited_s: float) -> None:
        """On a stable thread: the candidate is late, and is not asked again by a shadow.

        Only stable's answer to the same request tells whose fault that is, unless the candidate was quicker yet.
        """
        outcome, stable_s = "late", None
        try:
            if hedged.request is not None:
                answer, stable_s = self._call_stable(request, hedged.route)
                if answer.error is not None:
                    outcome = "client_error"
                    self._wait_for_candidate(hedged, answer, stable_s)
                elif hedged.claim():
                    self._deliver(request, answer, stable_s)
        finally:
            error = f"no answer within {waited_s:.3g} s"
            self._writer.answer("candidate", request, waited_s, outcome, error, stable_s=stable_s)

    def _serve(self, request: Request, route: Route | None, *, shadow: bool) -> None:
        """On a stable thread: nobody else may answer, unless stable is found dead by this very request."""
        answer, took_s = self._call_stable(request, route)
        if answer.error is not None and (now := self._route()) is not None and now.splits:
            self._ask_candidate(HedgedRequest(request, now, NO_TICKET, self._clock()), answer, took_s)
            return
        self._finish(request, route, answer, took_s, shadow=shadow)

    def _serve_flight(self, hedged: HedgedRequest, *, shadow: bool) -> None:
        """On a stable thread: the candidate may answer what stable can't."""
        request, route = hedged.request, hedged.route
        if request is None:
            return  # the candidate answered while it stood in line
        answer, took_s = self._call_stable(request, route)
        if answer.error is not None:
            self._ask_candidate(hedged, answer, took_s)
        elif hedged.claim():
            self._finish(request, route, answer, took_s, shadow=shadow)

    def _watch(self, hedged: HedgedRequest) -> None:
        delay_s = self.deadline.seconds(hedged.route.deadline_s)
        self._timer.after(delay_s, partial(self._miss, hedged))

    def _miss(self, hedged: HedgedRequest) -> None:
        """On the timer's thread: stable has not answered yet. Slow is one that answers others meanwhile."""
        if hedged.request is None or hedged.failed is not None:
            return
        if self._heard > hedged.begin:
            hedged.begin = self._clock()
            self._watch(hedged)
            return
        self._candidate_pool.submit(partial(self._fail_over, hedged))

    def _fail_over(self, hedged: HedgedRequest) -> None:
        """On a candidate thread: stable answered with an error, or not at all."""
        request = hedged.request
        if request is None:
            return
        answer, took_s, problem = self._call_candidate(request, hedged.route)
        if problem is not None:
            if self._give_up(hedged):
                self._writer.answer("candidate", request, took_s, "client_error", problem)
        elif hedged.claim():
            try:
                request.reply(answer)
            finally:
                self._writer.count("candidate", "rescued")
                self._writer.answer("candidate", request, took_s, "ok", scores=Scores.of(answer))
                if hedged.failed is not None:
                    error, stable_s = hedged.failed
                    self._writer.answer("stable", request, stable_s, "failed", error.error or "no message")
                else:
                    self._writer.answer("stable", request, self._clock() - hedged.begin, "late", "no answer")

    def _ask_candidate(self, hedged: HedgedRequest, answer: Answer, took_s: float) -> None:
        """Stable answered with an error: a good answer of the candidate's is the client's instead."""
        self._wait_for_candidate(hedged, answer, took_s)
        self._candidate_pool.submit(partial(self._fail_over, hedged))

    def _wait_for_candidate(self, hedged: HedgedRequest, answer: Answer, took_s: float) -> None:
        """Stable's error is the client's only if the candidate has no better answer within its deadline.

        One that is left alone is not waited for so long: the error may well be the client's own.
        """
        hedged.failed = (answer, took_s)
        limit_s = hedged.route.deadline_s
        delay_s = limit_s if self.breaker.state == "closed" else self.deadline.seconds(limit_s)
        if self.calls.given_up(self.stable) is not None:
            delay_s = max(delay_s, LAST_RESORT_S)
        self._timer.after(delay_s, partial(self._give_up, hedged))

    def _give_up(self, hedged: HedgedRequest) -> bool:
        """The candidate has no answer: what stable said is the client's, if it said anything. True when it was."""
        failed = hedged.failed
        request = hedged.claim() if failed is not None else None
        if failed is None or request is None:
            return False
        self._stable_pool.submit(partial(self._finish, request, hedged.route, *failed, shadow=False))
        return True

    def _call_candidate(self, request: Request, route: Route) -> tuple[Answer, float, str | None]:
        """Its answer, the seconds that took, and why the client must not get it."""
        assert route.candidate is not None  # noqa: S101 - Route.splits
        self._writer.count("sent_to_candidate")
        begin = self._clock()
        answer = self.calls.call(request, route.candidate, route.compare)
        return answer, self._clock() - begin, reason_to_reject(answer, self._shape(request, route))

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
            self._shadow.offer(request, route, self._shape(request, route), took_s, scores, self._writer)

    def _deliver(self, request: Request, answer: Answer, took_s: float) -> Scores:
        """Hand stable's answer to the client, and write it down."""
        try:
            request.reply(answer)
        finally:
            scores = Scores.of(answer)
            self._writer.count("stable")
            if answer.error is None:
                self.deadline.observe(took_s)
                self._writer.answer("stable", request, took_s, "ok", scores=scores)
            else:
                self._writer.count("client_errors")
                self._writer.answer("stable", request, took_s, "client_error", answer.error)
        return scores

    def _shape(self, request: Request, route: Route) -> tuple[int, ...] | None:
        """What the compared tensor must look like; None when the client did not ask for it."""
        return self.tensors.scores[route.compare] if route.compare and request.wants(route.compare) else None


class HedgedRequest:
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

        The hedged lets go of it: the timer holds flights until their deadline, long after most are answered, and a
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
