"""Frozen processes are killed, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from harness.waiting import until

from baton.local import procfs
from baton.local.guard import FROZEN_S, Guard


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    code = "print(flush=True); import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made
        made.kill()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def guarding(process: subprocess.Popen[bytes], clock: Clock, begun: int | None = None) -> tuple[Guard, list[int]]:
    guard, told = Guard(clock), list[int]()
    since = begun or procfs.begun(process.pid)
    assert since is not None
    guard.keep("it", {process.pid: since}, lambda pid, _still_s: told.append(pid))
    guard.look()
    return guard, told


def stop(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: procfs.frozen(process.pid), "it is frozen")


def test_what_stands_still_is_ended_before_it_can_wake(process) -> None:
    clock = Clock()
    guard, told = guarding(process, clock)
    stop(process)
    clock.now += 0.9 * FROZEN_S
    guard.look()
    assert told == []
    clock.now += 0.2 * FROZEN_S
    guard.look()
    assert told == [process.pid]
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) == -signal.SIGKILL
    guard.look()
    assert told == [process.pid], "once"


def test_a_short_pause_is_none(process) -> None:
    clock = Clock()
    guard, told = guarding(process, clock)
    for _ in range(5):
        stop(process)
        clock.now += 0.9 * FROZEN_S
        guard.look()
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: not procfs.frozen(process.pid), "it goes on")
        guard.look()
    assert told == []
    assert process.poll() is None


def test_another_process_under_the_number_is_left_alone(process) -> None:
    clock = Clock()
    guard, told = guarding(process, clock, begun=1)
    stop(process)
    clock.now += 60.0
    guard.look()
    assert told == []


def test_what_is_guarded_no_more_is_left_alone(process) -> None:
    clock = Clock()
    guard, told = guarding(process, clock)
    guard.keep("it", {}, lambda _pid, _still_s: None)
    stop(process)
    clock.now += 60.0
    guard.look()
    assert told == []


def test_another_user_s_is_told_of(process, monkeypatch, caplog) -> None:
    clock = Clock()
    guard, told = guarding(process, clock)
    stop(process)

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr("baton.local.procfs.os.kill", kill)
        clock.now += 60.0
        guard.look()
    assert told == []
    assert f"process {process.pid} is frozen and another user's" in caplog.text


def test_by_itself(process) -> None:
    ended = threading.Event()
    guard = Guard()
    since = procfs.begun(process.pid)
    assert since is not None
    guard.start()
    guard.keep("it", {process.pid: since}, lambda _pid, _still_s: ended.set())
    os.kill(process.pid, signal.SIGSTOP)
    assert ended.wait(60)
    assert process.wait(60) == -signal.SIGKILL
    guard.stop()


def test_a_debugger_s_is_none_of_ours(monkeypatch) -> None:
    monkeypatch.setattr(procfs, "stat", lambda _pid: ["t"] + ["0"] * 50)
    assert not procfs.frozen(1)
    monkeypatch.setattr(procfs, "stat", lambda _pid: ["T"] + ["0"] * 50)
    assert procfs.frozen(1)


@pytest.mark.parametrize(
    ("listing", "file", "text"),
    [
        ("6:freezer:/models/a\n0::/\n", "freezer/models/a/freezer.state", "FROZEN\n"),
        ("0::/models/a\n", "models/a/cgroup.events", "populated 1\nfrozen 1\n"),
        ("0::/models/a\n", "unified/models/a/cgroup.events", "populated 1\nfrozen 1\n"),
    ],
)
def test_a_frozen_control_group_is_seen(tmp_path, monkeypatch, listing, file, text) -> None:
    """Its processes look asleep."""
    real = procfs.text
    monkeypatch.setattr(procfs, "stat", lambda _pid: ["S"] + ["0"] * 50)
    monkeypatch.setattr(procfs, "GROUPS", tmp_path)
    monkeypatch.setattr(procfs, "text", lambda path: listing if path.name == "cgroup" else real(path))
    assert not procfs.frozen(1)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert procfs.frozen(1)
    (tmp_path / file).write_text(text.replace("FROZEN", "THAWED").replace("frozen 1", "frozen 0"))
    assert not procfs.frozen(1)
