"""The one loop: observe, decide, act, for every service in turn, until there is nothing left to do. Then wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from baton.controller.service import Service
from baton.domain import Phase
from baton.errors import BatonError
from baton.journal import EVERY_SERVICE, Journal
from baton.plan import Decision, ProbeVersion
from baton.reasons import Reason, because
from baton.schema import JournalDamaged
from baton.triton.port import Counts, Index, Triton

log = logging.getLogger(__name__)

BUSY_WAIT_S = 0.2
"""How long the loop waits between rounds while a rollout is under way or something is expected."""
IDLE_WAIT_S = 1.0
MOST_STEPS = 50
"""Steps for one service before the others have their turn. The plan needs far fewer."""


class Loop:
    """Runs in a thread of its own. ``lock`` guards observing, deciding and acting; servers are asked outside of it."""

    def __init__(
        self,
        services: Sequence[Service],
        servers: Mapping[str, Triton],
        journal: Journal,
        clock: Callable[[], float],
        wake: threading.Event,
        rescan: float,
        rearm: Callable[[], None] = lambda: None,
        tidy: Callable[[str, int | None, float, frozenset[int] | None], None] = lambda *_: None,
    ) -> None:
        """``tidy`` is called for each service at rest after each round; see ``baton.journal.retention``."""
        self.lock = threading.RLock()
        self.services = services
        self.loop_at = 0.0
        self._round_over = threading.Condition()
        self._servers = servers
        self._journal = journal
        self.clock = clock
        self._wake = wake
        self._rescan = rescan
        self._rearm = rearm
        self._tidy = tidy
        self._scanned_at = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="baton-loop", daemon=True)
        self._pool = ThreadPoolExecutor(max_workers=max(4, len(servers)), thread_name_prefix="baton-index")
        self.indexes: dict[str, Index | str] = {}
        """Each server's repository index as of the last round, or why there is none."""
        self.counts: dict[str, Mapping[str, Mapping[int, Counts]]] = {}
        """What each server counted as of the last round."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the loop after its present step. What runs in Triton goes on, and is found again at the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=False)
        for service in self.services:
            service.tasks.close()

    def paused(self) -> bool:
        return self._journal.notes.paused().get(EVERY_SERVICE) is True

    def set_paused(self, paused: bool) -> None:  # noqa: FBT001 - a setter's one value
        self._journal.notes.paused().put(EVERY_SERVICE, paused)
        self.wake()

    def wake(self) -> None:
        """Have the loop look again now."""
        self._wake.set()

    def next_round(self, timeout_s: float) -> None:
        """Wait until the loop has gone round once more, or the time is over."""
        with self._round_over:
            self._round_over.wait(timeout_s)

    def once(self, *, scan: bool = True) -> bool:
        """One round over all services. True when something is under way, so that the next round should come soon."""
        for service in self.services:
            service.begin_round()
        self.indexes = self._read_indexes()
        busy = False
        for service in self.services:
            try:
                if self._serve(service, scan=scan):
                    busy = True
                elif service.view is not None:
                    self._tidy(service.name, service.view.alias, self.clock(), service.view.there())
            except JournalDamaged as error:
                self._begin_anew(service, error)
                busy = True
            except BatonError as error:
                # Nothing is decided on an incomplete view; the sentence says why there is none.
                why = because(Reason.TROUBLE, error=str(error))
                if service.decision.why != why:
                    log.warning("%s: %s", service.name, why)
                service.decision = Decision(Phase.DEGRADED, why)
            except Exception as error:
                # One service's defect must not keep the others from their rollbacks; it says so loudly, once.
                why = because(Reason.DEFECT, kind=type(error).__name__, error=str(error))
                if service.decision.why != why:
                    log.exception("%s: %s", service.name, why)
                service.decision = Decision(Phase.DEGRADED, why)
        self.loop_at = self.clock()
        with self._round_over:
            self._round_over.notify_all()
        return busy

    def _begin_anew(self, service: Service, damage: JournalDamaged) -> None:
        why = because(Reason.JOURNAL_DAMAGED, error=damage.message)
        try:
            with self.lock:
                self._journal.start_over(self.clock(), damage.message)
        except (BatonError, OSError) as error:  # the disk is full besides: tried again in the next round
            why = because(Reason.JOURNAL_DAMAGED, error=damage.message, then=str(error))
        if service.decision.why != why:
            log.error("%s", why)
        service.decision = Decision(Phase.DEGRADED, why)

    def _serve(self, service: Service, *, scan: bool) -> bool:
        if scan:
            service.scan()
        service.guard(self.indexes)
        service.health.note(self.counts)
        for _ in range(MOST_STEPS):
            with self.lock:
                view = service.observe(self.indexes, paused=self.paused())
                before = service.decision
                changed = service.step(view)
                if service.decision.why.topic() != before.why.topic():  # what only counts down is logged once
                    log.info("%s: %s: %s", service.name, service.decision.phase, service.decision.message)
            if not changed:
                break
        fresh = self.clock() - service.settings.settle - IDLE_WAIT_S
        soon = any(f.quiet_since >= fresh for f in view.folders.values())
        running = any(not isinstance(e, ProbeVersion) for e in view.running)
        return view.rollout is not None or running or soon

    def _read_indexes(self) -> dict[str, Index | str]:
        self.counts = {}

        def ask(server: Triton) -> Index | str:
            before = self.indexes.get(server.name)
            try:
                index = server.index()
            except BatonError as error:
                # The reason matters as much as the silence: a link to nowhere in the repository makes Triton refuse
                # its index, too (seen on 24.10).
                if not isinstance(before, str):
                    log.warning("%s", error)
                return str(error)
            if isinstance(before, str):
                log.info("server %s answers again", server.name)
            try:
                self.counts[server.name] = server.counts()
            except BatonError as error:  # found dead a little later, then
                log.debug("%s", error)
            return index

        return dict(zip(self._servers, self._pool.map(ask, self._servers.values()), strict=True))

    def _run(self) -> None:
        while not self._stop.is_set():
            woken = self._wake.is_set()
            self._wake.clear()
            due = woken or self.clock() - self._scanned_at >= self._rescan
            if due:
                self._rearm()
            busy = self.once(scan=due)
            if due:
                self._scanned_at = float("-inf") if busy else self.clock()
            self._wake.wait(BUSY_WAIT_S if busy else IDLE_WAIT_S)
