"""Runs effects that take time in the background: each at most once at a time. The end of one wakes the loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from baton.errors import BatonError, KeyRefused, TritonError
from baton.plan import Effect, Failure
from baton.probe import Cancelled
from baton.triton.words import ended, machine

ROW_S = 120.0
"""Failures of one effect count as in a row while no more than this lies between them. Retries wait 30 s at most."""
log = logging.getLogger(__name__)


@dataclass
class Task:
    """One running effect. ``cancel`` is set to stop it at its next safe point."""

    effect: Effect
    began: float = 0.0
    cancel: threading.Event = field(default_factory=threading.Event)


class Tasks:
    """The running effects of one service, and the last failure of each kind of effect."""

    def __init__(self, name: str, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._running: dict[Effect, Task] = {}
        self._failed: dict[Effect, Failure] = {}
        # A load of fifteen minutes on one server must not keep a gate, a flip or another server waiting.
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix=f"baton-{name}")

    def running(self) -> frozenset[Effect]:
        with self._lock:
            return frozenset(self._running)

    def failed(self) -> dict[Effect, Failure]:
        with self._lock:
            return dict(self._failed)

    def start(self, effect: Effect, work: Callable[[Task], Any]) -> None:
        """Run ``work`` for the effect in the background. Nothing happens when it runs already."""
        with self._lock:
            if effect in self._running:
                return
            task = self._running[effect] = Task(effect, self._clock())
        self._pool.submit(self._run, task, work)

    def attempt(self, effect: Effect, work: Callable[[], Any]) -> bool:
        """Run ``work`` here and now, with the same bookkeeping. True when it went well."""
        try:
            work()
        except BatonError as error:
            self._note(effect, error)
            return False
        with self._lock:
            self._failed.pop(effect, None)
        return True

    def cancel(self, wanted: Callable[[Effect], bool]) -> None:
        """Call off the running effects that match."""
        with self._lock:
            for effect, task in self._running.items():
                if wanted(effect):
                    task.cancel.set()

    def forget_failures(self) -> None:
        """What failed for one rollout says nothing about the next."""
        with self._lock:
            self._failed.clear()

    def close(self) -> None:
        """Call everything off, and do not wait for what can't be called off (a load call, say)."""
        self.cancel(lambda _effect: True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, task: Task, work: Callable[[Task], Any]) -> None:
        try:
            work(task)
        except Cancelled:
            log.info("%s was called off", task.effect)
        except BatonError as error:
            self._note(task.effect, error)
        except Exception as error:
            # A defect must not leave the effect marked as running for ever: it counts as a failed try.
            log.exception("%s broke", task.effect)
            self._note(task.effect, BatonError(f"{type(error).__name__}: {error}"))
        else:
            with self._lock:
                self._failed.pop(task.effect, None)
        finally:
            with self._lock:
                del self._running[task.effect]
            self._wake()

    def _rested(self, effect: Effect, now: float) -> bool:
        """Whether the effect was not tried for a while before this: then its earlier failures do not count."""
        task = self._running.get(effect)
        return (now if task is None else task.began) - self._failed[effect].at > ROW_S

    def _note(self, effect: Effect, error: BatonError) -> None:
        log.warning("%s failed: %s", effect, error)
        with self._lock:
            before = self._failed.get(effect)
            count = before.count + 1 if before else 1
            # A key that is refused says nothing about a version.
            refused = isinstance(error, TritonError) and not isinstance(error, KeyRefused)
            words = error.words if refused and isinstance(error, TritonError) else ""
            message = f"{error} {ended(words)}".rstrip()
            now = self._clock()
            since = before.since if before is not None and not self._rested(effect, now) else now
            self._failed[effect] = Failure(now, count, message, refused, words, since, machine(words))
