"""The gateway for tests: on the in-memory server without a socket, or as a server in front of whatever is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
from starlette.testclient import TestClient

from baton.config_gateway import GatewayConfig
from baton.gateway.app import Gateway, Service
from baton.gateway.metrics import Metrics
from baton.gateway.pool import Pool, TritonConnection
from baton.gateway.server import GatewayServer
from baton.testing.gateway import FakeConnection

RERANKER = {"reranker": Service("reranker", "qwen3_vl_reranker")}
FRUIT: dict[str, Any] = {"query": "red apple", "documents": ["a green pear", "a round red apple", "a red car"]}
PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/score")


class InMemory(TestClient):
    """A client of a gateway in this process. ``servers`` are what stands behind it."""

    def __init__(
        self,
        *servers: FakeConnection,
        services: Mapping[str, Service] = RERANKER,
        retry_share: float = 0.1,
        **config: Any,
    ) -> None:
        self.servers = servers or (FakeConnection(),)
        self.metrics = Metrics()
        pool = Pool(self.servers, retry_share=retry_share, told=self.metrics.server_failed)
        self.gateway = Gateway(GatewayConfig(**config), services, pool, self.metrics)
        super().__init__(self.gateway.app(), raise_server_exceptions=False)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def serving(
    *servers: str,
    services: Mapping[str, Service] = RERANKER,
    connect: Any = TritonConnection,
    **config: Any,
) -> Iterator[tuple[GatewayServer, httpx.Client]]:
    """A gateway on free ports, and a client of it."""
    settings = GatewayConfig(**{"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "stop_delay": 0.0} | config)
    with (
        GatewayServer(settings, services, servers, connect) as gateway,
        httpx.Client(base_url=gateway.places["gateway"], trust_env=False, timeout=120) as client,
    ):
        yield gateway, client


def scores_of(path: str, answer: Any, count: int) -> list[float]:
    """The scores by document, and that the order of the results is right: best first, but in /score."""
    rows = answer if isinstance(answer, list) else answer.get("results") or answer["data"]
    values = [row.get("relevance_score", row.get("score")) for row in rows]
    indices = [row["index"] for row in rows]
    assert sorted(indices) == list(range(count)), path
    if path == "/score":
        assert indices == sorted(indices)
    else:
        assert values == sorted(values, reverse=True)
    return [value for _, value in sorted(zip(indices, values, strict=True))]


def body_of(path: str, query: Any, documents: Sequence[Any], **more: Any) -> dict[str, Any]:
    """The same question in the shape of a path; ``/rerank texts`` is TEI's."""
    if path == "/score":
        return {"text_1": query, "text_2": list(documents), **more}
    if path == "/rerank texts":
        return {"query": query, "texts": list(documents), **more}
    return {"query": query, "documents": list(documents), **more}
