"""Sends each request to one version, and to the other one if the first fails it; answers it once.

Theory of operation: a request is in one of six states, and seven kinds of events move it on. ``TRANSITIONS`` is the
whole table. An event without an entry there came too late: it changes nothing, and an answer that came with it is
dropped. Events come from three kinds of threads, which never wait for each other: those of the stable pool, those of
the candidate's pool (the only ones that a hung candidate can block), and the timer's, which only submits to the pools.

Not in the table:

- the state in which a request begins: :meth:`Splitter.dispatch` chooses it by route, id and announced probe;
- when a version is late: :mod:`.adaptive_deadline`, and :meth:`Splitter._limit_candidate` once stable has failed;
- what is recorded, and what the breaker is told: the methods named ``_record_...`` and ``_reply_stable``;
- shadow calls, which begin when the client has its answer: :mod:`.shadow`;
- frozen and dead processes: :mod:`.calls` turns them into errors, which are FAILED events here;
- clients that go away, which Triton tells no model, and the death of the splitter's own process.

Invariants, with the tests in ``tests/unit/splitter`` that hold them:

- Each request is answered exactly once, and no version is asked twice: ``test_states.py``, for every order of events.
- A request that a living version may answer, and can, does not fail: ``test_states.py``, ``test_failover.py``, and with
  processes that die and hang, ``tests/triton/test_splitter.py``.
- A process that is frozen while requests wait for it is killed before it can wake: ``test_calls.py``, and with one that
  would wake, ``tests/triton/test_splitter.py``.
- An answer that comes after the client's is dropped: ``test_states.py``, ``test_dispatch.py``.
- Each ticket of the breaker comes back, also when a client is gone: ``test_dispatch.py``.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

from .adaptive_deadline import AdaptiveDeadline
from .breaker import Breaker
from .calls import VersionCalls
from .pool import Pool, Timer
from .probes import CANDIDATE, ExpectedProbe
from .request import Answer, Request, Scores, reason_to_reject
from .route import STABLE_ALONE, Lease, Route, Tensors
from .sample_buffer import SampleBuffer
from .sample_writer import SampleWriter
from .shadow import Shadow
from .used_ids import UsedIds

LAST_RESORT_S = 10.0
"""The candidate's time limit, at least, while stable is given up: all requests come to it at once."""


class State(Enum):
    CANDIDATE_FIRST = auto()  # The candidate was asked, and is not late yet.
    STABLE_FIRST = auto()  # Stable was asked. If it fails or stays silent, the candidate is asked: the failover.
    BOTH = auto()  # The version asked first is late, and the other one was asked too. The first good answer counts.
    ONLY_STABLE = auto()  # The candidate failed, or may not answer clients. Stable's answer counts, also an error.
    ONLY_CANDIDATE = auto()  # Stable failed. The candidate's answer counts if good and in time; else stable's error.
    ANSWERED = auto()  # The client has its answer, or it is being sent.


class Event(Enum):
    CANDIDATE_REFUSED = auto()  # It must not be asked: it is given up, the breaker is open, or all its calls are busy.
    CANDIDATE_OK = auto()
    CANDIDATE_FAILED = auto()  # An error, or an answer that no client must get.
    CANDIDATE_LATE = auto()
    STABLE_OK = auto()
    STABLE_FAILED = auto()
    STABLE_SILENT = auto()  # It is late, and has answered nobody else meanwhile.


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CANDIDATE_FIRST, Event.CANDIDATE_REFUSED): State.STABLE_FIRST,  # stable is asked
    (State.CANDIDATE_FIRST, Event.CANDIDATE_OK): State.ANSWERED,
    (State.CANDIDATE_FIRST, Event.CANDIDATE_FAILED): State.ONLY_STABLE,  # stable is asked
    (State.CANDIDATE_FIRST, Event.CANDIDATE_LATE): State.BOTH,  # stable is asked
    (State.STABLE_FIRST, Event.STABLE_OK): State.ANSWERED,
    (State.STABLE_FIRST, Event.STABLE_FAILED): State.ONLY_CANDIDATE,  # the candidate is asked
    (State.STABLE_FIRST, Event.STABLE_SILENT): State.BOTH,  # the candidate is asked
    (State.BOTH, Event.CANDIDATE_OK): State.ANSWERED,
    (State.BOTH, Event.CANDIDATE_FAILED): State.ONLY_STABLE,
    (State.BOTH, Event.STABLE_OK): State.ANSWERED,
    (State.BOTH, Event.STABLE_FAILED): State.ONLY_CANDIDATE,
    (State.ONLY_STABLE, Event.STABLE_OK): State.ANSWERED,
    (State.ONLY_STABLE, Event.STABLE_FAILED): State.ANSWERED,  # with stable's error
    (State.ONLY_CANDIDATE, Event.CANDIDATE_OK): State.ANSWERED,
    (State.ONLY_CANDIDATE, Event.CANDIDATE_FAILED): State.ANSWERED,  # with stable's error
    (State.ONLY_CANDIDATE, Event.CANDIDATE_LATE): State.ANSWERED,  # with stable's error
}


