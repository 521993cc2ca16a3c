"""Threads that prepare requests whose preparation takes long, so that the computing thread can serve all others.

Jobs wait in three queues, by the kind of their next step:

- ``LONG``: decoding, resizing, long texts. Every decode thread takes them.
- ``LARGE``: the same for requests that decode very much. Every decode thread but the first takes them, so that one
  thread is always there for the others.
- ``NETWORK``: waiting for another host, on threads of its own.

Within a queue jobs take turns, one time slice each. A job needs a slot before it is decoded, and keeps it until it is
answered: the slots bound how many requests have decoded media in memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from reranker_engine.inference.steps import StepKind

from .job import SLICE_S, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .job import Job

FETCH_THREADS = 8
"""Threads that wait for other hosts."""
SLOTS = {StepKind.LONG: 32, StepKind.LARGE: 4}
"""How many requests may have images and videos in memory, from the start of decoding until the answer."""
MAX_WAITING_LARGE = 32
"""How many large requests may wait for a slot; further ones are refused."""
POLL_S = 0.25
"""How often a job is checked for cancellation and deadline."""
NICE = 10
"""The threads' niceness: decoding yields the processor to the computing thread."""


def default_decode_threads() -> int:
    """A quarter of the cores, at least two and at most four."""
    return max(2, min(4, len(os.sched_getaffinity(0)) // 4))


class PreparationPool:
    """Runs the steps of jobs; see the module's description."""

    def __init__(self, on_done: Callable[[Job], None], decode_threads: int | None = None) -> None:
        """``on_done``: called on a thread of the pool with each job that is prepared or failed."""
        self._on_done = on_done
        self._changed = threading.Condition()
        self._queues: dict[StepKind, deque[tuple[Job, StepKind]]] = {
            kind: deque() for kind in (*SLOTS, StepKind.NETWORK)
        }
        self._waiting: dict[StepKind, deque[tuple[Job, StepKind]]] = {kind: deque() for kind in SLOTS}
        self._slots: dict[Job, StepKind] = {}
        self._closed = False
        kinds: list[tuple[StepKind, ...]] = [(StepKind.LONG,)]
        kinds += [(StepKind.LONG, StepKind.LARGE)] * ((decode_threads or default_decode_threads()) - 1)
        kinds += [(StepKind.NETWORK,)] * FETCH_THREADS
        self._threads = [
            threading.Thread(target=self._work, args=(own,), name=f"prepare-{own[-1].value}", daemon=True)
            for own in kinds
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, step: StepKind) -> None:
        """Continue a job whose next step is of kind ``step``.

        Raises:
            Refused: Too many large requests wait already.
        """
        with self._changed:
            self._enqueue(job, step)

    def withdraw(self, job: Job) -> bool:
        """Take a job out of its queue; False if none holds it: a thread is running it, and will check it itself."""
        with self._changed:
            for queue in (*self._waiting.values(), *self._queues.values()):
                for entry in queue:
                    if entry[0] is job:
                        queue.remove(entry)
                        return True
        return False

    def release(self, job: Job) -> None:
        """The job is answered: its slot is free for another one."""
        with self._changed:
            if job in self._slots:
                self._free_slot(job)

    def close(self) -> None:
        """End the threads; no job may be left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, job: Job, step: StepKind) -> None:
        held = self._slots.get(job)
        needed = StepKind.LARGE if StepKind.LARGE in (step, held) else StepKind.LONG
        if held is not needed:
            if held is not None:
                self._free_slot(job)
            if self._used(needed) >= SLOTS[needed]:
                if needed is StepKind.LARGE and len(self._waiting[needed]) >= MAX_WAITING_LARGE:
                    raise Refused(
                        "busy",
                        f"busy: {SLOTS[needed]} requests with long videos or large images are under way here, and "
                        f"{MAX_WAITING_LARGE} more wait; try again later, or send shorter videos and smaller images",
                    )
                self._waiting[needed].append((job, step))
                return
            self._slots[job] = needed
        self._queues[StepKind.NETWORK if step is StepKind.NETWORK else needed].append((job, step))
        self._changed.notify_all()

    def _used(self, kind: StepKind) -> int:
        return sum(held is kind for held in self._slots.values())

    def _free_slot(self, job: Job) -> None:
        kind = self._slots.pop(job)
        if self._waiting[kind]:
            successor, step = self._waiting[kind].popleft()
            self._slots[successor] = kind
            self._queues[StepKind.NETWORK if step is StepKind.NETWORK else kind].append((successor, step))
            self._changed.notify_all()

    def _work(self, kinds: tuple[StepKind, ...]) -> None:
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
            # The kind that was just served comes last, so that kinds alternate.
            kinds = (*(one for one in kinds if one is not kind), kind)
            self._run_slice(job, kind)
            del job  # an idle thread must not hold a request's memory

    def _run_slice(self, job: Job, kind: StepKind) -> None:
        """One time slice of a job; on a thread for other hosts, one step."""
        until = time.monotonic() + SLICE_S
        try:
            while True:
                if (refusal := job.refusal(POLL_S)) is not None:
                    raise refusal  # noqa: TRY301 - errors of all kinds leave by the same way
                step = next(job.steps)
                if kind is StepKind.NETWORK or step is StepKind.NETWORK or time.monotonic() >= until:
                    break
                if step is StepKind.LARGE and kind is not step:
                    break
            self.submit(job, step)
        except StopIteration as end:
            job.prepared = end.value
            self._on_done(job)
        except BaseException as error:  # noqa: BLE001 - the scheduler decides what an error means
            job.error = error
            self._on_done(job)
