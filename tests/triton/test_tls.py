"""TLS to Triton's gRPC: what works through it, and what is said where a connection does not come about."""

from __future__ import annotations

import gc
import shutil
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
import tritonclient.grpc as triton
from tests.support.tls import NAME, Authority, TlsTriton
from tests.support.toy import make_repository
from tests.support.triton import running_triton

from baton.cli.gateway import prepare
from baton.client import Reranker
from baton.config import Config, ServerConfig, ServiceConfig, load
from baton.config_gateway import GatewayConfig
from baton.doctor import Finding, Setup, servers
from baton.errors import Unreachable, UsageError
from baton.local import LocalTriton
from baton.tls import Connection, Tls
from baton.triton.grpc import GrpcTriton

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@contextmanager
def serving(place: Path, *options: str, tls: Tls | None) -> Iterator[LocalTriton]:
    """A Triton with the alias ``reranker``."""
    repository = make_repository(place / "repository", {"toy": [1]}, alias="reranker")
    kind = type("Triton", (TlsTriton,), {"tls": tls})
    with running_triton(place, repository, load=["reranker"], kind=kind, extra_args=options) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[LocalTriton]:
    with serving(tmp_path_factory.mktemp("triton"), *authority.options(), tls=Tls(authority.file)) as server:
        yield server


def asked(address: str, tls: Tls | None) -> None:
    with closing(GrpcTriton("a", address, tls=tls)) as triton:
        triton.index()


def ranked(address: str, tls: Tls | None) -> int:
    with Reranker(address, tls=tls) as reranker:
        return reranker.rank("red", ["a red apple"]).version


def test_the_gateway_asks_through_it(encrypted: LocalTriton, authority: Authority) -> None:
    services = (ServiceConfig("reranker", "toy"),)
    for tls, status in ((True, 200), (False, 503)):
        server = ServerConfig("a", encrypted.grpc_url, tls=tls, ca_file=authority.file if tls else None)
        asked = GatewayConfig(listen="127.0.0.1:0", metrics=False, stop_delay=0.0)
        gateway = prepare(Config(servers=(server,), services=services), asked)
        with gateway([encrypted.grpc_url]) as running, httpx.Client(trust_env=False, timeout=60) as client:
            url = f"{running.places['gateway']}/v1/rerank"
            assert client.post(url, json={"query": "red", "documents": ["a"]}).status_code == status


def test_all_that_baton_asks_goes_through_it(encrypted: LocalTriton, authority: Authority) -> None:
    metrics = encrypted.metrics_url.split("/")[2]  # Triton has no TLS for these
    for tls in (Tls(authority.file), Tls(authority.file, NAME)):
        with closing(GrpcTriton("a", encrypted.grpc_url, metrics=metrics, tls=tls)) as triton:
            assert triton.release() == "2.51.0"
            triton.load("toy", 60.0)
            assert triton.index()["toy"][1]
            assert triton.inflight("toy") is not None
        assert ranked(encrypted.grpc_url, tls) == 1


@pytest.fixture(params=["control plane", "client"])
def refusal(request: pytest.FixtureRequest) -> Callable[[str, Tls | None], Unreachable]:
    """What the control plane, or a client, says of a server that it does not reach."""

    def ask(address: str, tls: Tls | None) -> Unreachable:
        with pytest.raises(Unreachable) as raised:
            asked(address, tls) if request.param == "control plane" else ranked(address, tls)
        assert address in raised.value.message
        return raised.value

    return ask


Refusal = Callable[[str, Tls | None], Unreachable]


def test_an_unknown_authority(encrypted: LocalTriton, stranger: Authority, refusal: Refusal) -> None:
    error = refusal(encrypted.grpc_url, Tls(stranger.file))
    assert f"an authority that is not in {stranger.file}" in error.message
    assert "ca_file" in str(error.mend)
    assert "an authority that is not in" in refusal(encrypted.grpc_url, Tls()).message, "of the machine's list"


def test_another_host_name(encrypted: LocalTriton, authority: Authority, refusal: Refusal) -> None:
    error = refusal(encrypted.grpc_url, Tls(authority.file, "other.example"))
    assert "a certificate that is not for other.example" in error.message
    assert "server_name" in str(error.mend)


def test_a_client_that_speaks_plain_text(encrypted: LocalTriton, refusal: Refusal) -> None:
    error = refusal(encrypted.grpc_url, None)
    assert "speaks TLS, and was spoken to in plain text" in error.message
    assert "Set tls" in str(error.mend)


def test_a_certificate_that_has_expired_or_has_another_name(
    tmp_path: Path, authority: Authority, refusal: Refusal
) -> None:
    tls = Tls(authority.file)
    with serving(tmp_path / "expired", *authority.options(ended=True), tls=tls) as server:
        error = refusal(server.grpc_url, tls)
        assert "a certificate that has expired" in error.message
        assert "start it again" in str(error.mend)
    with serving(tmp_path / "named", *authority.options(NAME), tls=Tls(authority.file, NAME)) as server:
        assert "a certificate that is not for 127.0.0.1" in refusal(server.grpc_url, tls).message
        asked(server.grpc_url, Tls(authority.file, NAME))


def test_a_server_that_speaks_plain_text(tmp_path: Path, authority: Authority, refusal: Refusal) -> None:
    with serving(tmp_path, tls=None) as server:
        error = refusal(server.grpc_url, Tls(authority.file))
        assert "speaks plain text, and was spoken to in TLS" in error.message
        assert "--grpc-use-ssl=1" in str(error.mend)