class HedgedRequest:
    """A request on its way through the states.

    ``request`` is None once it is answered: timers hold this object long after, and a request holds shared memory.
    ``begin`` is when it came, or when stable was last seen to answer others only. ``ticket`` is the breaker's if the
    candidate was asked first; a failover has none. ``stable_error`` is stable's error and the seconds that took.
    """

    __slots__ = ("_lock", "begin", "may_shadow", "request", "route", "samples", "stable_error", "state", "ticket")

    def __init__(self, request: Request, route: Route, samples: SampleWriter, begin: float) -> None:
        self._lock = threading.Lock()
        self.state = State.ONLY_STABLE
        self.request: Request | None = request
        self.route = route
        self.samples = samples
        self.begin = begin
        self.may_shadow = True
        self.ticket: int | None = None
        self.stable_error: tuple[Answer, float] | None = None

    def move(self, event: Event) -> State | None:
        """Change the state. Returns the state that the event ended; None if it came too late and changes nothing."""
        with self._lock:
            before = self.state
            after = TRANSITIONS.get((before, event))
            if after is None:
                return None
            self.state = after
            if after is State.ANSWERED:
                self.request = None
            return before


class Attempt(NamedTuple):
    """The candidate was asked first, and ``outcome`` is ``failed`` or ``late``."""

    request: Request
    outcome: str
    took_s: float
    problem: str
    hurried: bool = False


