"""The gateway on a socket: where it may listen, heads that never end, TLS, and how it stops."""

from __future__ import annotations

import json
import logging
import resource
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from harness.control_plane import CTL
from harness.processes import Child
from harness.waiting import until
from tests.support.certificate import make_certificate
from tests.support.gateway import FRUIT, serving
from tests.unit.gateway.test_versions import keys_file

from baton.cli import main
from baton.client import Reranker
from baton.config_gateway import GatewayConfig, check_exposed
from baton.errors import ConfigError, Unreachable
from baton.gateway.app import Gateway
from baton.gateway.server import _listen, _Server
from baton.testing.gateway import FakeConnection
from baton.tls import Tls


def test_answers_and_counts_on_two_ports() -> None:
    with serving("a", connect=FakeConnection) as (gateway, client):
        assert client.post("/v1/rerank", json=FRUIT).status_code == 200
        assert client.get("/metrics").status_code == 404
        with httpx.Client(trust_env=False) as other:
            told = other.get(f"{gateway.places['gateway_metrics']}/metrics").text
    line = 'baton_gateway_request_seconds_count{model_version="1",route="/v1/rerank",status="200"} 1.0'
    assert line in told
    assert "baton_gateway_in_flight 0.0" in told


def test_the_access_log_is_json_and_holds_no_content(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "baton.gateway.access"), serving("a", connect=FakeConnection) as (_, client):
        client.post("/v1/rerank", json=FRUIT | {"user": "somebody"})
        client.post("/v1/rerank", json={"query": "apple"})
        client.get("/nowhere/apple")
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "baton.gateway.access"]
    assert [one["status"] for one in lines] == [200, 422, 404]
    assert {"id", "ms", "bytes", "documents", "version", "server", "route"} <= lines[0].keys()
    assert not any(word in json.dumps(lines) for word in ("apple", "somebody"))


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "gateway.example.com:1"])
def test_other_machines_need_tls_and_keys(listen: str, tmp_path: Path) -> None:
    both = {"certificate": tmp_path / "c", "key": tmp_path / "k", "keys_file": tmp_path / "keys"}
    for left_out in ("certificate", "keys_file"):
        config = GatewayConfig(listen=listen, **{name: value for name, value in both.items() if name != left_out})
        with pytest.raises(ConfigError, match="without"):
            check_exposed(config, insecure=False)
        check_exposed(config, insecure=True)
    check_exposed(GatewayConfig(listen=listen, **both), insecure=False)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.8.8:1"])
def test_this_machine_needs_neither(listen: str) -> None:
    check_exposed(GatewayConfig(listen=listen), insecure=False)


def test_a_port_that_is_taken_and_a_certificate_that_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match=address), serving("a", connect=FakeConnection, listen=address):
            pass
    (tmp_path / "c.pem").write_text("none")
    files: dict[str, Any] = {"certificate": tmp_path / "c.pem", "key": tmp_path / "c.pem"}
    with pytest.raises(ConfigError, match="certificate"), serving("a", connect=FakeConnection, **files):
        pass


def test_an_answer_is_sent_at_once() -> None:
    """Connections inherit it from the socket that listens."""
    with _listen("127.0.0.1:0") as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_tls(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "tls")
    with serving("a", connect=FakeConnection, certificate=made.certificate, key=made.key) as (gateway, _):
        url = gateway.places["gateway"]
        assert url.startswith("https://")
        with httpx.Client(
            base_url=url, verify=ssl.create_default_context(cafile=made.certificate), trust_env=False
        ) as client:
            assert client.post("/v1/rerank", json=FRUIT).status_code == 200


