"""What one request over HTTP does to Triton 24.10, and what is left of it behind ``docker/nginx.conf``."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import until
from tests.support.hostile_http import DEEP, FORM, INFER, ONE_BYTE_CHUNKS, post
from tests.support.toy import make_repository
from tests.support.triton import ROOT, ask, running_triton

from baton.client import Reranker
from baton.local import LocalTriton
from baton.local.ports import choose_ports, is_listening

pytestmark = pytest.mark.full
READY = "/v2/models/reranker/ready"
MIB = 2**20


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[LocalTriton]:
    repository = make_repository(tmp_path / "repository", {"toy": [1]}, alias="reranker")
    with running_triton(tmp_path, repository, load=["reranker"], admin_key="a-key-that-nobody-shows") as server:
        assert str(server.installation.version).startswith("2.51")  # of later ones this may be no longer true
        yield server


@pytest.mark.parametrize(("headers", "parts"), [ONE_BYTE_CHUNKS, FORM, DEEP], ids=["chunks", "form", "deep"])
def test_one_request_without_a_key_ends_triton(triton: LocalTriton, headers: str, parts: list[bytes]) -> None:
    post(triton.ports.http, INFER, headers, parts)
    assert triton.wait(120) == -11


def test_a_form_ends_it_on_the_port_for_metrics_too(triton: LocalTriton) -> None:
    """A web page that is looked at on this machine may send one there, and is not asked: hence ``--no-metrics``."""
    post(triton.ports.metrics, "/metrics", *FORM)
    assert triton.wait(120) == -11


# The proxy


@contextlib.contextmanager
def nginx(home: Path, upstream: int) -> Iterator[int]:
    """The delivered configuration, on other ports and with its files in ``home``; gives its port."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    assert binary is not None, "nginx is missing: make tools"
    home.mkdir()
    port = choose_ports("127.0.0.1", http=None, grpc=None, metrics=None).http
    text = (ROOT / "docker/nginx.conf").read_text()
    places = [f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream}"),
        ("/var/log/nginx/access.log", f"{home}/access.log"),
        ("http {\n", "http {\n" + "\n".join(places) + "\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    user = "user root; " if os.geteuid() == 0 else ""  # others can't look into this test's folder
    (home / "nginx.conf").write_text(f"{user}daemon off; pid {home}/pid; error_log {home}/error.log;\n{text}")
    command = [binary, "-e", f"{home}/error.log", "-c", f"{home}/nginx.conf"]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: process.poll() is not None or is_listening("127.0.0.1", port), "nginx listens")
            assert process.poll() is None, (home / "error.log").read_text()
            yield port
        finally:
            process.terminate()