class Splitter:
    """Takes requests and returns at once; the pools answer them.

    Stable alone answers until :meth:`apply` puts a route in force, and after the route's lease has ended. With one
    exception: while stable is given up, the last route goes on, because nobody but its candidate can answer.
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
        self._stable_pool, self._candidate_pool = stable_pool, candidate_pool
        self._timer, self._clock = timer, clock
        # The system's random numbers: clients see where requests went, and could predict another generator from that.
        self._draw = draw or secrets.SystemRandom().random
        self._used_ids = UsedIds()
        self._candidate: int | None = None
        self._stable_answered_at = clock()  # the last good answer, to any request
        self._of_clients, self._of_probes = SampleWriter(self.samples), SampleWriter(self.samples, own=True)
        self._shadow = Shadow(candidate_pool, timer, calls, self.breaker, self.deadline, clock)

    def apply(self, route: Route) -> None:
        """Put a route in force, at once and whole."""
        if route.candidate not in (None, self._candidate):
            self._candidate = route.candidate
            self.breaker.reset()
        self.lease.replace(route)

    def dispatch(self, request: Request) -> None:
        """Start the request on its way."""
        route, probe = self._route(), self.expected_probe.claim(request.id)
        hedged = HedgedRequest(request, route, self._of_clients if probe is None else self._of_probes, self._clock())
        hedged.samples.count("requests")
        if not route.splits:
            self._stable_pool.submit(partial(self._try_stable, hedged))
            return
        if probe is not None:
            to_candidate = probe == CANDIDATE
        else:
            if request.id:
                request.again = self._used_ids.add(route.salt, request.id)
            to_candidate = route.picks_candidate(request.id, self._draw)
        if to_candidate:
            self._candidate_first(hedged, request, route)
        else:
            hedged.state = State.STABLE_FIRST
            self._stable_first(hedged, route)

    def _route(self) -> Route:
        """The route in force; the last one while stable is given up."""
        route = self.lease.current()
        if route is None and self.calls.given_up(self.stable) is not None:
            route = self.lease.lapsed_route
        return route or STABLE_ALONE

    def _candidate_first(self, hedged: HedgedRequest, request: Request, route: Route) -> None:
        hedged.state, hedged.may_shadow = State.CANDIDATE_FIRST, False
        refused = self._ask_candidate(hedged, request, route)
        if refused is None:
            self._timer.after(self.deadline.seconds(route.deadline_s), partial(self._candidate_late, hedged))
            return
        hedged.samples.count("refused")
        hedged.samples.answer("candidate", request, None, "refused", refused)
        hedged.move(Event.CANDIDATE_REFUSED)
        self._stable_first(hedged, route)

    def _ask_candidate(self, hedged: HedgedRequest, request: Request, route: Route) -> str | None:
        """None, or why the candidate must not be asked."""
        if route.candidate is not None and (why := self.calls.given_up(route.candidate)) is not None:
            return why
        ticket = self.breaker.enter()
        if ticket is None:
            return "the breaker is open"
        hedged.ticket = ticket
        if self._candidate_pool.offer(partial(self._try_candidate, hedged, request)):
            return None
        hedged.ticket = None
        self.breaker.leave(ticket, good=None)
        return f"all {self._candidate_pool.size} calls of the candidate are busy"

    def _stable_first(self, hedged: HedgedRequest, route: Route) -> None:
        self._stable_pool.submit(partial(self._try_stable, hedged))
        self._timer.after(self.deadline.seconds(route.deadline_s), partial(self._check_stable, hedged, route))

    def _try_candidate(self, hedged: HedgedRequest, request: Request) -> None:
        """On a candidate thread."""
        route = hedged.route
        assert route.candidate is not None  # noqa: S101 - Route.splits
        hedged.samples.count("sent_to_candidate")
        begin = self._clock()
        answer = self.calls.call(request, route.candidate, route.compare)
        took_s = self._clock() - begin
        problem = reason_to_reject(answer, self._shape(request, route))
        if problem is None:
            if (before := hedged.move(Event.CANDIDATE_OK)) is not None:
                try:
                    request.reply(answer)
                finally:
                    self._record_ok(hedged, before, request, answer, took_s)
            return
        match hedged.move(Event.CANDIDATE_FAILED):
            case State.CANDIDATE_FIRST:
                attempt = Attempt(request, "failed", took_s, problem, answer.hurried)
                self._stable_pool.submit(partial(self._try_stable, hedged, attempt))
            case State.ONLY_CANDIDATE:
                self._stable_pool.submit(partial(self._reply_stable_error, hedged, request))
                if hedged.ticket is None:
                    hedged.samples.answer("candidate", request, took_s, "client_error", problem)

    def _fail_over(self, hedged: HedgedRequest) -> None:
        """On a candidate thread. It is asked in spite of the breaker, and may have waited in line."""
        if (request := hedged.request) is not None:
            self._try_candidate(hedged, request)

    def _candidate_late(self, hedged: HedgedRequest) -> None:
        """On the timer's thread."""
        request = hedged.request
        if request is None:
            return
        match hedged.move(Event.CANDIDATE_LATE):
            case State.CANDIDATE_FIRST:
                waited_s = self._clock() - hedged.begin
                attempt = Attempt(request, "late", waited_s, f"no answer within {waited_s:.3g} s")
                self._stable_pool.submit(partial(self._try_stable, hedged, attempt))
                self.breaker.leave(hedged.ticket, good=False)
                hedged.samples.count("late")
            case State.ONLY_CANDIDATE:
                self._stable_pool.submit(partial(self._reply_stable_error, hedged, request))

    def _try_stable(self, hedged: HedgedRequest, attempt: Attempt | None = None) -> None:
        """On a stable thread. ``attempt`` is the candidate's, if that was asked first."""
        request, stable = hedged.request, None
        try:
            if request is not None:  # else the candidate answered while this waited in line
                begin = self._clock()
                answer = self.calls.call(request, self.stable, hedged.route.compare)
                stable = answer, self._clock() - begin
                (self._stable_ok if answer.error is None else self._stable_failed)(hedged, request, stable)
        finally:
            if attempt is not None:
                self._record_attempt(hedged, attempt, stable)

    def _stable_ok(self, hedged: HedgedRequest, request: Request, stable: tuple[Answer, float]) -> None:
        self._stable_answered_at = self._clock()
        if hedged.move(Event.STABLE_OK) is None:
            return
        scores = self._reply_stable(hedged, request, stable)
        route = hedged.route
        if not hedged.may_shadow or not route.shadow:
            return
        if hedged.samples is self._of_clients and 100 * self._draw() >= route.shadow:
            return  # probes are few, and each is shadowed
        # The call may have taken long: nothing more may reach a candidate that the route no longer names.
        now = self.lease.current()
        if now is not None and now.candidate is not None and now.candidate == route.candidate:
            self._shadow.offer(request, route, self._shape(request, route), stable[1], scores, hedged.samples)

    def _stable_failed(self, hedged: HedgedRequest, request: Request, stable: tuple[Answer, float]) -> None:
        hedged.stable_error = stable  # before the move: other threads need it as soon as the state is ONLY_CANDIDATE
        if not hedged.route.splits and (now := self._route()).splits:
            # A route that came meanwhile allows a failover. No other thread has this request yet.
            hedged.route, hedged.state = now, State.STABLE_FIRST
        match hedged.move(Event.STABLE_FAILED):
            case State.ONLY_STABLE:
                self._reply_stable_error(hedged, request)
            case State.STABLE_FIRST:
                self._limit_candidate(hedged)
                self._candidate_pool.submit(partial(self._fail_over, hedged))
            case State.BOTH:
                self._limit_candidate(hedged)

    def _check_stable(self, hedged: HedgedRequest, route: Route) -> None:
        """On the timer's thread: stable's time is over. If it answers others meanwhile, it is only slow."""
        if hedged.state is not State.STABLE_FIRST:
            return
        if self._stable_answered_at > hedged.begin:
            hedged.begin = self._clock()
            self._timer.after(self.deadline.seconds(route.deadline_s), partial(self._check_stable, hedged, route))
        elif hedged.move(Event.STABLE_SILENT) is not None:
            hedged.may_shadow = False
            self._candidate_pool.submit(partial(self._fail_over, hedged))

    def _limit_candidate(self, hedged: HedgedRequest) -> None:
        """Stable has failed, and the candidate's time begins."""
        limit_s = hedged.route.deadline_s
        if self.breaker.state != "closed":  # the error may well be the request's own
            limit_s = self.deadline.seconds(limit_s)
        if self.calls.given_up(self.stable) is not None:
            limit_s = max(limit_s, LAST_RESORT_S)
        self._timer.after(limit_s, partial(self._candidate_late, hedged))

    def _reply_stable_error(self, hedged: HedgedRequest, request: Request) -> None:
        """On a stable thread."""
        assert hedged.stable_error is not None  # noqa: S101 - set before any state that leads here
        self._reply_stable(hedged, request, hedged.stable_error)

    def _reply_stable(self, hedged: HedgedRequest, request: Request, stable: tuple[Answer, float]) -> Scores:
        """Send stable's answer to the client, and record it."""
        answer, took_s = stable
        try:
            request.reply(answer)
        finally:
            scores = Scores.of(answer)
            hedged.samples.count("stable")
            if answer.error is None:
                self.deadline.observe(took_s)
                hedged.samples.answer("stable", request, took_s, "ok", scores=scores)
            else:
                hedged.samples.count("client_errors")
                hedged.samples.answer("stable", request, took_s, "client_error", answer.error)
        return scores

    def _record_ok(self, hedged: HedgedRequest, before: State, request: Request, answer: Answer, took_s: float) -> None:
        """The candidate's good answer is the client's."""
        samples = hedged.samples
        samples.count("candidate")
        if before is State.CANDIDATE_FIRST:
            self.breaker.leave(hedged.ticket, good=True)
        elif hedged.ticket is not None:
            return  # it came late, and _record_attempt says so
        samples.answer("candidate", request, took_s, "ok", scores=Scores.of(answer))
        if before is State.CANDIDATE_FIRST:
            return
        samples.count("rescued")
        if hedged.stable_error is not None:
            error, stable_s = hedged.stable_error
            samples.answer("stable", request, stable_s, "failed", error.error or "no message")
        else:
            samples.answer("stable", request, self._clock() - hedged.begin, "late", "no answer")

    def _record_attempt(self, hedged: HedgedRequest, attempt: Attempt, stable: tuple[Answer, float] | None) -> None:
        """The candidate's failed or late attempt: only stable's answer to the same request tells whose fault that was.

        Where the client's own timeout ended the attempt, not even that tells: a client can choose such a moment.
        """
        request, outcome, took_s, problem, hurried = attempt
        answer, stable_s = stable or (None, None)
        if answer is not None and answer.error is not None:
            outcome = "client_error"
        if attempt.outcome == "failed":  # a late one has told the breaker already
            self.breaker.leave(hedged.ticket, good=False if outcome == "failed" and not hurried else None)
            if outcome == "failed":
                hedged.samples.count("failed")
        hedged.samples.answer("candidate", request, took_s, outcome, problem, stable_s=stable_s, hurried=hurried)

    def _shape(self, request: Request, route: Route) -> tuple[int, ...] | None:
        """The shape that the compared tensor must have; None when the client did not ask for it."""
        return self.tensors.scores[route.compare] if route.compare and request.wants(route.compare) else None
