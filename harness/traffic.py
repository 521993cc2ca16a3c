"""Load: clients that ask all the time, and every request written down. None tries anything twice.

In an open loop a request is due at its time whether or not the one before was answered, and its latency counts from
when it was due: a stall is seen by all the requests that it kept waiting. In a closed loop each client waits for its
answer, and then for a pause.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from harness.places import GOLDEN
from harness.waiting import PATIENCE_S

from baton.client import Ranking, Reranker
from baton.tls import Tls

Question = tuple[Any, Sequence[Any]]
"""A query and its documents."""
Check = Callable[[int, Ranking], str]
"""What is wrong with the answer to a question, which is told by its number; empty when nothing is."""
REST_S = 0.02
"""The least pause of a client whose request failed: nobody is helped by one that fails a thousand times a second."""
ORDER_S = 8.0
"""Requests are kept in the order of their ends. A machine that stands still disturbs it by no more."""


class Reply(NamedTuple):
    """What a client was told.

    Attributes:
        version: The one that says it computed the answer.
        question: Which of its questions was asked.
        response_version: Of Triton's response itself, where the client sees it.
        wrong: Why the answer cannot be right; the request counts as failed then.
    """

    version: int
    scores: tuple[float, ...] = ()
    question: int = 0
    response_version: str = ""
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What became of one request.

    Attributes:
        due: When it was to be sent; in a closed loop, when it was.
        came: When its answer was there, or its failure.
        version: The one that answered, None when none did.
        error: Why it failed; empty when it did not.
        client: Which client asked.
        scores: As in :class:`Reply`, and so are the others.
    """

    due: float
    came: float
    version: int | None
    error: str = ""
    client: str = ""
    scores: tuple[float, ...] = ()
    question: int = 0
    response_version: str = ""

    @property
    def latency_s(self) -> float:
        return self.came - self.due


Ask = Callable[[int], Reply]
"""Sends the request of that number, and raises when it fails. Numbers rise, from client to client in turn."""


class Client(NamedTuple):
    """One client, which runs in a thread of its own. ``open`` connects it."""

    name: str
    open: Callable[[], AbstractContextManager[Ask]]


