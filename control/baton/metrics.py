"""Prometheus metrics of the control plane, and its health, over HTTP.

Nothing is counted in memory: each scrape reads what the facade tells, and the counters come from the journal, so a
restart of the control plane never takes them back.
"""

from __future__ import annotations

import logging
import platform
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from baton import __version__, httpd
from baton.domain import Outcome, Phase, Verdict
from baton.errors import BatonError, ConfigError, Refused
from baton.facts import ControlHealth, RolloutFacts, ServerStatus, ServiceStatus, Status

MOST_CONNECTIONS = 32
"""At a time: a few Prometheus servers and balancers, each for a moment."""
_LAST_ROLLOUTS = 200
"""How far back the figures of the last rollout are looked for; all services together."""

_log = logging.getLogger(__name__)


class Observed(Protocol):
    """What of the facade is measured."""

    def status(self, service: str | None, /) -> Status: ...
    def history(self, service: str | None, limit: int = 50, /) -> tuple[RolloutFacts, ...]: ...
    def health(self) -> ControlHealth: ...
    def acting(self) -> bool: ...
    def loop_at(self) -> float: ...
    def counts(self) -> dict[tuple[str, str], int]: ...


class ControlCollector(Collector):
    """Reads the facade at each scrape."""

    def __init__(self, app: Observed) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        return []  # else registering would scrape once, before the loop has turned

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("baton_build_info", "Baton's version; always 1.", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        acting = self._app.acting()
        yield GaugeMetricFamily(
            "baton_acting", "1 while this control plane acts, 0 while it stands by.", value=float(acting)
        )
        if not acting:
            return
        yield GaugeMetricFamily(
            "baton_loop_last_timestamp_seconds", "When the control loop last went round.", value=self._app.loop_at()
        )
        status = self._app.status(None)
        yield GaugeMetricFamily(
            "baton_paused", "1 while automatic steps are frozen (ctl pause).", value=float(status.paused)
        )
        yield from _servers(status.servers)
        yield from _services(status.services)
        yield from _gates(status.services)
        yield from self._rollouts([s.name for s in status.services])

    def _rollouts(self, services: list[str]) -> Iterator[Metric]:
        counts = {(s, o.value): 0 for s in services for o in Outcome} | self._app.counts()
        total = CounterMetricFamily(
            "baton_rollouts",
            "Rollouts that ended, by outcome, over the life of the journal.",
            labels=["service", "outcome"],
        )
        for (service, outcome), count in sorted(counts.items()):
            total.add_metric([service, outcome], count)
        yield total
        duration = GaugeMetricFamily(
            "baton_rollout_duration_seconds", "From begin to end of the last rollout that ended.", labels=["service"]
        )
        live = GaugeMetricFamily(
            "baton_time_to_live_seconds",
            "From the begin of the last rollout that moved traffic until all of it had moved.",
            labels=["service"],
        )
        history = self._app.history(None, _LAST_ROLLOUTS)
        took = [(h.service, h.duration_s) for h in history], [(h.service, h.time_to_live_s) for h in history]
        for family, times in zip((duration, live), took, strict=True):
            for service in services:
                last = next((time for of, time in times if of == service and time is not None), None)
                if last is not None:
                    family.add_metric([service], last)
            yield family


def _servers(servers: Iterable[ServerStatus]) -> Iterator[Metric]:
    live = GaugeMetricFamily("baton_server_live", "1 while the Triton server answers.", labels=["server"])
    in_sync = GaugeMetricFamily("baton_server_in_sync", "1 while it does what it should.", labels=["server"])
    for server in servers:
        live.add_metric([server.name], float(server.live))
        in_sync.add_metric([server.name], float(server.in_sync))
    yield from (live, in_sync)


def _services(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    phases = GaugeMetricFamily("baton_service_phase", "1 for the phase of the service.", labels=["service", "phase"])
    for service in services:
        for phase in Phase:
            phases.add_metric([service.name, phase.value], float(service.phase == phase))
    yield phases
    stable = GaugeMetricFamily("baton_stable_version", "The version that serves; 0: none.", labels=["service"])
    candidate = GaugeMetricFamily("baton_candidate_version", "The version on its way; 0: none.", labels=["service"])
    weight = GaugeMetricFamily(
        "baton_candidate_weight_percent", "The candidate's share of traffic.", labels=["service"]
    )
    for service in services:
        stable.add_metric([service.name], float(service.stable or 0))
        candidate.add_metric([service.name], float(service.candidate or 0))
        weight.add_metric([service.name], float(service.weight))
    yield from (stable, candidate, weight)
    yield from _traffic(services)
    yield from _memory(services)
    yield from _health(services)


def _traffic(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    """What the splitters did since they started; only while live requests are mirrored or split."""
    observed = GaugeMetricFamily(
        "baton_candidate_weight_observed_percent",
        "The share of requests that the candidate answered in the last half minute.",
        labels=["service"],
    )
    answered = GaugeMetricFamily(
        "baton_split_requests", "Requests that each role answered in this split.", labels=["service", "role"]
    )
    shadowed = GaugeMetricFamily(
        "baton_shadowed_requests", "Requests mirrored to the candidate in this split.", labels=["service"]
    )
    lease = GaugeMetricFamily(
        "baton_split_lease_seconds",
        "What is left of the split's lease; 0: the stable version alone.",
        labels=["service"],
    )
    for service in services:
        traffic, name = service.traffic, service.name
        if traffic is None:
            continue
        if traffic.observed is not None:
            observed.add_metric([name], traffic.observed)
        answered.add_metric([name, "stable"], traffic.requests.stable)
        answered.add_metric([name, "candidate"], traffic.requests.candidate)
        shadowed.add_metric([name], traffic.shadowed)
        lease.add_metric([name], traffic.lease_left_s or 0.0)
    yield from (observed, answered, shadowed, lease)


def _memory(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    """Of the engine versions on this machine."""
    family = GaugeMetricFamily(
        "baton_engine_memory_bytes", "Memory of an engine version's processes.", labels=["service", "version", "kind"]
    )
    growth = GaugeMetricFamily(
        "baton_engine_memory_growth_ratio",
        "Growth of the resident memory in the window of the gate, as a share.",
        labels=["service", "version"],
    )
    for service in services:
        for version in service.versions:
            memory, labels = version.memory, [service.name, str(version.version)]
            if memory is None:
                continue
            family.add_metric([*labels, "resident"], memory.bytes)
            if memory.gpu_bytes is not None:
                family.add_metric([*labels, "gpu"], memory.gpu_bytes)
            if memory.growth is not None:
                growth.add_metric(labels, memory.growth)
    yield from (family, growth)


def _health(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    """Of the versions that are asked: what serves, where the service has a golden set."""
    family = GaugeMetricFamily(
        "baton_version_healthy",
        "1 while a version answers a real request on a server, whatever Triton calls it.",
        labels=["service", "server", "version"],
    )
    for service in services:
        for version in service.versions:
            for health in version.health:
                family.add_metric([service.name, health.server, str(version.version)], float(health.healthy))
    yield family


def _gates(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    """The gates of the rollouts under way; between rollouts those of the last one."""
    verdicts = GaugeMetricFamily(
        "baton_gate_verdict", "1 for the verdict of the gate.", labels=["service", "gate", "verdict"]
    )
    observed = GaugeMetricFamily("baton_gate_observed", "What the gate measured.", labels=["service", "gate"])
    limit = GaugeMetricFamily("baton_gate_limit", "What it is held against.", labels=["service", "gate"])
    for service in services:
        for gate in service.gates:
            for verdict in Verdict:
                verdicts.add_metric([service.name, gate.gate, verdict.value], float(gate.verdict == verdict))
            if gate.observed is not None:
                observed.add_metric([service.name, gate.gate], gate.observed)
            if gate.limit is not None:
                limit.add_metric([service.name, gate.gate], gate.limit)
    yield from (verdicts, observed, limit)


# The server


class MetricsServer:
    """``/metrics``, ``/healthz`` and ``/readyz`` on ``address`` (``host:port``; port 0 takes a free one).

    Raises ``ConfigError`` for an address that is none, and from ``start()`` ``Refused`` when the port is in use.
    """

    def __init__(self, app: Observed, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise ConfigError(f"{address!r} is not an address.", mend='Write it as "127.0.0.1:9464".')
        self._host, self._port = host.strip("[]"), int(port)
        self._app = app
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        registry = CollectorRegistry()
        registry.register(ControlCollector(self._app))
        try:
            self._server = _Server(self._host, self._port, self._app, registry)
        except (OSError, OverflowError) as error:
            raise Refused(
                f"The metrics address {self.address} can't be opened: {error}.",
                mend="Choose another one in [control] metrics, or with --console-port.",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1]) if self._server is not None else self._port

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(httpd.Server):
    def __init__(self, host: str, port: int, app: Observed, registry: CollectorRegistry) -> None:
        self.app, self.registry = app, registry
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler, MOST_CONNECTIONS)


def _encoder(accept: str) -> Any:
    """The form that is asked for, with its content type; the usual one where a client asks for none that there is."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none (seen with prometheus_client 0.26)
        return choose_encoder("")


class _Handler(httpd.Handler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the base class's way to name it
        self.server.request_is_complete(self.request)
        path = self.path.partition("?")[0]
        try:
            if path == "/metrics":
                encode, kind = _encoder(self.headers.get("Accept", ""))
                self.answer(200, kind, encode(self.server.registry))
            elif path in {"/healthz", "/readyz"}:
                health = self.server.app.health()
                good = health.live if path == "/healthz" else health.ready
                self._text(200 if good else 503, health.message)
            else:
                self._text(404, "Here are /metrics, /healthz and /readyz.")
        except BatonError as error:
            _log.warning("%s could not be answered: %s", path, error)
            self._text(503, str(error))

    do_HEAD = do_GET  # noqa: N815 - load balancers ask like that

    def _text(self, status: int, message: str) -> None:
        self.answer(status, "text/plain; charset=utf-8", f"{message}\n".encode())
