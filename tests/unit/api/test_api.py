"""The facade over a real unix socket."""

from __future__ import annotations

import gc
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.facts.recorder import Recorder

from baton import errors
from baton.api import ApiClient, ApiServer, claim
from baton.api.wire import MAX_BODY
from baton.errors import BatonError, Refused, Unreachable, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "baton.sock"


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def client(app: Recorder, path: Path) -> Iterator[ApiClient]:
    with ApiServer(app, path):
        yield ApiClient(path)


def _classes() -> list[type[BatonError]]:
    return [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BatonError)]


@pytest.mark.parametrize("kind", _classes())
def test_an_error_keeps_its_class_and_words(app: Recorder, client: ApiClient, kind: type[BatonError]) -> None:
    app.error = kind("It is so.", mend="Do this.")
    with pytest.raises(BatonError) as caught:
        client.status()
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.mend) == ("It is so.", "Do this.")


class OddError(BatonError):
    """A class that the client does not know."""

    exit_code = 6


def test_an_error_of_an_unknown_class_keeps_its_exit_code(app: Recorder, client: ApiClient) -> None:
    app.error = OddError("Odd.")
    with pytest.raises(BatonError) as caught:
        client.abort(None)
    assert caught.value.exit_code == 6


def test_a_defect_is_logged_and_shows_no_traceback(
    app: Recorder, client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    app.error = ZeroDivisionError("secret")
    with pytest.raises(BatonError) as caught:
        client.status()
    assert caught.value.exit_code == 1
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


def _raw(path: Path, verb: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.fspath(path))
    connection.request(verb, target, body, headers)
    with connection.getresponse() as answer:
        data = json.loads(answer.read())
    connection.close()
    return answer.status, data


@pytest.mark.parametrize(
    ("verb", "target", "body", "code"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/status", None, 404),
        ("GET", "HTTP://[x/v1/status", None, 404),
        ("GET", "/v1/pause", None, 405),
        ("GET", "/v1/rollout", None, 400),
        ("GET", "/v1/rollout?id=x", None, 400),
        ("GET", "/v1/status?color=red", None, 400),
        ("POST", "/v1/promote", b"{", 400),
        ("POST", "/v1/promote", b"[]", 400),
        ("POST", "/v1/promote", b'{"version": "2"}', 200),
        ("POST", "/v1/promote", b'{"version": 1.5}', 400),
        ("POST", "/v1/promote", b'{"version": true}', 400),
        ("POST", "/v1/promote", b'{"full": 1}', 400),
        ("POST", "/v1/promote", b"[" * 60_000, 400),
        ("POST", "/v1/promote", b'{"version": ' + b"9" * 60_000 + b"}", 400),
        ("POST", "/v1/promote", b'{"version": 1' + b"0" * 30 + b"}", 400),
        ("GET", "/v1/rollout?id=" + "9" * 5000, None, 400),
        ("POST", "/v1/retry", b'{"release": "new"}', 400),
        ("POST", "/v1/expect", b'{"version": 1, "timeout_s": NaN}', 400),
        ("POST", "/v1/expect", b'{"version": 1, "timeout_s": 1' + b"0" * 400 + b"}", 400),
        ("POST", "/v1/pause", b"", 200),
    ],
)
def test_odd_requests(client: ApiClient, path: Path, verb: str, target: str, body: bytes | None, code: int) -> None:
    status, data = _raw(path, verb, target, body)
    assert status == code
    if code != 200:
        assert data["error"] == "UsageError"
        assert data["exit_code"] == 2


def test_a_large_request_is_refused_unread(client: ApiClient, path: Path) -> None:
    # No byte of the body is sent: the server may have closed before it could be.
    status, data = _raw(path, "POST", "/v1/pause", None, **{"Content-Length": str(MAX_BODY + 1)})
    assert status == 400
    assert str(MAX_BODY) in data["message"]
    status, data = _raw(path, "POST", "/v1/pause", None, **{"Content-Length": "9" * 5000})
    assert (status, data["error"]) == (400, "UsageError")


def test_without_a_control_plane(path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        ApiClient(path).status()
    assert str(caught.value) == (
        f"No control plane runs for state directory {path.parent}. Start one with `ctl up` or `ctl serve`."
    )


def test_only_its_user_may_open_the_socket_and_it_goes_at_the_end(app: Recorder, path: Path) -> None:
    with ApiServer(app, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with pytest.raises(Unreachable):
        ApiClient(path).status()


def test_a_living_one_is_not_replaced(app: Recorder, client: ApiClient, path: Path) -> None:
    with pytest.raises(Refused, match=rf"already runs for state directory .* \(process {os.getpid()} on "):
        ApiServer(Recorder(), path).start()
    assert client.status() == app.status(None)


def test_a_dead_one_is_replaced(app: Recorder, path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from baton.api import ApiServer\n"
        "ApiServer(None, Path(sys.argv[1])).start(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert path.exists()
    with pytest.raises(Unreachable, match="No control plane runs"):
        ApiClient(path).status()
    with ApiServer(app, path):
        assert ApiClient(path).status() == app.status(None)


def test_the_claim_can_be_taken_before_the_server_starts(app: Recorder, path: Path) -> None:
    with claim(path), ApiServer(app, path, claimed=True):
        assert ApiClient(path).health().live


def test_a_long_state_path(app: Recorder, tmp_path: Path) -> None:
    path = tmp_path / ("long" * 20) / ("longer" * 20) / "baton.sock"
    gc.collect()  # what other tests left behind is closed now, not in between
    descriptors = set(Path("/proc/self/fd").iterdir())
    with ApiServer(app, path):
        assert path.exists()
        assert ApiClient(path).status() == app.status(None)
    assert not path.exists()
    assert set(Path("/proc/self/fd").iterdir()) <= descriptors


def test_something_else_on_the_socket(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        other.settimeout(5)
        import threading

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="no control plane of Baton"):
            ApiClient(path).status()
        thread.join()


def test_a_usage_error_names_what_is_allowed(client: ApiClient, path: Path) -> None:
    _, data = _raw(path, "GET", "/v1/rollout?id=x")
    assert data["message"] == "rollout: id = 'x': expected a whole number."
    _, data = _raw(path, "POST", "/v1/retry", b'{"release": "new"}')
    assert data["message"] == "retry: release = 'new': expected equivalent or retrained."
    with pytest.raises(UsageError):
        client.verify(None, version=True)
