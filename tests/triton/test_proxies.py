"""A proxy that the environment names gets nothing: the admin key, tokens and requests go to their servers alone."""

from __future__ import annotations

import contextlib
import re
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.certificate import make_certificate, write_secret
from tests.support.toy import make_repository
from tests.support.triton import ROOT, running_triton
from tests.unit.facts.recorder import Recorder

from baton.api import ApiClient, Network, NetworkServer
from baton.client import Reranker
from baton.metrics import MetricsServer
from baton.triton.grpc import GrpcTriton

KEY = "planted-admin-key-51fe"
TOKEN = "planted-api-token-51fe"
NAMES = [name for one in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") for name in (one, one.upper())]


class Proxy(socketserver.ThreadingTCPServer):
    """Notes the first words of whoever comes, and turns them away."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        self.heard = []
        super().__init__(("127.0.0.1", 0), self.Heard)

    class Heard(socketserver.BaseRequestHandler):
        server: Proxy

        def handle(self):
            with contextlib.suppress(OSError):
                self.server.heard.append(self.request.recv(65536))
                self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def proxy(monkeypatch):
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        for name in NAMES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()
        thread.join()


def test_the_proxy_of_these_tests_hears_those_who_ask_it(proxy):
    """Else an empty list would prove nothing."""
    script = (
        "import contextlib, urllib.request, tritonclient.grpc as triton\n"
        "with contextlib.suppress(OSError): urllib.request.urlopen('http://127.0.0.1:9/metrics', timeout=30)\n"
        "with contextlib.suppress(triton.InferenceServerException):\n"
        "    triton.InferenceServerClient('127.0.0.1:9').is_server_live(client_timeout=30)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    said = [words.split(b"\r\n")[0] for words in proxy.heard]
    assert b"GET http://127.0.0.1:9/metrics HTTP/1.1" in said
    assert b"CONNECT 127.0.0.1:9 HTTP/1.1" in said


@pytest.mark.triton
def test_nothing_for_triton_goes_through_a_proxy(proxy, tmp_path):
    repository = make_repository(tmp_path / "repository", {"toy": [1]}, alias="reranker")
    # Its start, too, asks until it is answered.
    with running_triton(tmp_path, repository, load=["reranker"], admin_key=KEY, timeout=300.0) as server:
        metrics = server.metrics_url.split("/")[2]
        with contextlib.closing(GrpcTriton("a", server.grpc_url, metrics=metrics, admin_key=KEY)) as triton:
            assert triton.index()["toy"][1]
            triton.load("toy", 60.0)
            assert triton.engine_infos() is not None
            assert triton.inflight("toy") is not None
        for url in (f"grpc://{server.grpc_url}", f"http://{server.http_url}"):
            with Reranker(url) as reranker:
                assert reranker.rank("red", ["a red apple"]).version == 1
    assert proxy.heard == []


def test_ctl_asks_the_control_plane_itself(proxy, tmp_path):
    """Over TLS a proxy could read nothing, and yet nobody wants the way to ``ctl rollback`` to hang on one."""
    pair = make_certificate(tmp_path / "tls")
    token = write_secret(tmp_path / "token", TOKEN)
    app = Recorder()
    with NetworkServer(app, "127.0.0.1:0", certificate=pair.certificate, key=pair.key, token=TOKEN) as served:
        client = ApiClient(Network.at(f"https://{served.address}", token, pair.certificate))
        assert client.status() == app.status(None)
    assert proxy.heard == []


def test_the_health_check_of_the_image_asks_the_control_plane_itself(proxy):
    text = Path(ROOT, "docker/control.Dockerfile").read_text()
    (script,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', text)
    app = Recorder()
    with MetricsServer(app, "127.0.0.1:0") as served:
        here = script.replace("9464", str(served.port))
        assert here != script
        for live, code in ((True, 0), (False, 1)):
            app.feels(live=live)
            done = subprocess.run([sys.executable, "-c", here], check=False, timeout=120)
            assert done.returncode == code
    assert proxy.heard == []
