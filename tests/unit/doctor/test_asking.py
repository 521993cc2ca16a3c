"""The client's side: what stands between, and answers that are none. A real Triton is asked in tests/triton."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from tests.support.tls import Authority
from tritonclient.grpc import service_pb2

from baton.client import Ranking, Reranker
from baton.config import DEFAULT_SERVICE, Config, ServerConfig
from baton.doctor import asking
from baton.doctor.asking import Address
from baton.errors import Unreachable, UsageError

PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_addresses() -> None:
    assert Address.of("gpu:8001") == Address("grpc", "gpu:8001")
    assert Address.of("http://gpu:8000") == Address("http", "gpu:8000")
    with pytest.raises(UsageError, match="is no address"):
        Address.of("gpu")
    with pytest.raises(UsageError, match="is a gateway"):
        Address.of("http://gpu:8003/v1")
    servers = (ServerConfig("a", "a:1", http="a:2"), ServerConfig("b", "b:1", http=False))
    assert list(asking.addresses(Config(servers=servers))) == [
        Address("grpc", "a:1"),
        Address("http", "a:2"),
        Address("grpc", "b:1"),
    ]


def test_a_proxy_that_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    address = [Address("grpc", "10.1.2.3:8001")]
    assert asking.proxies(address).verdict == "ok"
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    found = asking.proxies(address)
    assert (found.verdict, found.mend) == ("warn", "export no_proxy=10.1.2.3")
    for proxy in ("http://ann:pass@w0rd-5c1d@proxy:3128", "ann:pass@w0rd-5c1d@proxy:3128"):
        monkeypatch.setenv("https_proxy", proxy)
        found = asking.proxies(address)
        assert "proxy:3128 is set as a proxy" in found.message
        assert "5c1d" not in found.message
        assert "ann" not in found.message
    monkeypatch.setenv("no_proxy", "10.1.2.3")
    assert asking.proxies(address).verdict == "ok"


@pytest.mark.parametrize(
    ("scores", "verdict", "said"),
    [
        ((0.1, 0.9, 0.2), "ok", "version 3 scored 0.1, 0.9, 0.2"),
        ((0.1, math.nan, 0.2), "fail", "clients rank by nonsense"),
        ((0.1, 17.0, 0.2), "fail", "clients rank by nonsense"),
        ((0.5, 0.5, 0.5), "fail", "clients can't rank by it"),
    ],
)
def test_scores(scores: tuple[float, ...], verdict: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []

    def rank(_: Reranker, query: str, documents: Any, *, request_id: str) -> Ranking:
        ids.append(request_id)
        return Ranking(scores=scores, version=3, request_id=request_id)

    monkeypatch.setattr(Reranker, "rank", rank)
    found = asking._answer(Address("http", "h:1"), DEFAULT_SERVICE, "HTTP reranker", None, None)
    assert found.verdict == verdict
    assert said in found.message
    assert ids[0].startswith("baton-"), "never counted as live traffic"


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(*_: Any, **__: Any) -> Ranking:
        raise Unreachable("Nobody is there.", mend="Start it.")

    monkeypatch.setattr(Reranker, "rank", rank)
    found = asking._answer(Address("http", "h:1"), DEFAULT_SERVICE, "HTTP reranker", None, None)
    assert (found.verdict, found.mend) == ("fail", "Start it.")


@contextmanager
def http_server(limit: int) -> Iterator[str]:
    """As a proxy with that limit before a Triton that knows no such model."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            count = int(self.headers["Content-Length"])
            self.rfile.read(count)
            self.send_response(413 if count > limit else 404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def grpc_server(limit: int) -> Iterator[str]:
    """The same over gRPC."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            def answer(_: bytes, context: Any) -> bytes:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    options = [("grpc.max_receive_message_length", limit)]
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_a_limit_that_pictures_do_not_pass(protocol: Any, serve: Any) -> None:
    with serve(2 * asking.LARGE) as place:
        assert asking._large(Address(protocol, place)).verdict == "ok"
    with serve(asking.LARGE // 2) as place:
        found = asking._large(Address(protocol, place))
    assert found.verdict == "warn"
    assert "8 MiB does not pass" in found.message


def test_an_encrypted_server_is_asked_as_its_clients_ask_it(tmp_path: Path) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            def answer(_: bytes, context: Any) -> bytes:
                if handler_call_details.method.endswith("/ServerMetadata"):
                    return bytes(
                        service_pb2.ServerMetadataResponse(name="triton", version="2.51.0").SerializeToString()
                    )
                context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    authority = Authority(tmp_path)
    authority.options()  # makes the certificate, too
    shown = grpc.ssl_server_credentials([(authority.key.read_bytes(), authority.chain.read_bytes())])
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()], options=[("grpc.max_receive_message_length", -1)])
    place = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', shown)}"
    server.start()
    configured = Config(servers=(ServerConfig("a", place, http=False, tls=True, ca_file=authority.file),))
    found = {one.name: one for one in asking.findings(list(asking.addresses(configured)), [DEFAULT_SERVICE])}
    server.stop(None).wait()
    assert found["gRPC"].verdict == "ok", found["gRPC"].message
    assert found["gRPC message size"].verdict == "ok", found["gRPC message size"].message
    assert "no such model" in found["reranker alias"].message


def test_where_nobody_listens_no_size_is_judged() -> None:
    assert asking._large(Address("http", "127.0.0.1:1")).verdict == "skipped"
    proxy, refused, http = asking.findings([Address("grpc", "127.0.0.1:1")], [DEFAULT_SERVICE])
    assert (proxy.verdict, refused.verdict, http.verdict) == ("ok", "fail", "skipped")
    assert refused.mend
