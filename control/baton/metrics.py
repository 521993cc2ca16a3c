"""Prometheus metrics of the control plane, and its health, over HTTP.

Nothing is counted in memory: each scrape reads what the facade tells, and the counters come from the journal, so a
restart of the control plane never takes them back.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from baton import __version__, httpd
from baton.domain import GateResult, Outcome, Phase, Verdict
from baton.errors import BatonError, ConfigError, Refused
from baton.facts import ControlHealth, RolloutFacts, ServerStatus, ServiceStatus, Status, TrafficStatus, VersionStatus

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


Rows = Iterable[tuple[Sequence[str], float | None]]
"""The values of a metric's labels, and the figure; None where it is not known."""


def _gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, figure in rows:
        if figure is not None:
            family.add_metric(values, float(figure))
    return family


class ControlCollector(Collector):
    """Reads the facade at each scrape."""

    def __init__(self, app: Observed) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        return []  # else registering would scrape once, before the loop has turned

    def collect(self) -> Iterator[Metric]:
        app, acting = self._app, self._app.acting()
        build = [((__version__, platform.python_version()), 1)]
        yield _gauge("baton_build_info", "Baton's version; always 1.", ["version", "python"], build)
        yield _gauge("baton_acting", "1 while this control plane acts, 0 while it stands by.", [], [((), acting)])
        if not acting:
            return
        yield _gauge(
            "baton_loop_last_timestamp_seconds", "When the control loop last went round.", [], [((), app.loop_at())]
        )
        status = app.status(None)
        yield _gauge("baton_paused", "1 while automatic steps are frozen (ctl pause).", [], [((), status.paused)])
        yield from _servers(status.servers)
        yield from _services(status.services)
        yield from _traffic([(s.name, s.traffic) for s in status.services if s.traffic is not None])
        yield from _versions([(s.name, v) for s in status.services for v in s.versions])
        yield from _gates([(s.name, g) for s in status.services for g in s.gates])
        yield from self._rollouts([s.name for s in status.services])

    def _rollouts(self, services: list[str]) -> Iterator[Metric]:
        counts = {(s, o.value): 0 for s in services for o in Outcome} | self._app.counts()
        text = "Rollouts that ended, by outcome, over the life of the journal."
        total = CounterMetricFamily("baton_rollouts", text, labels=["service", "outcome"])
        for labels, count in sorted(counts.items()):
            total.add_metric(labels, count)
        yield total
        history = self._app.history(None, _LAST_ROLLOUTS)
        took = [(h.service, h.duration_s) for h in history]
        until_live = [(h.service, h.time_to_live_s) for h in history]

        def last(times: Sequence[tuple[str, float | None]]) -> Rows:
            return [((s,), next((t for of, t in times if of == s and t is not None), None)) for s in services]

        text = "From begin to end of the last rollout that ended."
        yield _gauge("baton_rollout_duration_seconds", text, ["service"], last(took))
        text = "From the begin of the last rollout that moved traffic until all of it had moved."
        yield _gauge("baton_time_to_live_seconds", text, ["service"], last(until_live))


def _servers(servers: Sequence[ServerStatus]) -> Iterator[Metric]:
    yield _gauge(
        "baton_server_live", "1 while the Triton server answers.", ["server"], (((s.name,), s.live) for s in servers)
    )
    text = "1 while it does what it should."
    yield _gauge("baton_server_in_sync", text, ["server"], (((s.name,), s.in_sync) for s in servers))


def _services(services: Sequence[ServiceStatus]) -> Iterator[Metric]:
    phases = (((s.name, phase), s.phase == phase) for s in services for phase in Phase)
    yield _gauge("baton_service_phase", "1 for the phase of the service.", ["service", "phase"], phases)
    stable = (((s.name,), s.stable or 0) for s in services)
    yield _gauge("baton_stable_version", "The stable version; 0: none.", ["service"], stable)
    candidate = (((s.name,), s.candidate or 0) for s in services)
    yield _gauge("baton_candidate_version", "The candidate; 0: none.", ["service"], candidate)
    weight = (((s.name,), s.weight) for s in services)
    yield _gauge("baton_candidate_weight_percent", "The candidate's share of traffic.", ["service"], weight)