def test_a_server_that_wants_a_certificate_of_its_clients(
    tmp_path: Path, authority: Authority, refusal: Refusal
) -> None:
    tls = Tls(authority.file)
    with serving(tmp_path, *authority.options(mutual=True), tls=tls) as server:
        error = refusal(server.grpc_url, tls)
        assert "wants a certificate of its clients" in error.message
        assert "--grpc-use-ssl-mutual" in str(error.mend)


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_is_away_is_no_matter_of_tls(authority: Authority, refusal: Refusal, *, tls: bool) -> None:
    assert "does not answer" in refusal("127.0.0.1:1", Tls(authority.file) if tls else None).message


def test_http_is_refused(authority: Authority) -> None:
    with pytest.raises(UsageError, match="no TLS"):
        Reranker("http://127.0.0.1:1", tls=Tls(authority.file))


class Wire(socketserver.ThreadingTCPServer):
    """Stands between Baton and a Triton, and notes all that goes by."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.to, self.seen = address.rpartition(":"), bytearray()
        super().__init__(("127.0.0.1", 0), Between)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Between(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        with socket.create_connection((self.server.to[0], int(self.server.to[2]))) as onward:
            back = threading.Thread(target=self._pass_on, args=(onward, self.request), daemon=True)
            back.start()
            self._pass_on(self.request, onward)
            back.join()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(65536):
                self.server.seen += some
                to.sendall(some)
            to.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("tls", [False, True])
def test_the_key_is_seen_on_the_way_without_tls_alone(tmp_path: Path, authority: Authority, *, tls: bool) -> None:
    key = "planted-admin-key-5b07"
    trust, options = (Tls(authority.file), authority.options()) if tls else (None, [])
    with (
        serving(tmp_path, *options, tls=trust) as server,
        Wire(server.grpc_url) as wire,
        closing(GrpcTriton("a", wire.address, admin_key=key, tls=trust)) as triton,
    ):
        assert triton.index()["toy"]
        assert (key.encode() in wire.seen) is not tls
        assert wire.seen


# What is told before anything goes wrong


def test_doctor_tells_how_calls_travel(encrypted: LocalTriton, authority: Authority, tmp_path: Path) -> None:
    def look(**settings: Any) -> Finding:
        server = ServerConfig("a", encrypted.grpc_url, **settings)
        found = {one.name: one for one in servers.look(server, Setup(load(None), runs=True), tmp_path / "key")}
        return found.get("way to a") or found["server a"]

    well = look(tls=True, ca_file=authority.file)
    assert well.verdict == "ok"
    ends = datetime.now(UTC) + timedelta(days=30)
    assert f"{ends:%Y-%m}" in well.message
    for settings, cause in (
        ({"tls": True, "ca_file": authority.file, "server_name": "other.example"}, "not for other.example"),
        ({}, "in plain text"),
        ({"tls": True, "ca_file": tmp_path / "nowhere.pem"}, "nowhere.pem can't be used"),
    ):
        wrong = look(**settings)
        assert wrong.verdict == "fail", settings
        assert cause in wrong.message
        assert wrong.mend


def test_doctor_warns_before_the_certificate_ends(
    encrypted: LocalTriton, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "SOON", timedelta(days=31))
    (soon,) = servers.way(ServerConfig("a", encrypted.grpc_url, tls=True, ca_file=authority.file))
    assert soon.verdict == "warn"
    assert "new certificate" in str(soon.mend)


# The file of authorities


def test_other_authorities_hold_without_a_new_start(
    encrypted: LocalTriton, authority: Authority, stranger: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ca.pem"
    shutil.copy(stranger.file, file)
    with closing(GrpcTriton("a", encrypted.grpc_url, tls=Tls(file))) as triton:
        with pytest.raises(Unreachable, match="not in"):
            triton.index()
        file.write_bytes(stranger.file.read_bytes() + authority.file.read_bytes())
        assert triton.index()["toy"]
        for spoil in (lambda: file.write_text("nothing"), file.unlink):
            caplog.clear()
            spoil()
            assert triton.index()["toy"], "what was read before holds"
            assert triton.index()["toy"]
            assert caplog.text.count("What was read before stays in force") == 1
        shutil.copy(stranger.file, file)
        with pytest.raises(Unreachable, match="not in"):
            triton.index()


class Slow(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """A gRPC server of one call, which is answered when the test says so."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    def service(self, details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answered)

    def _answered(self, request: bytes, context: object) -> bytes:
        self.asked.set()
        self.answer.wait()
        return b"\x08\x01"  # ServerLiveResponse(live=True)


def test_a_call_under_way_ends_on_the_connection_that_it_began_with(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    file, slow = tmp_path / "ca.pem", Slow()
    shutil.copy(authority.file, file)
    authority.options()
    pair = (authority.key.read_bytes(), authority.chain.read_bytes())
    server = grpc.server(ThreadPoolExecutor(2), handlers=[slow])
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials([pair]))}"
    server.start()
    connection = Connection(Tls(file), lambda credentials, _: triton.InferenceServerClient(address, creds=credentials))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(lambda: connection.client().is_server_live())
        slow.asked.wait()
        before = id(connection.client())
        shutil.copy(stranger.file, file)
        after = id(connection.client())
        gc.collect()
        early = answer.done()
        slow.answer.set()  # before anything is asserted: the thread waits for it
        assert answer.result() is True
    assert (after != before, early) == (True, False)
    connection.close(lambda client: client.close())
    server.stop(None)