def test_baton_client_trusts_whom_it_is_told(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "tls")
    with serving("a", connect=FakeConnection, certificate=made.certificate, key=made.key) as (gateway, _):
        url = f"{gateway.places['gateway']}/v1"
        with Reranker(url, tls=Tls(made.certificate)) as reranker:
            assert reranker.rank("a", ["b"]).version == 1
        with Reranker(url) as stranger, pytest.raises(Unreachable, match="certificate"):
            stranger.rank("a", ["b"])


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def closed(one: socket.socket) -> bool:
    """What came, until the server closed the connection."""
    try:
        while one.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "begin",
    [b"", b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HT"],
)
def test_a_head_that_never_ends_is_cut(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.gateway.server.IDLE_S", 0.1)
    with serving("a", connect=FakeConnection, header_timeout=0.2) as (gateway, client):
        with connected(gateway.places["gateway"]) as one:
            one.sendall(begin)
            assert closed(one)
        # A client whose head is late on a busy machine is cut as well.
        until(lambda: answered(client), "others are answered")


def test_an_answer_may_take_longer_than_a_head() -> None:
    with serving("a", connect=lambda _: FakeConnection("a", answer_s=1.0), header_timeout=0.5) as (_, client):
        until(lambda: answered(client), "the answer")


def answered(client: httpx.Client) -> bool:
    try:
        return client.post("/v1/rerank", json=FRUIT).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 200_000 + b"\r\n\r\n",
        b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n" + b"X-More: x\r\n" * 20_000 + b"\r\n",
        b"nonsense\r\n\r\n",
        b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_heads_that_are_wrong_are_4xx(head: bytes) -> None:
    with serving("a", connect=FakeConnection) as (gateway, client):
        with connected(gateway.places["gateway"]) as one:
            one.sendall(head)
            answer = one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 4"), answer
        assert client.post("/v1/rerank", json=FRUIT).status_code == 200


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    with serving("a", connect=FakeConnection, max_bytes=1000) as (gateway, client):
        with connected(gateway.places["gateway"]) as one:
            one.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            answer = one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413")
            assert closed(one)
        assert client.post("/v1/rerank", json=FRUIT).status_code == 200


def test_memory_does_not_grow_over_hostile_requests() -> None:
    bodies = [
        b"[" * 10**5,
        b'{"query":"a","documents":[' + b'"x",' * 10**5 + b'"x"]}',
        b"\xff" * 10**5,
        b'{"a":1,"a":2}',
    ]
    with serving("a", connect=FakeConnection) as (_, client):

        def rounds(count: int) -> None:
            for number in range(count):
                answer = client.post("/v1/rerank", content=bodies[number % len(bodies)])
                assert 400 <= answer.status_code < 500

        rounds(40)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rounds(160)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after < before + 32 * 1024, "kB, and one of these requests takes some MB"


def test_a_stop_is_told_first_and_finishes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = FakeConnection("a", answer_s=1.0)
    answers: list[int] = []
    order: list[str] = []

    def draining(_: Gateway, value: bool) -> None:  # noqa: FBT001 - a property's
        order.extend(["told"] * value)

    async def shutdown(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        order.append("closing")
        await uvicorn.Server.shutdown(server, sockets)
        order.append("closed")

    monkeypatch.setattr(Gateway, "draining", property(lambda _: "told" in order, draining), raising=False)
    monkeypatch.setattr(_Server, "shutdown", shutdown)
    with serving("a", connect=lambda _: slow, metrics=False) as (gateway, client):
        asking = threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=FRUIT).status_code))
        asking.start()
        until(lambda: slow.asked, "the request is under way")
        gateway.__exit__()
        asking.join()
    assert answers == [200]
    assert order == ["told", "closing", "closed"]


# As a program


def test_ctl_gateway(tmp_path: Path) -> None:
    keys = keys_file(tmp_path, web="")
    args = ("--output", "json", "gateway", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--keys", str(keys))

    with Child([CTL, *args, "--triton", "127.0.0.1:1"], tmp_path / "log") as child:
        places = child.first_line()
        assert places["triton"] == "127.0.0.1:1"
        with httpx.Client(base_url=places["gateway"], trust_env=False) as client:
            assert client.post("/v1/rerank", json=FRUIT).status_code == 401
            answer = client.post("/v1/rerank", json=FRUIT, headers={"authorization": "Bearer key-web"})
            assert answer.status_code == 503
        child.process.terminate()
        assert child.process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [(one["status"], one.get("key")) for one in lines] == [(401, None), (503, "web")]
    assert "key-web" not in log
    assert log.splitlines()[-1] == "Stopped."


def test_ctl_up_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text('[gateway]\nlisten = "0.0.0.0:0"\n')
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "baton.toml"), "up"])
    assert done.exit_code == 2, done.output
    assert "without TLS" in " ".join(done.output.split())
    assert not (tmp_path / ".baton").exists()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--listen", "nowhere"], 2, "an address such as"),
        (["--listen", "0.0.0.0:0"], 2, "without TLS"),
        (["--keys", "missing.toml"], 2, "missing.toml"),
    ],
)
def test_ctl_gateway_refuses(
    args: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["gateway", "--metrics", "127.0.0.1:0", *args])
    assert done.exit_code == code, done.output
    assert said in " ".join(done.output.split())