class Upstream(ThreadingHTTPServer):
    """In Triton's place: notes what reaches it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), Noting)


class Noting(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"{}")

    do_GET = do_HEAD = do_POST  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def port(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nginx(tmp_path_factory.mktemp("proxy") / "nginx", upstream.server_address[1]) as port:
        yield port


@pytest.fixture
def heard(upstream: Upstream) -> list[tuple[str, str, dict[str, str], bytes]]:
    upstream.heard.clear()
    return upstream.heard


def sent(port: int, verb: str, path: str, body: bytes | None = None, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request(verb, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status


def test_a_request_goes_on_whole_and_bare(port: int, heard: list[Any]) -> None:
    body = b"x" * (3 * MIB)  # more than it keeps in memory
    status = sent(
        port, "POST", f"{INFER}?x=1", body, Content_Type="application/octet-stream", Admin_Key="k", Accept="*/*",
        Inference_Header_Content_Length="17", Accept_Encoding="gzip", X_Forwarded_For="1.2.3.4", Cookie="c",
    )  # fmt: skip
    assert status == 200
    ((verb, path, headers, arrived),) = heard
    assert (verb, path, arrived == body) == ("POST", INFER, True)
    assert headers == {
        "host": "triton",
        "content-type": "application/octet-stream",
        "inference-header-content-length": "17",
        "content-length": str(len(body)),
    }


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_whether_the_model_is_ready_can_be_asked(port: int, heard: list[Any], verb: str) -> None:
    assert sent(port, verb, READY, b"body") == 200
    assert [one[:2] for one in heard] == [(verb, READY)]
    assert heard[0][2].keys() <= {"host"}


REFUSED: dict[str, tuple[int, Callable[[int], int]]] = {
    "form": (415, lambda p: sent(p, "POST", INFER, b"a=b", Content_Type="application/x-www-form-urlencoded")),
    "form, by name": (415, lambda p: sent(p, "POST", INFER, b"a", Content_Type="multipart/form-data; boundary=x")),
    "text, as a page sends it unasked": (415, lambda p: sent(p, "POST", INFER, b"{}", Content_Type="text/plain")),
    "not quite JSON": (415, lambda p: sent(p, "POST", INFER, b"{}", Content_Type="application/jsonx")),
    "gzip": (415, lambda p: sent(p, "POST", INFER, gzip.compress(b"{}"), Content_Encoding="gzip")),
    "deflate": (415, lambda p: sent(p, "POST", INFER, b"x", Content_Encoding="deflate")),
    "page": (403, lambda p: sent(p, "POST", INFER, b"{}", Origin="https://evil.example")),
    "page without an origin": (403, lambda p: sent(p, "POST", INFER, b"{}", Origin="null")),
    "page that asks": (403, lambda p: sent(p, "GET", READY, Origin="https://evil.example")),
    "page that asks first": (405, lambda p: sent(p, "OPTIONS", INFER, Origin="https://evil.example")),
    "deep": (413, lambda p: sent(p, "POST", INFER, b"[" * 100_000)),
    "deep, before a tensor": (
        413,
        lambda p: sent(p, "POST", INFER, b"[" * 200_000, Inference_Header_Content_Length="100000"),
    ),
    "deep, with an odd length": (413, lambda p: sent(p, "POST", INFER, b"[", Inference_Header_Content_Length="1, 9")),
    "large": (413, lambda p: sent(p, "POST", INFER, None, Content_Length=str(33 * MIB))),
    "by GET": (405, lambda p: sent(p, "GET", INFER)),
    "engine": (404, lambda p: sent(p, "POST", "/v2/models/qwen3_vl_reranker/infer", b"{}")),
    "version": (404, lambda p: sent(p, "POST", "/v2/models/reranker/versions/1/infer", b"{}")),
    "repository": (404, lambda p: sent(p, "POST", "/v2/repository/index", b"{}", Admin_Key="k")),
    "load, by a detour": (404, lambda p: sent(p, "POST", f"{INFER}/../../../repository/models/toy/load", b"{}")),
    "configuration": (404, lambda p: sent(p, "GET", "/v2/models/reranker/config")),
    "metrics": (404, lambda p: sent(p, "GET", "/metrics")),
    "server": (404, lambda p: sent(p, "GET", "/v2")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_never_arrives(port: int, heard: list[Any], what: str) -> None:
    status, send = REFUSED[what]
    assert send(port) == status
    assert heard == []


@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked\r\n", "transfer-encoding:CHUNKED\r\n"])
def test_a_chunked_upload_is_refused(port: int, heard: list[Any], head: str) -> None:
    assert re.match(rb"HTTP/1.1 411 ", post(port, INFER, head, [b"2\r\n{}\r\n0\r\n\r\n"]))
    both = f"Content-Length: 5\r\n{head}"
    assert re.match(rb"HTTP/1.1 4\d\d ", post(port, INFER, both, [b"0\r\n\r\n"]))
    assert heard == []


def test_a_body_that_does_not_come_never_reaches_triton(port: int, heard: list[Any]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as half:
        half.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        with contextlib.suppress(ConnectionResetError):
            assert half.recv(4096) == b""  # given up after the time of the configuration
    assert heard == []


def test_triton_behind_the_proxy(triton: LocalTriton, tmp_path: Path) -> None:
    """Clients work, and what ends a Triton does nothing to this one."""
    with nginx(tmp_path / "nginx", triton.ports.http) as port:
        for headers, parts in (ONE_BYTE_CHUNKS, FORM, DEEP):
            heard = post(port, INFER, headers, parts)
            assert re.match(rb"HTTP/1.1 4\d\d |$", heard)
            assert ask(triton, "reranker", "red", ["a"]).model_version == 1
        # As deep as the proxy lets through: no JSON in the end, as Triton says itself.
        assert sent(port, "POST", INFER, b'{"inputs":' + b"[" * 99_989) in {400, 500}
        assert ask(triton, "reranker", "red", ["a"]).model_version == 1
        assert sent(port, "GET", READY) == 200
        with Reranker(f"http://127.0.0.1:{port}") as reranker:
            picture = Reranker.image(b"\0" * MIB, text="a red apple")
            assert reranker.rank("red apple", ["a green pear", picture]).version == 1
    assert triton.poll() is None
