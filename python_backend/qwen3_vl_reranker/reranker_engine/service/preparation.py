"""Threads that prepare what takes long, so that the computing thread goes on with everybody else's requests."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from reranker_engine.inference.steps import Next

from .job import SLICE_S, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .job import Job

FETCHERS = 8
"""Threads that wait for other hosts."""
PLACES = {Next.LONG: 32, Next.LARGE: 4}
"""Requests whose images and videos are in memory: that are being decoded, or decoded and not yet answered."""
LINE = 32
"""Large requests that may wait for their place."""
ASK_S = 0.25
"""How often it is asked whether the client of such a request is gone."""
NICE = 10
"""Decoders give way to what computes: their priority is that of a program under ``nice``."""


def default_decoders() -> int:
    """Threads that decode: a quarter of the cores, at least two and at most four."""
    return max(2, min(4, len(os.sched_getaffinity(0)) // 4))


class Lanes:
    """Requests take turns in slices of ``SLICE_S``; large ones wait for each other and never hold up the others.

    The first decoder takes no large request. A request keeps its place until it is answered: what it decoded is in
    memory for so long.
    """

    def __init__(self, ready: Callable[[Job], None], decoders: int | None = None) -> None:
        """``ready``: called from a thread of these with a job that is prepared or failed."""
        self._ready = ready
        self._changed = threading.Condition()
        self._queues: dict[Next, deque[tuple[Job, Next]]] = {kind: deque() for kind in (*PLACES, Next.NETWORK)}
        self._waiting: dict[Next, deque[tuple[Job, Next]]] = {kind: deque() for kind in PLACES}
        self._places: dict[Job, Next] = {}
        self._closed = False
        kinds: list[tuple[Next, ...]] = [(Next.LONG,)]
        kinds += [(Next.LONG, Next.LARGE)] * ((decoders or default_decoders()) - 1) + [(Next.NETWORK,)] * FETCHERS
        self._threads = [
            threading.Thread(target=self._work, args=(own,), name=f"prepare-{own[-1].value}", daemon=True)
            for own in kinds
        ]
        for thread in self._threads:
            thread.start()

    def take(self, job: Job, step: Next) -> None:
        """Go on with a job, whose next step is of that kind."""
        with self._changed:
            self._put(job, step)

    def withdraw(self, job: Job) -> bool:
        """Take a job back that waits, prepared or not; False while a thread is at it, which looks after it itself."""
        with self._changed:
            for line in (*self._waiting.values(), *self._queues.values()):
                for entry in line:
                    if entry[0] is job:
                        line.remove(entry)
                        return True
        return False

    def leave(self, job: Job) -> None:
        """The job is answered: what it had in memory is free."""
        with self._changed:
            if job in self._places:
                self._vacate(job)

    def close(self) -> None:
        """End the threads; they must have nothing left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _put(self, job: Job, step: Next) -> None:
        held = self._places.get(job)
        wanted = Next.LARGE if Next.LARGE in (step, held) else Next.LONG
        if held is not wanted:
            if held is not None:
                self._vacate(job)
            if self._held(wanted) >= PLACES[wanted]:
                if wanted is Next.LARGE and len(self._waiting[wanted]) >= LINE:
                    raise Refused(
                        "busy",
                        f"busy: {PLACES[wanted]} requests with long videos or large images are under way here, and "
                        f"{LINE} more wait; try again later, or send shorter videos and smaller images",
                    )
                self._waiting[wanted].append((job, step))
                return
            self._places[job] = wanted
        self._queues[Next.NETWORK if step is Next.NETWORK else wanted].append((job, step))
        self._changed.notify_all()

    def _held(self, kind: Next) -> int:
        return sum(held is kind for held in self._places.values())

    def _vacate(self, job: Job) -> None:
        kind = self._places.pop(job)
        if self._waiting[kind]:
            successor, step = self._waiting[kind].popleft()
            self._places[successor] = kind
            self._queues[Next.NETWORK if step is Next.NETWORK else kind].append((successor, step))
            self._changed.notify_all()

    def _work(self, kinds: tuple[Next, ...]) -> None:
        with suppress(OSError, AttributeError):  # a system without priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._changed:
                while not (self._closed or any(self._queues[kind] for kind in kinds)):
                    self._changed.wait()
                kind = next((kind for kind in kinds if self._queues[kind]), None)
                if kind is None:
                    return
                job, _ = self._queues[kind].popleft()
            # Where there are several kinds they take turns.
            kinds = (*(one for one in kinds if one is not kind), kind)
            self._go_on(job, kind)
            del job  # while it waits, a thread must hold no request's memory

    def _go_on(self, job: Job, kind: Next) -> None:
        """A slice of a job's preparation; of waiting for another host, one step."""
        until = time.monotonic() + SLICE_S
        try:
            while True:
                if (refused := job.refused(ASK_S)) is not None:
                    raise refused  # noqa: TRY301 - one way out for all that goes wrong
                step = next(job.steps)
                if kind is Next.NETWORK or step is Next.NETWORK or time.monotonic() >= until:
                    break
                if step is Next.LARGE and kind is not step:
                    break
            self.take(job, step)
        except StopIteration as end:
            job.prepared = end.value
            self._ready(job)
        except BaseException as error:  # noqa: BLE001 - a request's surprise; the computing thread knows what to do
            job.failed = error
            self._ready(job)
