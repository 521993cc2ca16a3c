"""Threads: bounded pools for blocking calls, and one timer.

Not ``concurrent.futures``: that waits for all its threads when the process exits, and a call to a hung version never
returns.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

Task = Callable[[], object]
OnError = Callable[[BaseException], None]
"""Called with an error that a task did not handle; the thread goes on."""


class Pool:
    """Runs at most ``size`` tasks at a time. A thread starts when it is first needed."""

    def __init__(self, size: int, name: str, on_error: OnError) -> None:
        self.size = size
        self._name = name
        self._on_error = on_error
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    @property
    def free(self) -> int:
        """How many more tasks would start at once."""
        return max(0, self.size - self._unfinished)

    def submit(self, task: Task) -> None:
        """Run the task as soon as a thread is free."""
        with self._lock:
            self._start(task)

    def offer(self, task: Task) -> bool:
        """Run the task at once, or not at all: False when every thread is busy."""
        with self._lock:
            if self._unfinished >= self.size:
                return False
            self._start(task)
            return True

    def close(self, timeout_s: float) -> bool:
        """End the threads after the tasks that are queued. False when some still run after ``timeout_s``."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        until = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start(self, task: Task) -> None:
        self._unfinished += 1
        if self._unfinished > len(self._threads) and len(self._threads) < self.size:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._queue.put(task)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001 - otherwise each error would cost the pool a thread
                self._on_error(error)
            finally:
                del task  # it holds the request's tensors, and the next task may come much later
                with self._lock:
                    self._unfinished -= 1


class Timer:
    """Runs tasks after a delay, all on one thread: a task must be short and must not block."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Task]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="timer", daemon=True)
        self._thread.start()

    def after(self, delay_s: float, task: Task) -> None:
        with self._changed:
            entry = (time.monotonic() + delay_s, next(self._number), task)
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def close(self) -> None:
        """Tasks that are not due yet are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001 - without the timer, late requests would never be answered
                self._on_error(error)
            del task

    def _next(self) -> Task | None:
        """Wait for the next task that is due. None when closed."""
        with self._changed:
            while not self._closed:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
        return None
