"""What Prometheus and the access log are told of requests. Never their contents."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DOCUMENTS = (1, 4, 16, 32, 64, 100, 256, 1024, 4096)
access = logging.getLogger("baton.gateway.access")


@dataclass
class Record:
    """One request, as far as it has come."""

    id: str
    route: str = "other"
    method: str = ""
    status: int = 0
    key: str = ""
    service: str = ""
    version: int | None = None
    server: str = ""
    documents: int = 0
    tokens: int | None = None
    size: int = 0
    error: str = ""
    began: float = field(default_factory=time.perf_counter)
    asked_s: float = 0.0
    """How long a server took, retries included."""


class Metrics:
    """Of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        labels = ("route", "model_version", "status")
        self._seconds = Histogram(
            "baton_gateway_request_seconds",
            "From the head of a request to its answer",
            labels,
            buckets=_BUCKETS,
            **made,
        )
        self._server_seconds = Histogram(
            "baton_gateway_server_seconds", "What Triton takes of that", ("model_version",), buckets=_BUCKETS, **made
        )
        self._documents = Histogram(
            "baton_gateway_documents", "Documents of a request", ("route",), buckets=_DOCUMENTS, **made
        )
        self._by_key = Counter(
            "baton_gateway_requests", "Requests by the name of their API key", ("key", "status"), **made
        )
        self._tokens = Counter("baton_gateway_tokens", "Tokens that the engine computed", ("key",), **made)
        self._servers = Counter(
            "baton_gateway_server_failures",
            "Failed calls of a Triton, and retries on another",
            ("server", "what"),
            **made,
        )
        self.in_flight = Gauge("baton_gateway_in_flight", "Requests that wait for Triton", **made)

    def server_failed(self, server: str, what: str) -> None:
        self._servers.labels(server, what).inc()

    def done(self, record: Record) -> None:
        """Count a request, and write its line."""
        seconds = time.perf_counter() - record.began
        version, status = str(record.version or ""), str(record.status)
        self._seconds.labels(record.route, version, status).observe(seconds)
        if record.asked_s:
            self._server_seconds.labels(version).observe(record.asked_s)
        if record.documents:
            self._documents.labels(record.route).observe(record.documents)
            self._by_key.labels(record.key, status).inc()
        if record.tokens:
            self._tokens.labels(record.key).inc(record.tokens)
        if access.isEnabledFor(logging.INFO):
            access.info("%s", _line(record, seconds))


def _line(record: Record, seconds: float) -> str:
    told = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "id": record.id,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "ms": round(1000 * seconds, 2),
        "server_ms": round(1000 * record.asked_s, 2),
        "bytes": record.size,
        "documents": record.documents,
        "tokens": record.tokens,
        "key": record.key,
        "service": record.service,
        "version": record.version,
        "server": record.server,
        "error": record.error,
    }
    return json.dumps({name: value for name, value in told.items() if value not in (None, "", 0)})
