"""The gateway's connection takes another authority while it runs, as the control plane's does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tritonclient.grpc import service_pb2, service_pb2_grpc

from baton.errors import BatonError
from baton.gateway.pool import TritonConnection
from baton.tls import Tls

ASK_S = 60.0


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return service_pb2.ModelMetadataResponse(outputs=[{"name": "scores"}])


@contextmanager
def serving(authority: trustme.CA) -> Iterator[str]:
    """A gRPC server whose certificate that authority made."""
    own = authority.issue_cert("127.0.0.1")
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    shown = grpc.ssl_server_credentials([(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())])
    port = server.add_secure_port("127.0.0.1:0", shown)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_another_authority_counts_without_a_new_start(tmp_path: Path) -> None:
    before, after, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    before.cert_pem.write_to_path(file)

    async def asked(address: str) -> None:
        connection = TritonConnection(address, Tls(file))
        with pytest.raises(BatonError):
            await connection.outputs("reranker", ASK_S)
        after.cert_pem.write_to_path(file)
        assert await connection.outputs("reranker", ASK_S) == {"scores"}
        await connection.close()
        await connection.close()

    with serving(after) as address:
        asyncio.run(asked(address))
