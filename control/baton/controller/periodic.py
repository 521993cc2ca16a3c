"""Calls what need not happen at once, every ten seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

EVERY_S = 10.0

log = logging.getLogger(__name__)


class PeriodicRunner:
    """A thread that calls each of ``calls`` in turn."""

    def __init__(self, *calls: Callable[[], None]) -> None:
        self._calls = calls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="baton-rounds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the call that is under way."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            for call in self._calls:
                if self._stop.is_set():
                    return
                try:
                    call()
                except Exception:
                    # A defect in one must not end the others, nor itself for ever.
                    log.exception("a periodic check broke; it is repeated in %g s", EVERY_S)
