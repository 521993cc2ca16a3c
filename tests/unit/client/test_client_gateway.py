"""``Reranker("http://…/v1")`` asks a gateway, and its answers and errors are those of any other server."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.gateway import serving
from tests.unit.gateway.test_versions import keys_file

from baton.client import InvalidInput, NotServing, Reranker
from baton.errors import ConfigError, TimedOut, TritonError, Unreachable, UsageError
from baton.testing.gateway import FakeConnection
from baton.tls import Tls

DOCUMENTS = ["a green pear", "a round red apple", "a red car"]


def test_ranks_as_any_other_server_does() -> None:
    fake = FakeConnection(stable=3, versions=(3,))
    with serving("a", connect=lambda _: fake) as (gateway, _), Reranker(f"{gateway.places['gateway']}/v1") as reranker:
        ranking = reranker.rank(
            "red apple", DOCUMENTS, instruction="find fruit", options={"fps": 1, "truncation": "refuse"}
        )
    expected = fake.scores(3, {"text": "red apple"}, [{"text": text} for text in DOCUMENTS])
    assert ranking.scores == pytest.approx(expected, abs=1e-6)
    assert ranking.version == 3
    inputs = fake.asked[0].inputs
    assert inputs["instruction"][0, 0] == b"find fruit"
    assert json.loads(inputs["options"][0, 0]) == {"fps": 1.0, "truncation": "refuse"}


def test_pictures_travel_beside_the_request() -> None:
    fake, picture, frame = FakeConnection(), b"\x89PNG\0", b"\0frame"
    with serving("a", connect=lambda _: fake) as (gateway, _), Reranker(f"{gateway.places['gateway']}/v1/") as reranker:
        ranking = reranker.rank(Reranker.image(picture), [Reranker.video([frame, picture], text="clip"), "text"])
    inputs = fake.asked[0].inputs
    assert inputs["media"][0].tolist() == [picture, frame]
    assert json.loads(inputs["documents"][0, 0]) == {"video": [{"media": 1}, {"media": 0}], "text": "clip"}
    assert len(ranking.scores) == 2


def test_one_request_id_meets_one_version() -> None:
    fake = FakeConnection()
    with serving("a", connect=lambda _: fake) as (gateway, _), Reranker(f"{gateway.places['gateway']}/v1") as reranker:
        for name in ("x", "x", "y"):
            reranker.rank("a", ["b"], request_id=name)
    first, second, third = (one.request_id for one in fake.asked)
    assert first == second != third


def test_a_key_and_a_version(tmp_path: Path) -> None:
    fake = FakeConnection(versions=(1, 2))
    with serving("a", connect=lambda _: fake, keys_file=keys_file(tmp_path, ci="versions = true")) as (gateway, _):
        url = f"{gateway.places['gateway']}/v1"
        with Reranker(url, api_key="key-ci") as reranker:
            assert reranker.rank("a", ["b"], model_version=2).version == 2
            with pytest.raises(NotServing):
                reranker.rank("a", ["b"], model_version=9)
        with Reranker(url, api_key="other") as reranker, pytest.raises(UsageError, match="key"):
            reranker.rank("a", ["b"])


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidInput("document 0: x"), InvalidInput),
        (NotServing("busy: full"), NotServing),
        (Unreachable("gone"), NotServing),
        (TimedOut("late"), TimedOut),
        (TritonError("x"), TritonError),
    ],
)
def test_errors_are_those_of_the_client(error: Exception, raised: type[Exception]) -> None:
    fake = FakeConnection(error=error)  # type: ignore[arg-type]
    with serving("a", connect=lambda _: fake) as (gateway, _), Reranker(f"{gateway.places['gateway']}/v1") as reranker:
        with pytest.raises(raised):
            reranker.rank("a", ["b"])
        with pytest.raises(InvalidInput, match="options"):
            reranker.rank("a", ["b"], options={"unheard": 1})


@pytest.mark.parametrize("said", ["<html>welcome</html>", "[]", '{"results": [{"index": 0}]}', '{"results": null}'])
def test_what_answers_is_no_gateway(said: str) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        with (
            Reranker(f"http://127.0.0.1:{site.server_port}/v1") as reranker,
            pytest.raises(TritonError, match="gateway"),
        ):
            reranker.rank("a", ["b"])
        site.shutdown()


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            Reranker("https://127.0.0.1:1/v1", tls=Tls(tmp_path / name))


def test_nobody_there_and_nobody_in_time() -> None:
    with Reranker("http://127.0.0.1:1/v1") as reranker, pytest.raises(Unreachable):
        reranker.rank("a", ["b"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with Reranker(url, timeout_s=0.2) as reranker, pytest.raises(TimedOut):
            reranker.rank("a", ["b"])


def test_without_httpx_it_says_so() -> None:
    code = "import sys; sys.modules['httpx'] = None; from baton.client import Reranker; Reranker('http://h:1/v1')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UsageError: A gateway is asked by httpx, which is not installed. pip install httpx" in done.stderr


@pytest.mark.parametrize("url", ["http://h:1/v2", "ftp://h/v1", "http://user@h/v1", "http://h/v1?x=1", "grpc://h:1/v1"])
def test_what_is_no_gateway(url: str) -> None:
    with pytest.raises(UsageError):
        Reranker(url)
