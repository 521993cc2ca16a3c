"""Ends processes of loaded models that stand still, before they can wake.

Triton (seen on 24.10) gives a request up when the model's process shows no sign of life for one to two seconds, and
frees what the request was in. A process that stood still and goes on afterwards works on freed memory, and takes the
whole server with it. Killed before it wakes it harms nobody but itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping

from baton.local import procfs

FROZEN_S = 0.5
"""A process that stands still for so long is ended. A shorter pause was never harmful (0 of 6 tries), and Triton waits
for at least one second."""
LOOK_S = 0.05
"""Between two looks, while there is anything to look at. One takes some 50 microseconds a process."""

GONE_S = 0.2
"""A process that was killed is waited for so long: who looks for it then finds none. One in a frozen control group of
version 1 ends later, when that thaws."""

log = logging.getLogger(__name__)


class Guard:
    """Looks at what :meth:`keep` names, on a thread of its own. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: dict[Hashable, tuple[dict[int, int], Callable[[int, float], None]]] = {}
        self._moved: dict[int, float] = {}
        """When each process was last seen not to stand still."""
        self._refused: set[int] = set()
        """Processes that could not be ended: told once."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="baton-guard", daemon=True)

    def keep(self, key: Hashable, processes: Mapping[int, int], ended: Callable[[int, float], None]) -> None:
        """From now on look after these processes under that key; none: after nothing.

        ``processes``: ids, and when each began (:func:`procfs.begun`). ``ended`` is called with the id and the seconds
        that it stood still, once it was ended.
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
                still_s = now - self._moved.setdefault(pid, now)
                if still_s < FROZEN_S:
                    continue
                try:
                    procfs.kill(pid)
                except PermissionError:
                    if pid not in self._refused:
                        log.warning("process %d stands still and is another user's: it can't be ended", pid)
                    self._refused.add(pid)
                else:
                    procfs.wait_end(pid, GONE_S)
                    ended(pid, still_s)
        self._moved = {pid: at for pid, at in self._moved.items() if pid in seen}

    def _run(self) -> None:
        while self._wait():
            try:
                self.look()
            except Exception:
                log.exception("a look at the models' processes broke; it is taken again")

    def _wait(self) -> bool:
        with self._changed:
            while not self._kept and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._changed.wait(LOOK_S)
            return not self._closed
