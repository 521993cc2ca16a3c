"""What Prometheus and the access log are told of requests. Never their contents."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
access = logging.getLogger("baton.gateway.access")


class Record(Struct, omit_defaults=True):
    """One request, as far as it has come: its line in the access log."""

    id: str
    at: str = ""
    method: str = ""
    route: str = "other"
    status: int = 0
    ms: float = 0.0
    server_ms: float = 0.0
    """How long servers took, retries included."""
    bytes: int = 0
    documents: int = 0
    tokens: int | None = None
    key: str = ""
    service: str = ""
    version: int | None = None
    server: str = ""
    error: str = ""


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
        counts = (1, 4, 16, 32, 64, 100, 256, 1024, 4096)
        self._documents = Histogram("baton_gateway_documents", "Of a request", ("route",), buckets=counts, **made)
        self._by_key = Counter(
            "baton_gateway_requests", "Requests by the name of their API key", ("key", "status"), **made
        )
        self._tokens = Counter("baton_gateway_tokens", "Tokens of all prompts, as in usage", ("key",), **made)
        self._servers = Counter(
            "baton_gateway_server_failures",
            "Failed calls of a Triton, and retries on another",
            ("server", "what"),
            **made,
        )
        self.in_flight = Gauge("baton_gateway_in_flight", "Requests that wait for Triton", **made)

    def server_failed(self, server: str, what: str) -> None:
        self._servers.labels(server, what).inc()

    def done(self, record: Record, seconds: float) -> None:
        """Count a request, and write its line."""
        version, status = str(record.version or ""), str(record.status)
        self._seconds.labels(record.route, version, status).observe(seconds)
        if record.server_ms:
            self._server_seconds.labels(version).observe(record.server_ms / 1000)
        if record.documents:
            self._documents.labels(record.route).observe(record.documents)
            self._by_key.labels(record.key, status).inc()
        if record.tokens:
            self._tokens.labels(record.key).inc(record.tokens)
        record.at, record.ms = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), round(1000 * seconds, 2)
        if access.isEnabledFor(logging.INFO):
            access.info("%s", msgspec.json.encode(record).decode())
