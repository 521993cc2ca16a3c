"""What another user sees of a real ``ctl up`` that answers: no request, no file of its state, no core dump."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.control_plane import ControlPlane
from harness.waiting import until
from tests.support.toy import make_repository
from tests.support.triton import TOY_BACKENDS, ask
from tests.support.users import NO_RIGHTS, ORDINARY, STRANGER, TWO_USERS, as_user, seen_by

from baton.api import SOCKET, ApiClient
from baton.local import exec_wrapper, procfs

pytestmark = [pytest.mark.triton, pytest.mark.slow, TWO_USERS]
SECRET = "planted-client-text-5e21"
CONFIG = """
repository = "repository"
state = "state"
[control]
metrics = "127.0.0.1:0"
[[services]]
name = "public"
engine = "toy"
probe = "reranker"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, with a repository; its state directory was there before, open to all."""
    place = Path(tempfile.mkdtemp(prefix="baton-users-"))
    before = os.umask(0o022)
    try:
        place.chmod(0o755)
        make_repository(place / "repository", {"toy": [1]}, alias="public")
        (place / "state").mkdir()
        (place / "baton.toml").write_text(CONFIG)
        yield place
    finally:
        os.umask(before)
        shutil.rmtree(place)


@dataclass
class Up:
    process: subprocess.Popen[bytes]
    places: dict[str, str]
    log: Path
    asked: threading.Event
    """Whether a client got an answer by now."""

    @property
    def triton(self) -> int:
        (server,) = {stub.server for stub in self.stubs()}
        return server

    def stubs(self) -> list[procfs.Stub]:
        mine = [stub for stub in procfs.stubs() if stub.repository == Path(self.places["repository"])]
        return [stub for stub in mine if stub.model == "toy"]

    def processes(self) -> list[int]:
        return [self.process.pid, self.triton, *(stub.pid for stub in self.stubs())]


@contextlib.contextmanager
def up(place: Path, begin: Callable[[list[str]], list[str]]) -> Iterator[Up]:
    """``ctl up``, and a client that asks with the secret text all the time."""
    ports = [word for name in ("http", "grpc", "metrics", "console") for word in (f"--{name}-port", "0")]
    verb = ("up", "--backends", str(TOY_BACKENDS), *ports)
    options = ("--config", str(place / "baton.toml"))
    log, stop, asked = place / "up.log", threading.Event(), threading.Event()
    with ControlPlane(*verb, options=options, log=log, begin=begin, cwd=place / "state", umask=0o022) as one:
        client = threading.Thread(target=_ask, args=(one.places["grpc"], stop, asked))
        client.start()
        try:
            until(asked.is_set, "a client is answered")
            yield Up(one.process, one.places, log, asked)
        finally:
            stop.set()
            client.join()


def _ask(address: str, stop: threading.Event, asked: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(Exception):  # while Triton is gone
            ask(SimpleNamespace(grpc_url=address), "public", "red", [f"a red {SECRET} " * 500], timeout=10.0)
            asked.set()
        stop.wait(0.02)


def holds_secret(user: int, running: Up) -> str:
    """The files in which that user finds what the client asks: shared memory, handles, maps, and all that is kept."""
    ways = [f"/proc/{pid}/{name}" for pid in running.processes() for name in ("root/dev/shm", "fd", "map_files")]
    return seen_by(user, "grep", "-Rlas", "--devices=skip", SECRET, "/dev/shm", *ways, str(running.log.parent))


def really_there(running: Up) -> bool:
    """Whether root finds the text in Triton's shared memory."""
    return SECRET in seen_by(0, "grep", "-rhaso", SECRET, f"/proc/{running.triton}/root/dev/shm")


def largest_core(pid: int) -> str:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in limits if line.startswith("Max core")).split()[5]


def as_root(words: list[str]) -> list[str]:
    return words


def as_ordinary(words: list[str]) -> list[str]:
    return as_user(ORDINARY, words)


def without_namespaces(words: list[str]) -> list[str]:
    return [*NO_RIGHTS, *words]


@pytest.mark.parametrize("begin", [as_root, as_ordinary, without_namespaces])
def test_another_user_sees_nothing(place: Path, begin: Callable[[list[str]], list[str]]) -> None:
    if begin is as_ordinary:
        _give(place, ORDINARY)
    state = place / "state"
    with up(place, begin) as running:
        until(lambda: really_there(running), "the client's text lies in shared memory")
        for _ in range(10):  # requests come and go
            assert really_there(running)
            assert holds_secret(STRANGER, running) == ""
        assert seen_by(STRANGER, "find", str(state), "-type", "f", "-readable") == ""
        assert {"journal.db", "journal.db-wal", "triton.log"} <= {path.name for path in state.iterdir()}
        # Triton may run as another user: what the repository holds stays as readable as it was made.
        assert seen_by(STRANGER, "find", str(place / "repository"), "!", "-readable") == ""
        assert {largest_core(pid) for pid in running.processes()} <= {"0", "1"}
        _is_told(running, allowed=begin is not without_namespaces)
        if begin is as_ordinary:
            _still_looked_after(running)
    assert running.process.returncode == 0


def _is_told(running: Up, *, allowed: bool) -> None:
    """The log says so where Triton has no shared memory of its own, and only there."""
    memory, _ = exec_wrapper.memory_here(exec_wrapper.OWN)
    own = allowed and memory is exec_wrapper.Memory.OWN
    assert procfs.has_own_mounts(running.triton) == own
    assert ("Triton shares the machine's /dev/shm" in running.log.read_text()) != own
    assert not set(procfs.open_regions()) & {stub.region for stub in running.stubs()}


def _still_looked_after(running: Up) -> None:
    """The admin key is hidden, what stands still is ended and loaded again, and Triton ends with its parent."""
    key = Path(running.places["admin_key"]).read_bytes().strip()
    assert all(key not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.processes())
    client = ApiClient(Path(running.places["state"]) / SOCKET)
    until(lambda: client.status().services[0].phase == "steady", "the service is at rest")
    (stub,) = running.stubs()
    os.kill(stub.pid, signal.SIGSTOP)
    until(lambda: procfs.begun(stub.pid) is None, "what stands still is ended")
    until(lambda: [s for s in running.stubs() if s.pid != stub.pid], "it is loaded again")


def test_a_killed_control_plane_takes_triton_with_it(place: Path) -> None:
    """Also out of a user namespace, and without a core of either."""
    _give(place, ORDINARY)
    most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most[1], most[1]))
    stubs: list[procfs.Stub] = []
    try:
        with up(place, as_ordinary) as running:
            triton, stubs = running.triton, running.stubs()
            running.process.send_signal(signal.SIGABRT)  # as an abort in a library does, which dumps core
            running.process.wait(60)
            until(lambda: procfs.begun(triton) is None, "Triton ends")
    finally:
        # A model's process ends by itself, unless Triton (24.10) was killed with a lock in its hands that both share.
        for stub in stubs:
            procfs.kill(stub.pid)
        resource.setrlimit(resource.RLIMIT_CORE, most)
    assert [str(path) for path in place.rglob("core*") if path.is_file()] == []


def _give(place: Path, user: int) -> None:
    subprocess.run(["chown", "-R", f"{user}:{user}", str(place)], check=True)