class Traffic:
    """Clients that ask from :meth:`start` until :meth:`stop`.

    Attributes:
        requests: All of them, in the order in which they ended.
        answers: Those that were answered well.
        failures: The others. At the end, those that nobody answered in time are among them.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        rate: float | None = None,
        pause_s: float = 0.0,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``rate``: requests a second of all clients together, for an open loop; without it the loop is closed.

        Args:
            clients: Who asks.
            rate: See above.
            pause_s: Of each client after each answer, in a closed loop.
            patience_s: For the last requests at the end.
            clock: In seconds; that of all times here.
        """
        self.requests: list[Request] = []
        self.answers: list[Request] = []
        self.failures: list[Request] = []
        self._clients, self._rate, self._pause, self._patience = clients, rate, pause_s, patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: Counter[int] = Counter()
        self._latest: dict[int, Request] = {}
        self._under_way: dict[int, float] = {}
        self._stopping = threading.Event()
        self._closed = False
        self._begin, self._end = 0.0, float("inf")
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(len(clients))]

    def start(self) -> None:
        self._begin = self._clock() + 0.1
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nothing is due any more. What was due is still asked and waited for, as long as the patience lasts."""
        self._end = min(self._end, self._clock())
        self._stopping.set()
        ends = time.monotonic() + self._patience
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        with self._lock:
            if not self._closed:
                self._closed = True
                for number, due in self._under_way.items():
                    late = f"It was not answered {self._patience:g} s after the end"
                    self._keep(number, Request(due, self._clock(), None, late, self._clients[number].name))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def sent(self) -> int:
        return len(self.requests)

    @property
    def errors(self) -> list[str]:
        """When each failed request failed, whose it was, and why."""
        return [f"{one.came:.3f} {one.client}: {one.error}" for one in self.failures.copy()]

    @property
    def versions(self) -> Counter[int]:
        """How many answers each version gave."""
        with self._lock:
            return self._versions.copy()

    @property
    def latest(self) -> list[Request]:
        """Each client's newest."""
        with self._lock:
            return list(self._latest.values())

    def between(self, start: float, end: float) -> list[Request]:
        """Answers to the requests that were due in the window."""
        return [one for one in self.answers.copy() if start <= one.due < end]

    def since(self, at: float) -> list[Request]:
        """The requests that ended after a moment."""
        found = []
        for one in reversed(self.requests.copy()):
            if one.came < at - ORDER_S:
                break
            if one.came >= at:
                found.append(one)
        return found[::-1]

    def taken(self) -> list[Request]:
        """The requests since this was last called. They are forgotten here, so that it can go on for ever."""
        with self._lock:
            taken = self.requests.copy()
            for kept in (self.requests, self.answers, self.failures):
                kept.clear()
            return taken

    def _run(self, number: int) -> None:
        turn, pause, client = number, 0.0, self._clients[number]
        try:
            with client.open() as ask:
                while (due := self._due(turn, pause)) is not None:
                    with self._lock:
                        self._under_way[number] = due
                    one = attempt(ask, turn, due=due, clock=self._clock, client=client.name)
                    with self._lock:
                        if self._closed:
                            return
                        self._keep(number, one)
                        del self._under_way[number]
                    turn += len(self._clients)
                    pause = max(self._pause, REST_S if one.error else 0.0)
        except Exception as error:  # noqa: BLE001 - a client that can't be connected is a failure, too
            with self._lock:
                if self._closed:
                    return
                at = self._clock()
                self._keep(number, Request(at, at, None, f"{type(error).__name__}: {error}", client.name))

    def _due(self, turn: int, pause: float) -> float | None:
        """Waits until the request is due; None when there is none any more."""
        if self._rate is None:
            return None if self._stopping.wait(pause) else self._clock()
        due = self._begin + turn / self._rate
        self._stopping.wait(max(0.0, due - self._clock()))
        return None if due >= self._end or self._closed else due

    def _keep(self, number: int, one: Request) -> None:
        self.requests.append(one)
        self._latest[number] = one
        if one.error:
            self.failures.append(one)
        else:
            self.answers.append(one)
            self._versions[one.version or 0] += 1


def attempt(
    ask: Ask, number: int, *, due: float | None = None, clock: Callable[[], float] = time.time, client: str = ""
) -> Request:
    """One request, and what became of it."""
    due = clock() if due is None else due
    try:
        reply = ask(number)
    except Exception as error:  # noqa: BLE001 - every failure is what this is here to count
        return Request(due, clock(), None, f"{type(error).__name__}: {error}", client)
    came = clock()
    return Request(due, came, reply.version, reply.wrong, client, reply.scores, reply.question, reply.response_version)


def rerankers(
    urls: Sequence[str],
    asked: Sequence[Question],
    clients: int,
    *,
    model: str = "reranker",
    timeout_s: float = 60.0,
    tls: Tls | None = None,
    check: Check | None = None,
) -> list[Client]:
    """Baton's own clients, over gRPC or HTTP as the URLs say, which they get in turn; each asks by its own dice."""

    def client(number: int) -> Client:
        url, draw = urls[number % len(urls)], random.Random(number)

        @contextmanager
        def connected() -> Iterator[Ask]:
            with Reranker(url, model=model, timeout_s=timeout_s, tls=tls) as reranker:

                def ask(_number: int) -> Reply:
                    question = draw.randrange(len(asked))
                    ranking = reranker.rank(*asked[question])
                    wrong = "" if check is None else check(question, ranking)
                    return Reply(ranking.version, tuple(ranking.scores), question, wrong=wrong)

                yield ask

        return Client(url, connected)

    return [client(number) for number in range(clients)]


def questions(**counts: int) -> list[tuple[Any, list[Any]]]:
    """Of the golden set the first so many of each kind: ``questions(text=4, image=4)``."""
    cases = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    plain = [case for case in cases if "instruction" not in case]
    return [
        (case["query"], case["documents"])
        for kind, count in counts.items()
        for case in [one for one in plain if one["kind"] == kind][:count]
    ]
