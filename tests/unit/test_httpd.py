"""The server of the API and of the metrics: what strangers may hold, and for how long."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from harness.waiting import until
from tests.support.sockets import cut_off
from tests.support.triton import ROOT
from tests.unit.facts.recorder import Recorder

from baton import httpd, metrics, verbs
from baton.api import ApiClient, ApiServer, server
from baton.facts import ControlHealth, Status
from baton.metrics import MetricsServer

HEALTH = b"GET /healthz HTTP/1.0\r\n\r\n"


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def page(app: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    monkeypatch.setattr(metrics, "MOST_CONNECTIONS", 4)
    with MetricsServer(app, "127.0.0.1:0") as served:
        yield served


def connect(page: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.port), timeout=60)


def answer(connection: socket.socket) -> bytes:
    with connection, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: connection.recv(4096), b""))
    return b""


def asked(page: MetricsServer) -> bytes:
    connection = connect(page)
    connection.sendall(HEALTH)
    return answer(connection)


@pytest.mark.parametrize("said", [b"", b"GET", b"GET /healthz HTTP/1.0\r\n", b"GET /healthz HTTP/1.0\r\nX: 1"])
def test_a_request_has_its_time_and_no_more(page: MetricsServer, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """However far it got, and however steadily it goes on."""
    monkeypatch.setattr(httpd, "REQUEST_S", 1.0)
    with connect(page) as dribbling, connect(page) as still:
        for one in (dribbling, still):
            one.sendall(said)
        until(lambda: cut_off(dribbling), "it is closed although it never rests")
        with contextlib.suppress(ConnectionResetError):
            assert still.recv(4096) == b""
    monkeypatch.setattr(httpd, "REQUEST_S", 60.0)
    assert asked(page).endswith(b"ok\n")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET http://[x HTTP/1.0\r\n\r\n", b"404"),
        (b"GET http://[x/healthz HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /healthz?a=[ HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1;q=x\r\n\r\n", b"200"),
    ],
)
def test_odd_requests_are_answered_and_fill_no_log(
    page: MetricsServer, caplog: pytest.LogCaptureFixture, said: bytes, code: bytes
) -> None:
    """A traceback for each would let whoever reaches the port fill the disk."""
    connection = connect(page)
    connection.sendall(said)
    assert answer(connection).split(b" ")[1] == code
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_whoever_is_silent_makes_room(
    page: MetricsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(httpd, "REQUEST_S", 600.0)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(page)) for _ in range(4)]
        for one in silent[:2]:
            one.sendall(b"GET /healthz HTTP/1.0\r\nX: ")
        for _ in range(4):
            assert asked(page).endswith(b"ok\n")
        assert silent[0].recv(1) == b""  # the one that came first
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1  # not one for each of a flood


def test_whoever_is_being_answered_is_left_alone(
    page: MetricsServer, app: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, heard = threading.Event(), threading.Semaphore(0)
    health = app.health

    def slow() -> dict[str, object]:
        heard.release()
        go.wait(60)
        return health()

    monkeypatch.setattr(app, "health", slow)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(connect(page)) for _ in range(4)]
        for one in taken:
            one.sendall(HEALTH)
            assert heard.acquire(timeout=60)
        assert asked(page) == b""  # there is no place, and nobody to send away for it
        go.set()
        for one in taken:
            assert answer(one).endswith(b"ok\n")
    assert asked(page).endswith(b"ok\n")


def test_an_answer_is_taken_in_time_or_not_at_all(
    page: MetricsServer, app: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpd, "ANSWER_S", 1.0)
    monkeypatch.setattr(app, "health", lambda: ControlHealth(live=True, ready=True, message="x" * 50_000_000))
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(connect(page)) for _ in range(4)]
        for one in taken:
            one.sendall(HEALTH)
        assert taken[0].recv(1) == b"H"  # and no more

        def free() -> bool:
            monkeypatch.setattr(app, "health", lambda: ControlHealth(live=True, ready=True, message="ok"))
            return asked(page).endswith(b"ok\n")

        until(free, "their places are free again, though they still hold their ends")


@pytest.mark.parametrize(
    "said",
    [
        b"POST /v1/promote HTTP/1.0\r\n",
        b"POST /v1/promote HTTP/1.0\r\nContent-Le",
        b"POST /v1/promote HTTP/1.0\r\nContent-Length: 14\r\n\r\n",
        b'POST /v1/promote HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"version"',
    ],
)
def test_a_request_that_broke_off_is_none(app: Recorder, tmp_path: Path, said: bytes) -> None:
    """Without what is missing it would mean something else: the promotion of whatever is newest."""
    path = tmp_path / "baton.sock"
    with ApiServer(app, path):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(os.fspath(path))
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            heard = answer(connection)
        assert b" 200 " not in heard
        assert ApiClient(path).health().live
    assert app.calls == [verbs.Health()]


def test_the_socket_has_places_of_its_own(app: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    path = tmp_path / "baton.sock"
    with ApiServer(app, path), contextlib.ExitStack() as stack:
        for _ in range(10):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(os.fspath(path))
        assert ApiClient(path).status() == app.status(None)


OUT_OF_DESCRIPTORS = """
import logging, resource, sys, time
from pathlib import Path
from tests.unit.facts.recorder import Recorder
from baton.api import ApiServer

logging.basicConfig(stream=sys.stderr)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with ApiServer(Recorder(), Path(sys.argv[1])):
    held = []
    while True:
        try:
            held.append(open("/dev/null"))
        except OSError:
            break
    print("none left", flush=True)
    wall, cpu = time.monotonic(), time.process_time()
    sys.stdin.readline()
    print((time.process_time() - cpu) / (time.monotonic() - wall), flush=True)
    for one in held:
        one.close()
    sys.stdin.readline()
"""


def test_without_descriptors_it_waits_and_does_not_spin(tmp_path: Path) -> None:
    path = tmp_path / "baton.sock"
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(path)]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=PIPE, stdout=PIPE, stderr=errors) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "none left\n"
        told: list[Status] = []
        client = threading.Thread(target=lambda: told.append(ApiClient(path).status()))
        client.start()
        until(lambda: "a client has to wait: Too many open files." in log.read_text(), "it says so")
        client.join(3)
        assert told == []
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.readline()) < 0.5  # of one core
        client.join(60)
        process.stdin.close()
        assert [one.services[0].name for one in told] == ["ranker"]  # it had only to wait
    assert len(log.read_text().splitlines()) == 1  # nor was the log filled
