"""What is seen of the processes that run a version, on processes that look like Triton's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.waiting import until

from baton.local import procfs
from baton.local.find import STUB
from baton.local.guard import Guard
from baton.local.processes import LOOK_AGAIN_S, Processes
from baton.reasons import Reason, Why

Begin = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> Iterator[int]:
    """On which this process listens, as a server would."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    with ExitStack() as stack:

        def begin(version: int, model: str = "engine", server: int = os.getpid()) -> subprocess.Popen[bytes]:
            code = tmp_path / model / str(version) / "model.py"
            code.parent.mkdir(parents=True, exist_ok=True)
            code.write_text("print('there', flush=True)\nimport time\ntime.sleep(600)\n")
            words = [STUB, str(code), "region", "1", "1", str(server)]
            process = stack.enter_context(subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            return process

        yield begin


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_only_those_of_the_version_on_that_server(begin: Begin, port: int) -> None:
    processes = Processes("engine", {"s0": port})
    for other in ({"version": 2}, {"version": 1, "model": "other"}, {"version": 1, "server": 1}):
        begin(**other)
    assert processes.running("s0", 1) == 0
    mine = begin(1)
    assert processes.running("s0", 1) == 1
    assert processes.running("far", 1) == 0, "a server on another machine"
    processes.watch("s0", 1)
    assert not processes.lost("s0", 1)
    assert processes.end("s0", 1) == 1
    # Nobody asked how it ended yet: it is a zombie, and counts as ended.
    until(lambda: processes.lost("s0", 1), "it ended")
    assert mine.poll() is not None
    assert processes.lost("s0", 1), "for as long as nobody watches anew"


def test_what_was_loaded_anew_is_watched_anew(begin: Begin, port: int) -> None:
    processes = Processes("engine", {"s0": port})
    first = begin(1)
    processes.watch("s0", 1)
    second = begin(1)
    processes.watch("s0", 1)
    ended(second)
    assert not processes.lost("s0", 1), "what was known runs still, and nothing else was looked for"
    ended(first)
    assert processes.lost("s0", 1)
    third = begin(1)
    processes.watch("s0", 1)
    assert not processes.lost("s0", 1)
    ended(third)
    assert processes.lost("s0", 1)


def test_an_end_is_told_once(begin: Begin, port: int) -> None:
    told = threading.Semaphore(0)
    processes = Processes("engine", {"s0": port}, told.release)
    both = [begin(1), begin(1)]
    processes.watch("s0", 1)
    processes.watch("s0", 1)
    ended(both[0])
    assert told.acquire(timeout=60)
    both.append(begin(1))
    processes.watch("s0", 1)
    ended(both[1])
    assert told.acquire(timeout=60)
    ended(both[2])
    assert told.acquire(timeout=60)
    assert not told.acquire(blocking=False), "nothing is told twice, or of a process that runs"


def test_one_of_several(begin: Begin, port: int) -> None:
    processes = Processes("engine", {"s0": port})
    both = [begin(1), begin(1)]
    processes.watch("s0", 1)
    ended(both[1])
    assert processes.lost("s0", 1)
    assert processes.running("s0", 1) == 1


def test_a_number_that_another_process_has_now(begin: Begin, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes("engine", {"s0": port})
    begin(1)
    processes.watch("s0", 1)
    monkeypatch.setattr("baton.local.procfs.begun", lambda _pid: 1)
    assert processes.lost("s0", 1)


def test_what_is_loaded_and_stands_still_is_ended(begin: Begin, port: int) -> None:
    guard, woken, told = Guard(), threading.Event(), list[Why]()
    processes = Processes("engine", {"s0": port}, woken.set, guard, told.append)
    guard.start()
    mine, loading = begin(1), begin(2)
    processes.guard("s0", [1], procfs.uptime())
    for process in (mine, loading):
        os.kill(process.pid, signal.SIGSTOP)
    assert mine.wait(60) == -signal.SIGKILL
    assert woken.wait(60)
    assert processes.lost("s0", 1)
    assert "its process was frozen for" in processes.why("s0", 1)
    until(lambda: told, "it is told")
    assert told[0].reason is Reason.PROCESS_ENDED
    assert (told[0].figures["version"], told[0].figures["server"]) == (1, "s0")
    assert loading.poll() is None
    # Loaded anew it is guarded anew; what began after the index was read may be loading still.
    before = procfs.uptime() + LOOK_AGAIN_S
    third = begin(1)
    assert processes.why("s0", 1) != "its process has ended"
    processes.guard("s0", [1], before)
    assert processes.why("s0", 1) == "its process has ended"
    os.kill(third.pid, signal.SIGSTOP)
    assert third.wait(60) == -signal.SIGKILL
    guard.stop()


def test_what_began_after_the_index_was_read_may_be_loading(begin: Begin, port: int) -> None:
    guard = Guard()
    processes = Processes("engine", {"s0": port}, guard=guard)
    before = procfs.uptime() - 1.0
    begin(1)
    processes.guard("s0", [1], before)
    assert not guard._kept


def test_another_user_s(begin: Begin, port: int, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    processes = Processes("engine", {"s0": port})
    mine = begin(1)

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr("baton.local.procfs.os.kill", kill)
    assert processes.end("s0", 1) == 0
    assert f"process {mine.pid} of version 1 on server s0 is another user's" in caplog.text
    monkeypatch.undo()