def _traffic(traffic: Sequence[tuple[str, TrafficStatus]]) -> Iterator[Metric]:
    """What the splitters did since they started; only while live requests are mirrored or split."""
    text = "The share of requests that the candidate answered in the last half minute."
    observed = (((name,), one.observed) for name, one in traffic)
    yield _gauge("baton_candidate_weight_observed_percent", text, ["service"], observed)
    text = "Requests that each role answered in this split."
    answered = (
        ((name, role), getattr(one.requests, role)) for name, one in traffic for role in ("stable", "candidate")
    )
    yield _gauge("baton_split_requests", text, ["service", "role"], answered)
    text = "Requests mirrored to the candidate in this split."
    yield _gauge("baton_shadowed_requests", text, ["service"], (((name,), one.shadowed) for name, one in traffic))
    text = "What is left of the split's lease; 0: the stable version alone."
    left = (((name,), one.lease_left_s or 0.0) for name, one in traffic)
    yield _gauge("baton_split_lease_seconds", text, ["service"], left)


def _versions(versions: Sequence[tuple[str, VersionStatus]]) -> Iterator[Metric]:
    """Memory of the engine versions on this machine, and whether those that are probed answer."""
    known = [((name, str(v.version)), v.memory) for name, v in versions if v.memory is not None]
    resident = (((*of, "resident"), memory.bytes) for of, memory in known)
    gpu = (((*of, "gpu"), memory.gpu_bytes) for of, memory in known)
    text = "Memory of an engine version's processes."
    yield _gauge("baton_engine_memory_bytes", text, ["service", "version", "kind"], chain(resident, gpu))
    text = "Growth of the resident memory in the window of the gate, as a share."
    growth = ((of, memory.growth) for of, memory in known)
    yield _gauge("baton_engine_memory_growth_ratio", text, ["service", "version"], growth)
    text = "1 while a version answers a real request on a server, whatever Triton calls it."
    healthy = (((name, h.server, str(v.version)), h.healthy) for name, v in versions for h in v.health)
    yield _gauge("baton_version_healthy", text, ["service", "server", "version"], healthy)


def _gates(gates: Sequence[tuple[str, GateResult]]) -> Iterator[Metric]:
    """The gates of the rollouts under way; between rollouts those of the last one."""
    verdicts = (((name, g.gate, verdict), g.verdict == verdict) for name, g in gates for verdict in Verdict)
    yield _gauge("baton_gate_verdict", "1 for the verdict of the gate.", ["service", "gate", "verdict"], verdicts)
    observed = (((name, g.gate), g.observed) for name, g in gates)
    yield _gauge("baton_gate_observed", "What the gate measured.", ["service", "gate"], observed)
    limit = (((name, g.gate), g.limit) for name, g in gates)
    yield _gauge("baton_gate_limit", "What it is held against.", ["service", "gate"], limit)


# The server


class MetricsServer(httpd.Served):
    """``/metrics``, ``/healthz`` and ``/readyz`` on ``address`` (``host:port``; port 0 takes a free one).

    Raises ``ConfigError`` for an address that is none, and from ``start()`` ``Refused`` when the port is in use.
    """

    def __init__(self, app: Observed, address: str) -> None:
        super().__init__()
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise ConfigError(f"{address!r} is not an address.", mend='Write it as "127.0.0.1:9464".')
        self._host, self._port = host.strip("[]"), int(port)
        self._app = app

    def open(self) -> httpd.Server:
        registry = CollectorRegistry()
        registry.register(ControlCollector(self._app))
        try:
            return _Server(self._host, self._port, self._app, registry)
        except (OSError, OverflowError) as error:
            raise Refused(
                f"The metrics address {self.address} can't be opened: {error}.",
                mend="Name another one: `metrics` in [control], or `ctl up --console-port`.",
            ) from None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server.server_address[1]) if self.server is not None else self._port

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"


class _Server(httpd.Server):
    def __init__(self, host: str, port: int, app: Observed, registry: CollectorRegistry) -> None:
        self.app, self.registry = app, registry
        self.address_family = httpd.family(host)
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
