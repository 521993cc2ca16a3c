"""Watches the memory of every engine version on this machine, and logs an alarm when it grows.

It stops no rollout: a version that leaks serves well for hours, and a person decides when to replace it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from baton.codec import encode
from baton.config import ServiceConfig
from baton.domain import WORST_FIRST, GateResult, Verdict
from baton.errors import BatonError
from baton.journal import Journal
from baton.judge import judge_memory
from baton.local import procfs
from baton.reasons import Reason, because
from baton.watch.memory import History, MemoryWatch, Usage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionMemory:
    """What a version takes now, in bytes, and whether that grows."""

    usage: Usage
    result: GateResult


class Memory:
    """``of`` may be called from any thread, ``look`` from one."""

    def __init__(
        self, services: Mapping[str, ServiceConfig], repository: Path, journal: Journal, clock: Callable[[], float]
    ) -> None:
        self._services = services
        self._journal = journal
        self._clock = clock
        self._watch = MemoryWatch(repository, procfs.stubs)
        self._histories = {name: History(s.gates.memory_window) for name, s in services.items()}
        self._lock = threading.Lock()
        self._seen: dict[str, dict[int, VersionMemory]] = {name: {} for name in services}

    def of(self, service: str) -> dict[int, VersionMemory]:
        """The service's engine versions that have a process on this machine."""
        with self._lock:
            return dict(self._seen[service])

    def look(self) -> None:
        """Take one sample of every service and judge it."""
        sample = self._watch.sample()
        at = time.monotonic()
        for name, service in self._services.items():
            history = self._histories[name]
            history.record(at, {key: usage for key, usage in sample.items() if key[0] == service.engine})
            found = {
                version: VersionMemory(usage, self._judge(service, version))
                for (model, version), usage in sample.items()
                if model == service.engine
            }
            with self._lock:
                before, self._seen[name] = self._seen[name], found
            for version, memory in found.items():
                known = before.get(version)
                if memory.result.verdict is Verdict.FAIL and (
                    known is None or known.result.verdict is not Verdict.FAIL
                ):
                    self._alarm(name, memory.result)

    def _judge(self, service: ServiceConfig, version: int) -> GateResult:
        """The worse of resident and GPU memory."""
        limits, history = service.gates, self._histories[service.name]
        series = {
            "resident": history.series(service.engine, version),
            "GPU": history.gpu_series(service.engine, version),
        }
        results = [
            replace(result, message=f"Version {version}, {what} memory: {result.message}")
            for what, samples in series.items()
            if samples
            for result in [judge_memory(samples, limit=limits.memory_limit, window_s=limits.memory_window)]
        ]
        return min(results, key=lambda r: WORST_FIRST.index(r.verdict))

    def _alarm(self, service: str, result: GateResult) -> None:
        log.warning("%s: %s", service, result.message)
        try:
            why = because(Reason.MEMORY_GROWS, said=result.message)
            self._journal.events.append(self._clock(), "memory", why, service=service, data=encode(result.evidence))
        except BatonError as error:
            log.warning("the alarm could not be written down: %s", error)
