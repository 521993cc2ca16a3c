"""What each engine version takes of this machine's memory, and what is kept of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from baton.local import procfs
from baton.watch import memory
from baton.watch.memory import History, MemoryWatch, Usage

MB = 1_000_000
HOLD = "import sys; kept = b'x' * int(sys.argv[1]); print(flush=True); sys.stdin.read()"


@dataclass(frozen=True)
class Found:
    pid: int
    repository: Path
    model: str = "toy"
    version: int | None = 1


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes, of 40 and 80 MB and what Python takes itself."""
    started = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", HOLD, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for size in (40 * MB, 80 * MB)
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    yield started
    for process in started:
        process.kill()
        process.communicate()


def path_with(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """A PATH with this ``nvidia-smi`` in front of the shell's own tools, or with none."""
    folder.mkdir(parents=True)
    if script is not None:
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_processes_of_one_version_are_summed(holders: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    first, second = (process.pid for process in holders)
    apart = [
        Found(first, tmp_path, version=1),
        Found(second, tmp_path, version=2),
        Found(first, tmp_path, version=None),
    ]
    one = MemoryWatch(tmp_path, lambda: apart).sample()
    assert set(one) == {("toy", 1), ("toy", 2)}
    assert one["toy", 1].rss_bytes >= 40 * MB
    assert one["toy", 2].rss_bytes >= 80 * MB
    together = MemoryWatch(tmp_path, lambda: [Found(first, tmp_path), Found(second, tmp_path)]).sample()["toy", 1]
    assert together.pids == {first, second}
    # Looked at twice: a few pages come and go meanwhile.
    assert together.rss_bytes == pytest.approx(sum(usage.rss_bytes for usage in one.values()), rel=0.1)


def test_a_process_that_has_ended_is_no_error(holders: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    first, second = holders
    watch = MemoryWatch(tmp_path, lambda: [Found(p.pid, tmp_path) for p in holders])
    first.kill()
    first.wait()
    assert watch.sample()["toy", 1].pids == {second.pid}
    second.kill()  # a zombie until it is waited for: its files are there, its memory is not
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
    assert watch.sample() == {}


def test_no_share_told_means_the_resident_set(
    holders: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = memory._lines

    def lines(pid: int, name: str) -> list[str]:
        if name == "smaps_rollup":
            raise PermissionError(name)
        return whole(pid, name)

    watch = MemoryWatch(tmp_path, lambda: [Found(holders[0].pid, tmp_path)])
    told = watch.sample()["toy", 1]
    monkeypatch.setattr(memory, "_lines", lines)
    untold = watch.sample()["toy", 1]
    assert untold.resident_bytes == untold.rss_bytes == pytest.approx(told.rss_bytes, rel=0.05)


def test_gpu_memory(holders: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (process.pid for process in holders)
    found = [Found(first, tmp_path), Found(second, tmp_path, version=2), Found(os.getpid(), tmp_path, version=3)]
    rows = [f"{first}, 1000", f"{first}, 24", f"{second}, [N/A]", "[Not Found], 7", "4194305, 300"]
    lines = "\n".join(f'echo "{row}"' for row in rows)
    asked = '[ "$*" = "--query-compute-apps=pid,used_memory --format=csv,noheader,nounits" ] || exit 2'
    path_with(tmp_path / "bin", monkeypatch, f"{asked}\n{lines}")
    sample = MemoryWatch(tmp_path, lambda: found).sample()
    assert {version: usage.gpu_bytes for (_, version), usage in sample.items()} == {1: 1024 << 20, 2: None, 3: None}


@pytest.mark.parametrize("script", [None, "echo driver mismatch >&2; exit 9", "while :; do :; done"])
def test_gpu_memory_that_can_not_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str | None
) -> None:
    path_with(tmp_path / "bin", monkeypatch, script)
    monkeypatch.setattr(memory, "GPU_TIMEOUT_S", 0.2)
    watch = MemoryWatch(tmp_path, lambda: [Found(os.getpid(), tmp_path)])
    with caplog.at_level(logging.WARNING):
        assert [watch.sample()["toy", 1].gpu_bytes for _ in range(2)] == [None, None]
    assert len(caplog.messages) == (script is not None)


def use(rss: int, *pids: int, gpu: int | None = None) -> Usage:
    return Usage(resident_bytes=rss // 2, gpu_bytes=gpu, rss_bytes=rss, pids=frozenset(pids))


def test_history_keeps_a_window_of_each_version() -> None:
    history = History(window_s=600.0)
    for second in range(2000):
        history.record(float(second), {("toy", 1): use(100 + second, 7), ("toy", 2): use(5, 8, gpu=second)})
    times = [at for at, _ in history.series("toy", 1)]
    assert times == [float(at) for at in range(1340, 2000, 5)]
    assert history.series("toy", 1)[-1] == (1995.0, 2095)
    assert history.gpu_series("toy", 2)[-1] == (1995.0, 1995)
    assert history.gpu_series("toy", 1) == history.series("toy", 3) == []


def test_history_begins_anew_with_new_processes() -> None:
    history = History(window_s=600.0)
    both = {("toy", 1): use(100, 7), ("toy", 2): use(200, 8)}
    history.record(0.0, both)
    history.record(5.0, both)
    history.record(6.0, {("toy", 1): use(50, 9), ("toy", 2): use(200, 8)})
    assert history.series("toy", 1) == [(6.0, 50)]
    assert history.series("toy", 2) == [(0.0, 200), (5.0, 200)]
    history.record(12.0, {("toy", 1): use(60, 9)})
    assert history.series("toy", 1) == [(6.0, 50), (12.0, 60)]
    history.record(17.0, both)
    assert history.series("toy", 2) == [(17.0, 200)]


def test_nothing_is_seen_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listdir(_: str) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(os, "listdir", listdir)
    assert MemoryWatch(tmp_path, procfs.stubs).sample() == {}
