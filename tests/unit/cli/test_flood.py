"""A flood of connections to the control plane's open port, and an operator beside it."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness.network import fetch
from harness.waiting import until
from tests.support.triton import ROOT
from tests.unit.cli.test_serve import _configuration, running

from baton.api import ApiClient

pytestmark = pytest.mark.slow

CONNECTIONS = 5_000
DESCRIPTORS = 1024
"""Of the control plane: what systems give by default."""
FLOOD = """
import errno, resource, selectors, socket, sys, time

kind, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, closed, told = {}, 0, False
selector = selectors.DefaultSelector()
poke = time.monotonic()

def begin():
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE)
    held[one] = False

while True:
    while len(held) < count:
        begin()
    if not told:
        told = True
        print("flooding", flush=True)
    for key, what in selector.select(0.05):
        one = key.fileobj
        try:
            if what & selectors.EVENT_WRITE:
                selector.modify(one, selectors.EVENT_READ)
                held[one] = True
                if kind == "dribbling":
                    one.send(b"GET /healthz HTTP/1.1\\r\\nX: ")
                elif kind == "half-closed":
                    one.send(b"GET /healthz HTTP/1.1\\r\\n")
                    one.shutdown(socket.SHUT_WR)
            elif what & selectors.EVENT_READ and not one.recv(4096):
                raise ConnectionError
        except OSError:
            selector.unregister(one)
            one.close()
            del held[one]
    if kind == "dribbling" and time.monotonic() - poke > 1:
        poke = time.monotonic()
        for one in [one for one, open_ in held.items() if open_]:
            try:
                one.send(b"x")
            except OSError:
                pass
"""


@contextmanager
def flood(kind: str, port: int) -> Iterator[None]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(CONNECTIONS, hard - 64)
    command = [sys.executable, "-c", FLOOD, kind, str(port), str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"flooding\n"
            yield
            assert process.poll() is None  # it went on all the time
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["idle", "dribbling", "half-closed"])
def test_a_flood_of_the_console_port_is_not_felt_at_the_socket(tmp_path: Path, kind: str) -> None:
    args = ("--config", str(_configuration(tmp_path)), "--output", "json", "serve")
    limits = f"ulimit -Sn 256; ulimit -Hn {DESCRIPTORS}"
    with running(*args, log=tmp_path / "log", before=limits) as (process, places):
        client = ApiClient(Path(places["api"]))
        port = int(places["console"].rpartition(":")[2])

        def healthy() -> bool:
            with suppress(OSError):
                fetch(f"{places['console']}/healthz", timeout_s=30)
                return True
            return False

        until(healthy, "it is up")
        limit = next(one for one in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "open files" in one)
        assert limit.split()[3:5] == [str(DESCRIPTORS)] * 2
        with flood(kind, port):
            most = 0
            for _ in range(10):
                assert client.status().services[0].name == "reranker"
                most = max(most, len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
                threading.Event().wait(0.2)
            until(healthy, "a balancer is answered amid the flood")
            assert most < 200
        until(healthy, "and after it")
        assert client.status()
    text = (tmp_path / "log").read_text()
    assert kind == "half-closed" or "connections are taken" in text  # a half of a request frees its place at once
    assert len(text.splitlines()) < 60
    assert "Traceback" not in text
