"""Kills frozen processes of loaded models (SIGSTOP, a frozen control group) before they go on.

Triton (seen on 24.10) gives a request up when the model's process shows no sign of life for one to two seconds, and
frees the request's memory. A frozen process that goes on afterwards uses freed memory, and the whole server aborts.
Killed while it is frozen, it takes only itself down. Not covered: a process that merely gets no processor time (it
looks like a busy one), and processes that Baton can't see or that belong to other users.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping

from baton.local import procfs

FROZEN_S = 0.5
"""A process that is frozen for so long is killed. A shorter pause did no harm (0 of 6 tries), and Triton waits for at
least one second."""
LOOK_S = 0.05
"""Between two looks, while there is anything to look at. A look takes some 50 microseconds a process."""
GONE_S = 0.2
"""A killed process is waited for so long, so that nobody finds it afterwards. In a frozen control group of version 1 it
ends later, when that thaws."""

log = logging.getLogger(__name__)


class Guard:
    """Watches the processes that :meth:`keep` names, on a thread of its own. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[Hashable, tuple[dict[int, int], Callable[[int, float], None]]] = {}
        self._moved: dict[int, float] = {}
        """When each process was last seen running."""
        self._refused: set[int] = set()
        """Processes that could not be killed, and were logged."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="baton-guard", daemon=True)

    def keep(self, key: Hashable, processes: Mapping[int, int], ended: Callable[[int, float], None]) -> None:
        """From now on watch these processes under that key, in the place of those before; without any, stop watching.

        ``processes``: ids, and when each began (:func:`procfs.begun`). ``ended`` is called after one was killed, with
        its id and for how many seconds it was frozen.
        """
        with self._changed:
            if processes:
                self._kept[key] = (dict(processes), ended)
            else:
                self._kept.pop(key, None)
            self._changed.notify_all()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """One look at all of them."""
        with self._changed:
            kept = list(self._kept.values())
        now, seen = self._clock(), set()
        for processes, ended in kept:
            for pid, begun in processes.items():
                seen.add(pid)
                if not procfs.frozen(pid) or procfs.begun(pid) != begun:
                    self._moved[pid] = now
                    continue
                frozen_s = now - self._moved.setdefault(pid, now)
                if frozen_s < FROZEN_S:
                    continue
                try:
                    procfs.kill(pid)
                except PermissionError:
                    if pid not in self._refused:
                        log.warning("process %d is frozen and another user's: Baton may not kill it", pid)
                    self._refused.add(pid)
                else:
                    procfs.wait_end(pid, GONE_S)
                    ended(pid, frozen_s)
        self._moved = {pid: at for pid, at in self._moved.items() if pid in seen}

    def _run(self) -> None:
        while self._wait():
            try:
                self.look()
            except Exception:
                log.exception("looking at the models' processes failed; Baton tries again")

    def _wait(self) -> bool:
        with self._changed:
            while not self._kept and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._changed.wait(LOOK_S)
            return not self._closed
