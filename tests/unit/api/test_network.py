"""The API over TCP: only under TLS, only with the token, and no client keeps others waiting."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from harness.waiting import until
from tests.support.certificate import Certificate, make_certificate, write_secret
from tests.support.listening import listening
from tests.support.sockets import cut_off
from tests.unit.facts.recorder import Recorder

from baton import httpd, verbs
from baton.api import ApiClient, Network, NetworkServer, network
from baton.cli import main
from baton.errors import BatonError, ConfigError, Refused, Unreachable, UsageError

TOKEN = "planted-api-token-93ab"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls") / "good")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_secret(tmp_path / "token", TOKEN)


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def served(app: Recorder, pair: Certificate) -> Iterator[NetworkServer]:
    with NetworkServer(app, "127.0.0.1:0", certificate=pair.certificate, key=pair.key, token=TOKEN) as server:
        yield server


@pytest.fixture
def client(served: NetworkServer, token_file: Path, pair: Certificate) -> ApiClient:
    return ApiClient(Network.at(f"https://{served.address}", token_file, pair.certificate))


def connect(served: NetworkServer, pair: Certificate) -> ssl.SSLSocket:
    host, _, port = served.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(pair.certificate))
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname=host)


def ask(served: NetworkServer, pair: Certificate, verb: str, path: str, body: Any = None, **headers: str) -> Any:
    host, _, port = served.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(pair.certificate))
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
    with contextlib.closing(connection):
        connection.request(verb, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


def test_it_is_the_same_api(app: Recorder, client: ApiClient) -> None:
    assert client.status("reranker") == app.status("reranker")
    assert client.history(None, 3) == app.history(None, 3)
    app.calls.clear()
    client.promote(None, 2, full=True, who="carol")
    client.resume()
    assert app.calls == [verbs.Promote(None, 2, full=True, who="carol"), verbs.Resume()]
    app.error = Refused("It is so.", mend="Do this.")
    with pytest.raises(Refused, match=r"It is so\. Do this\."):
        client.abort(None)


@pytest.mark.parametrize(
    "given",
    [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer wrong-token-77cd", f"Bearer {TOKEN}x", "Bearer \xfc"],
)
@pytest.mark.parametrize(("verb", "body"), [("GET", None), ("POST", b'{"full": true}')])
def test_without_the_token_nothing_happens(
    app: Recorder, served: NetworkServer, pair: Certificate, caplog: pytest.LogCaptureFixture, given: str | None,
    verb: str, body: bytes | None,
) -> None:  # fmt: skip
    headers = {} if given is None else {"Authorization": given}
    for path in ("/v1/status", "/v1/promote", "/v1/nothing", "/"):
        status, data, told = ask(served, pair, verb, path, body, **headers)
        assert (status, told["WWW-Authenticate"]) == (401, "Bearer")
        assert (data["error"], data["exit_code"]) == ("Refused", 3)
        assert "BATON_TOKEN_FILE" in data["mend"]
    assert app.calls == []
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == ["a call from 127.0.0.1 was refused: its token is missing or wrong"] * 4
    assert "token-77cd" not in caplog.text
    assert TOKEN not in caplog.text


def test_a_large_request_is_refused(served: NetworkServer, pair: Certificate) -> None:
    headers = {"Authorization": f"bearer {TOKEN}", "Content-Length": str(10**9)}
    status, data, _ = ask(served, pair, "POST", "/v1/pause", b"{}", **headers)
    assert (status, data["error"]) == (400, "UsageError")


def test_a_body_of_unknown_length_is_none(app: Recorder, served: NetworkServer, pair: Certificate) -> None:
    """Unread, it would be taken for a promotion without a version."""
    head = f"POST /v1/promote HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(served, pair) as raw:
        raw.sendall(head.encode())
        answer = raw.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.0 400 ")
    assert "needs a Content-Length" in answer
    assert app.calls == []


def test_tls_is_of_today(pair: Certificate) -> None:
    assert network._context(pair.certificate, pair.key).minimum_version == ssl.TLSVersion.TLSv1_2


def test_without_tls_there_is_no_answer(served: NetworkServer) -> None:
    host, _, port = served.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(b"GET /v1/status HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n")
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while part := plain.recv(4096):
                heard += part
    assert b"HTTP" not in heard


def test_who_says_nothing_holds_nobody_up(
    app: Recorder, served: NetworkServer, client: ApiClient, pair: Certificate
) -> None:
    host, _, port = served.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            stack.enter_context(connect(served, pair)).sendall(b"GET /v1/status HTTP/1.0\r\nX: ")
        assert client.status() == app.status(None)


def test_who_dribbles_is_cut_off(served: NetworkServer, pair: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "REQUEST_S", 4.0)  # for all of it, the handshake included
    host, _, port = served.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as silent,
        connect(served, pair) as slow,
        connect(served, pair) as promising,
    ):
        # A body that does not come is answered, since by then the token was seen.
        head = f"POST /v1/pause HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n{{"
        promising.sendall(head.encode())
        slow.sendall(b"GET /v1/status HTTP/1.0\r\nX: ")
        until(lambda: cut_off(slow), "it is closed although it never rests")
        assert b"did not arrive within 4 s" in promising.makefile("rb").read()
        assert silent.recv(1) == b""


def test_the_newest_is_heard_before_those_that_say_nothing(
    app: Recorder, pair: Certificate, token_file: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(network, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(httpd, "REQUEST_S", 600.0)
    with NetworkServer(app, "127.0.0.1:0", certificate=pair.certificate, key=pair.key, token=TOKEN) as served:
        client = ApiClient(Network.at(f"https://{served.address}", token_file, pair.certificate))
        host, _, port = served.address.rpartition(":")
        with contextlib.ExitStack() as stack:
            silent = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            slow = [stack.enter_context(connect(served, pair)) for _ in range(2)]
            slow[0].sendall(b"GET /v1/status HTTP/1.0\r\nX: ")
            assert client.status() == app.status(None)
            assert silent.recv(1) == b""
            slow[1].sendall(f"GET /v1/pause HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            assert b"405" in slow[1].recv(4096)
        assert f"{served.address}: all 3 connections are taken" in caplog.text


def test_a_certificate_that_is_not_to_be_trusted(
    served: NetworkServer, token_file: Path, tmp_path: Path, app: Recorder
) -> None:
    """The token is not sent to who only says that it is the control plane."""
    for ca in (None, make_certificate(tmp_path / "other").certificate):
        with pytest.raises(ConfigError, match=r"is not to be trusted: .*--ca or BATON_CA"):
            ApiClient(Network.at(f"https://{served.address}", token_file, ca)).status()
    elsewhere = make_certificate(tmp_path / "elsewhere", name="DNS:elsewhere.example")
    other = NetworkServer(app, "127.0.0.1:0", certificate=elsewhere.certificate, key=elsewhere.key, token=TOKEN)
    with other, pytest.raises(ConfigError, match="IP address mismatch"):
        ApiClient(Network.at(f"https://{other.address}", token_file, elsewhere.certificate)).status()
    assert app.calls == []


@pytest.mark.parametrize(
    "address", ["http://h:1", "https://h", "h:1", "https://u:p@h:1", "https://h:1/x", "https://h:x"]
)
def test_an_address_that_is_none(address: str, token_file: Path) -> None:
    with pytest.raises(UsageError, match="https://host:port"):
        Network.at(address, token_file, None)


def test_nobody_there(token_file: Path, pair: Certificate) -> None:
    with pytest.raises(Unreachable, match=r"No control plane listens at https://127.0.0.1:1 "):
        ApiClient(Network.at("https://127.0.0.1:1", token_file, pair.certificate)).status()


def test_files_that_are_no_certificate(app: Recorder, pair: Certificate, tmp_path: Path) -> None:
    locked = make_certificate(tmp_path / "locked", passphrase="planted-passphrase")
    for certificate, key in (
        (pair.certificate, tmp_path / "missing"), (pair.key, pair.key), (pair.certificate, locked.key), locked,
    ):  # fmt: skip
        server = NetworkServer(app, "127.0.0.1:0", certificate=certificate, key=key, token=TOKEN)
        with pytest.raises(ConfigError, match="are no certificate and its key") as caught:
            server.start()
        assert "without a passphrase" in str(caught.value)


def test_an_address_in_use(app: Recorder, pair: Certificate, served: NetworkServer) -> None:
    other = NetworkServer(app, served.address, certificate=pair.certificate, key=pair.key, token=TOKEN)
    with pytest.raises(Refused, match=rf"{served.address} can't be opened"):
        other.start()


def test_it_listens_where_it_was_told(served: NetworkServer) -> None:
    port = int(served.address.rpartition(":")[2])
    assert [str(address) for heard, address in listening(os.getpid()) if heard == port] == ["127.0.0.1"]


def test_neither_token_nor_key_is_shown(served: NetworkServer, token_file: Path, pair: Certificate) -> None:
    assert TOKEN not in repr(Network.at(f"https://{served.address}", token_file, pair.certificate))


# ctl


def ctl(*args: str, **env: str) -> Any:
    return CliRunner().invoke(main, args, env=env)


def test_ctl_over_the_network(served: NetworkServer, token_file: Path, pair: Certificate, tmp_path: Path) -> None:
    env = {
        "BATON_SERVER": f"https://{served.address}",
        "BATON_TOKEN_FILE": str(token_file),
        "BATON_CA": str(pair.certificate),
    }
    flags = ("--server", env["BATON_SERVER"], "--token-file", str(token_file), "--ca", str(pair.certificate))
    for done in (ctl("status", *flags), ctl(*flags, "status"), ctl("status", **env)):
        assert done.exit_code == 0, done.stderr
        assert "ranker_engine" in done.stdout
    wrong = write_secret(tmp_path / "wrong", "wrong-token-77cd")
    done = ctl("status", "--token-file", str(wrong), **env)
    assert done.exit_code == 3
    words = " ".join(done.stderr.split())
    assert "its token is missing or wrong. Name the file" in words
    assert "77cd" not in done.output
    done = ctl("rollback", "--yes", "--no-wait", **(env | {"BATON_TOKEN_FILE": str(wrong)}))
    assert done.exit_code == 3
    done = ctl("status", "--server", env["BATON_SERVER"])
    assert (done.exit_code, "BATON_TOKEN_FILE" in done.stderr) == (2, True)


def test_ctl_push_over_the_network_wants_to_know_where(
    served: NetworkServer, token_file: Path, pair: Certificate, tmp_path: Path
) -> None:
    flags = ("--server", f"https://{served.address}", "--token-file", str(token_file), "--ca", str(pair.certificate))
    done = ctl("push", str(tmp_path), "--yes", *flags)
    assert done.exit_code == 2
    assert "--repository" in done.stderr


def test_a_token_that_others_may_read_is_not_used(token_file: Path) -> None:
    token_file.chmod(0o640)
    with pytest.raises(BatonError, match=r"may be opened by others than its owner \(mode 0640\). `chmod 600"):
        Network.at("https://h:1", token_file, None)
