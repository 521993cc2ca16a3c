"""The device and precision that each engine version runs in, as the engines report; an alarm for less than asked for.

Like the memory's, the alarm stops no rollout: the operator allowed the engine to run in less, and a person decides
when there is room for more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from baton.config import ServiceConfig
from baton.domain import EngineInfo, ModelState
from baton.errors import BatonError, Unreachable
from baton.journal import Journal
from baton.reasons import Reason, Why, because
from baton.triton.port import EngineInfos, Index, Triton

log = logging.getLogger(__name__)

ByServer = Mapping[str, frozenset[EngineInfo]]
"""What a version's instances on each server run in."""


class EngineInfoMonitor:
    """``of`` may be called from any thread, ``look`` from one."""

    def __init__(
        self,
        services: Mapping[str, ServiceConfig],
        servers: Mapping[str, Triton],
        indexes: Callable[[], Mapping[str, Index | str]],
        journal: Journal,
        clock: Callable[[], float],
    ) -> None:
        """``indexes``: each server's repository index as it was last seen, or why there is none."""
        self._services = services
        self._servers = servers
        self._indexes = indexes
        self._journal = journal
        self._clock = clock
        self._logged: dict[str, str] = {}
        self._alarms: set[tuple[str, int, str, EngineInfo]] = set()
        self._lock = threading.Lock()
        self._seen: dict[str, dict[int, dict[str, frozenset[EngineInfo]]]] = {name: {} for name in services}

    def of(self, service: str) -> dict[int, ByServer]:
        """The service's engine versions that are READY and report what they run in."""
        with self._lock:
            return {version: dict(servers) for version, servers in self._seen[service].items()}

    def look(self) -> None:
        """Ask each server that has an engine loaded, once for all services.

        What was known stands while a server's metrics do not answer, for as long as its versions are READY.
        """
        seen: dict[str, dict[int, dict[str, frozenset[EngineInfo]]]] = {name: {} for name in self._services}
        for server, index in self._indexes().items():
            ready = {} if isinstance(index, str) else self._ready(index)
            infos = self._ask(server) if any(ready.values()) else {}
            for name, versions in ready.items():
                for version in versions:
                    if infos is None:
                        known = self._seen[name].get(version, {}).get(server, frozenset())
                    else:
                        known = infos.get(self._services[name].engine, {}).get(version, frozenset())
                    if known:
                        seen[name].setdefault(version, {})[server] = known
        with self._lock:
            self._seen = seen
        alarms = {
            (name, version, server, info)
            for name, versions in seen.items()
            for version, servers in versions.items()
            for server, infos in servers.items()
            for info in infos
            if info.lowered
        }
        for name, version, server, info in sorted(alarms - self._alarms, key=str):
            self._alarm(name, lowered(version, server, info))
        self._alarms = alarms

    def _ready(self, index: Index) -> dict[str, list[int]]:
        """By service: the versions of its engine that are READY."""
        return {
            name: [v for v, m in index.get(service.engine, {}).items() if m.state is ModelState.READY]
            for name, service in self._services.items()
        }

    def _ask(self, server: str) -> EngineInfos | None:
        """None where it does not answer; nothing where its metrics are not known."""
        try:
            infos = self._servers[server].engine_infos()
        except Unreachable as error:
            if self._logged.get(server) != str(error):
                log.warning("%s", error)
            self._logged[server] = str(error)
            return None
        self._logged.pop(server, None)
        return {} if infos is None else infos

    def _alarm(self, service: str, why: Why) -> None:
        log.warning("%s: %s", service, why)
        try:
            self._journal.events.append(self._clock(), "fallback", why, service=service)
        except BatonError as error:
            log.warning("the alarm could not be written down: %s", error)


def lowered(version: int, server: str, info: EngineInfo) -> Why:
    """What a version runs in on a server, and what was asked for."""
    runs, asked = _words(info.dtype, info.device), _words(info.asked_dtype, info.asked_device)
    return because(Reason.RUNS_IN_LESS, server=server, version=version, fallback=info.fallback, runs=runs, asked=asked)


def _words(dtype: str | None, device: str | None) -> str:
    return " on ".join(part for part in (dtype, device) if part)
