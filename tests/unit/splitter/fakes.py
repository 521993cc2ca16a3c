"""Requests, threads and a clock that do what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tests.unit.splitter.routes import route_of

from traffic_splitter.calls import VersionCalls
from traffic_splitter.dispatch import Splitter
from traffic_splitter.request import Answer
from traffic_splitter.route import Caps, Tensors, parse_route

TENSORS = Tensors(texts=frozenset({"query", "documents", "media"}), scores={"scores": (-1, -1), "logits": (-1, 3)})

UNCAPPED = Caps(weight=100.0, shadow=100.0, lease_s=3600.0, contents=True)


def scored(*values: float, shape: tuple[int, ...] | None = None) -> Answer:
    return Answer("scores", scores=np.array(values, dtype=np.float64).reshape(shape or (1, -1)))


def failing(text: str = "broken") -> Answer:
    return Answer("error", error=text)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakePool:
    """Keeps tasks until :meth:`run`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tasks: list[Callable[[], None]] = []
        self.busy = 0
        """Pool that a hung call holds."""

    @property
    def free(self) -> int:
        return self.size - self.busy - len(self.tasks)

    def submit(self, task: Callable[[], None]) -> None:
        self.tasks.append(task)

    def offer(self, task: Callable[[], None]) -> bool:
        if self.free <= 0:
            return False
        self.tasks.append(task)
        return True

    def run(self) -> None:
        while self.tasks:
            self.tasks.pop(0)()


class FakeTimer:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[tuple[float, Callable[[], None]]] = []

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        self.entries.append((self.clock() + delay_s, act))

    def run(self) -> None:
        due = [act for at, act in self.entries if at <= self.clock()]
        self.entries = [(at, act) for at, act in self.entries if at > self.clock()]
        for act in due:
            act()


class FakeProcesses:
    """One process of each version, by version; what was killed, in order."""

    def __init__(self) -> None:
        self.runs: dict[int, dict[int, int]] = {1: {101: 1}, 2: {102: 1}}
        self.stopped: set[int] = set()
        self.named: set[int] | None = None
        """Those of which Triton speaks; None: it names none."""
        self.may_kill = True
        self.killed: list[int] = []

    def running(self, version: int) -> Mapping[int, int]:
        return dict(self.runs.get(version, {}))

    def scan(self, version: int) -> Mapping[int, int]:
        return self.running(version)

    def named_in(self, version: int, _error: str) -> Mapping[int, int]:
        return {p: b for p, b in self.running(version).items() if self.named is None or p in self.named}

    def frozen(self, version: int) -> Mapping[int, int]:
        return {pid: begun for pid, begun in self.running(version).items() if pid in self.stopped}

    def kill(self, known: Mapping[int, int]) -> bool:
        if self.may_kill:
            self.killed += known
            self.runs = {v: {p: b for p, b in all_.items() if p not in known} for v, all_ in self.runs.items()}
        return self.may_kill


class FakeRequest:
    """``versions`` maps a version to its answer, or to what makes one; a call takes ``took_s``."""

    def __init__(self, stage: Stage, request_id: str = "", **given: Any) -> None:
        self.id = request_id
        self.again = False
        self.stage = stage
        self.replies: list[Answer] = []
        self.calls: list[int] = []
        self.given = {"query": [b'{"text": "x"}'], "documents": [b'{"image": {}}', b'{"text": ""}']} | given
        self.bytes = 100

    def call(self, version: int, compare: str | None) -> Answer:
        self.calls.append(version)
        answer = self.stage.versions[version]
        self.stage.clock.now += self.stage.took_s
        return answer(self) if callable(answer) else answer

    def refusal(self, error: str) -> Answer:
        return failing(error)

    def reply(self, answer: Answer) -> None:
        self.replies.append(answer)

    def wants(self, output: str) -> bool:
        return output in self.stage.wanted

    def size(self) -> int:
        return self.bytes

    def texts(self) -> Mapping[str, list[bytes]]:
        return self.given


class Stage:
    """A splitter whose versions 1 (stable) and 2 answer as :attr:`versions` says."""

    def __init__(self, **route: Any) -> None:
        self.clock = Clock()
        self.stable_pool, self.candidate_pool = FakePool(20), FakePool(10)
        self.timer = FakeTimer(self.clock)
        self.processes = FakeProcesses()
        self.warnings: list[str] = []
        self.calls = VersionCalls(self.processes, self.clock, self.warnings.append)
        self.draws: list[float] = []
        """What the random draws give; 0 when used up."""
        self.splitter = Splitter(
            1,
            TENSORS,
            stable_pool=self.stable_pool,
            candidate_pool=self.candidate_pool,
            timer=self.timer,
            calls=self.calls,
            clock=self.clock,
            draw=lambda: self.draws.pop(0) if self.draws else 0.0,
        )
        self.versions: dict[int, Any] = {1: scored(0.1, 0.2), 2: scored(0.3, 0.4)}
        self.took_s = 0.01
        self.wanted = {"scores"}
        if route:
            self.follow(**route)

    def follow(self, **route: Any) -> None:
        self.splitter.apply(parse_route(route_of(**route), stable=1, tensors=TENSORS, caps=UNCAPPED))

    def send(self, request_id: str = "", *, run: bool = True) -> FakeRequest:
        request = FakeRequest(self, request_id)
        self.splitter.dispatch(request)
        if run:
            self.run()
        return request

    def run(self) -> None:
        """Until nothing is left to do now."""
        while self.stable_pool.tasks or self.candidate_pool.tasks:
            self.stable_pool.run()
            self.candidate_pool.run()

    @property
    def counts(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: count for name, count in self.splitter.samples.counts().items() if count}

    def samples(self, what: str = "answer") -> list[dict[str, Any]]:
        found = json.loads(self.splitter.samples.since(0)[0])
        return [sample for sample in found if sample["what"] == what]
