"""Threads that are none: each runs until it would wait, and the seed says who goes on.

What the engine hands to a pool of threads becomes a greenlet. It stops before each call to a server and while it waits
for one; the loop and what persons ask for stop where they let go of the loop's lock. So every order in which real
threads could take these turns can happen, and the same seed gives the same order again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from greenlet import greenlet

from baton.controller.tasks import Task
from baton.plan import Effect


class Crash(BaseException):
    """The control plane is killed here."""


@dataclass(frozen=True)
class Seen:
    """How much of what others did to folders, files, rollouts and each server is known.

    Nobody can act on what came after.
    """

    folders: int = -1
    edits: int = 0
    stops: int = 0
    servers: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Job:
    """One of them. ``waits`` tells when it can go on; ``seen`` what was known when it was decided on."""

    label: str
    run: greenlet
    effect: Effect | None
    seen: Seen
    waits: Callable[[], bool] | None = None


class Crew(Executor):
    """``starting`` is told each effect that begins; ``seen`` gives what is known now."""

    def __init__(self, starting: Callable[[Effect], None], seen: Callable[[], Seen]) -> None:
        self.current: Job | None = None
        self._starting = starting
        self._seen = seen
        self._hub = greenlet.getcurrent()
        self._jobs: list[Job] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        task = args[0]
        assert isinstance(task, Task), "only effects run in the background"
        self._starting(task.effect)
        self.spawn(str(task.effect), lambda: work(*args, **options), task.effect)
        return Future()

    def map(self, work: Callable[..., Any], *values: Iterable[Any], **_: Any) -> Iterator[Any]:
        return iter([work(*given) for given in zip(*values, strict=True)])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """There are no threads to end."""

    def spawn(self, label: str, work: Callable[[], Any], effect: Effect | None = None) -> Job:
        job = Job(label, greenlet(work, parent=self._hub), effect, self._seen())
        self._jobs.append(job)
        return job

    def ready(self) -> list[Job]:
        """Who can go on; the same order in every process."""
        return sorted((j for j in self._jobs if j.waits is None or j.waits()), key=lambda j: j.label)

    def go(self, job: Job) -> None:
        """Let it run to its next stop."""
        self.current, job.waits = job, None
        try:
            job.run.switch()
        finally:
            self.current = None
            if job.run.dead:
                self._jobs.remove(job)

    def pause(self, until: Callable[[], bool] | None = None) -> None:
        """Called by a job: here another one may have its turn."""
        assert self.current is not None, "nobody waits outside of a job"
        self.current.waits = until
        self._hub.switch()

    def kill(self) -> None:
        """All of them end where they are."""
        for job in self._jobs:
            if not job.run.dead:
                try:
                    job.run.throw(Crash)
                except Crash:
                    continue
        self._jobs.clear()


class Lock:
    """The loop's lock among greenlets: who lets go of it may have to wait for its next turn."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._depth = 0
        self._holder: Job | None = None

    def __enter__(self) -> None:
        assert self._holder in (None, self._crew.current), "two hold the loop's lock"
        self._holder = self._crew.current
        self._depth += 1

    def __exit__(self, kind: object, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = None
            if kind is None and self._crew.current is not None:
                self._crew.pause()
