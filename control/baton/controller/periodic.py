"""Looks at what need not be known at once, every ten seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

EVERY_S = 10.0

log = logging.getLogger(__name__)


class PeriodicRunner:
    """A thread that calls each of ``looks`` in turn."""

    def __init__(self, *looks: Callable[[], None]) -> None:
        self._looks = looks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="baton-rounds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            for look in self._looks:
                if self._stop.is_set():
                    return
                try:
                    look()
                except Exception:
                    # One look's defect must not end the others, nor itself for ever.
                    log.exception("a look at what runs broke; it is taken again")
