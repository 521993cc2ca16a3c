from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from itertools import pairwise

import pytest
from watchdog.observers import Observer

from baton.watch import watcher as watcher_module
from baton.watch.watcher import Watcher, file_system


class Bell:
    """Counts calls, and lets a test wait for the next one."""

    def __init__(self):
        self.times = []
        self.rung = threading.Condition()

    def __call__(self):
        with self.rung:
            self.times.append(time.monotonic())
            self.rung.notify_all()

    def wait_beyond(self, count, timeout=10.0):
        with self.rung:
            return self.rung.wait_for(lambda: len(self.times) > count, timeout)


def quick(directory, bell, mode="inotify", **more):
    return Watcher([directory], bell, mode=mode, **({"interval": 0.05, "poll_interval": 0.05} | more))


def settle(bell):
    """Wait until nothing rings for a while; return how often it has rung."""
    while bell.wait_beyond(count := len(bell.times), timeout=0.3):
        pass
    return count


def test_it_rings_for_what_is_written_moved_and_deleted(tmp_path):
    bell = Bell()
    engine = tmp_path / "engine"
    (engine / "1").mkdir(parents=True)
    with quick(engine, bell) as watcher:
        assert watcher.mode == "inotify"
        steps = [
            lambda: (engine / "1" / "a.json").write_text("{}"),
            (engine / "2").mkdir,
            lambda: (engine / "2" / "b.json").write_text("{}"),
            lambda: (engine / "2").rename(engine / "3"),
            lambda: (engine / "3" / "b.json").chmod(0o600),
            lambda: shutil.rmtree(engine / "3"),
        ]
        for step in steps:
            count = settle(bell)
            step()
            assert bell.wait_beyond(count)
    assert watcher.mode == "off"


def test_reading_does_not_ring(tmp_path):
    bell = Bell()
    (tmp_path / "a.json").write_text("{}")
    with quick(tmp_path, bell):
        count = settle(bell)
        for _ in range(20):
            (tmp_path / "a.json").read_text()
            list(tmp_path.iterdir())
        assert settle(bell) == count


def test_a_storm_of_writes_rings_once_an_interval_and_once_after_the_last(tmp_path):
    bell = Bell()
    with quick(tmp_path, bell, interval=0.2):
        count = settle(bell)
        began = time.monotonic()
        with (tmp_path / "big").open("wb", buffering=0) as file:
            while time.monotonic() - began < 0.7:
                file.write(b"x" * 1000)
        last = time.monotonic()
        settle(bell)
    rung = bell.times[count:]
    assert len(rung) >= 2
    assert all(later - earlier >= 0.19 for earlier, later in pairwise(rung))
    assert rung[-1] >= last - 0.2


def test_where_nothing_is_heard_it_rings_all_the_time(tmp_path):
    bell = Bell()
    with quick(tmp_path / "gone", bell, "poll") as watcher:
        assert watcher.mode == "poll"
        assert bell.wait_beyond(5)
    rung = len(bell.times)
    assert watcher.mode == "off"
    assert not bell.wait_beyond(rung, timeout=0.3)


def test_it_survives_a_directory_deleted_and_made_anew(tmp_path):
    bell = Bell()
    engine = tmp_path / "engine"
    with quick(engine, bell) as watcher:
        for _ in range(3):
            count = settle(bell)
            engine.mkdir()
            watcher.rearm()
            assert bell.wait_beyond(count)
            count = settle(bell)
            (engine / "file").write_text("x")
            assert bell.wait_beyond(count)
            count = settle(bell)
            shutil.rmtree(engine)
            assert bell.wait_beyond(count)
            watcher.rearm()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_without_room_for_a_watch_it_polls_and_says_so(tmp_path, monkeypatch, caplog, code):
    def full(*_args, **_more):
        raise OSError(code, "inotify limit reached")

    monkeypatch.setattr(type(Observer()), "schedule", full)
    bell = Bell()
    with caplog.at_level(logging.WARNING), quick(tmp_path, bell, "auto") as watcher:
        assert watcher.mode == "poll"
        assert bell.wait_beyond(5), "it rings all the time"
    assert "max_user_watches" in caplog.text


def test_auto_polls_on_network_file_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher_module, "file_system", lambda _path: "nfs4")
    with quick(tmp_path, Bell(), "auto") as watcher:
        assert watcher.mode == "poll"
    monkeypatch.setattr(watcher_module, "file_system", lambda _path: "ext4")
    with quick(tmp_path, Bell(), "auto") as watcher:
        assert watcher.mode == "inotify"


def test_the_innermost_mount_counts(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /models rw - nfs4 server:/m rw\n"
        "31 30 0:41 / /models/with\\040space rw - fuse.gcsfuse bucket rw\n"
        "32 22 0:42 / /models rw - cifs //server/m rw\n"
        "nonsense\n"
    )
    kinds = {path: file_system(path, mountinfo=table) for path in ("/a", "/models", "/models/with space/x", "/modelsx")}
    assert kinds == {"/a": "ext4", "/models": "cifs", "/models/with space/x": "fuse.gcsfuse", "/modelsx": "ext4"}
    network = watcher_module.NETWORK
    assert all(network.fullmatch(kind) for kind in ("nfs", "nfs4", "cifs", "ceph", "9p", "fuse", "fuse.sshfs"))
    assert not any(network.fullmatch(kind) for kind in ("ext4", "xfs", "overlay", "tmpfs", "btrfs", "fuseblk"))
    assert file_system("/a", mountinfo=tmp_path / "gone") == ""


def test_a_listener_that_raises_is_called_again(tmp_path, caplog):
    bell = Bell()

    def faulty():
        bell()
        raise RuntimeError("not now")

    with quick(tmp_path, faulty):
        settle(bell)
        for number in range(2):
            count = len(bell.times)
            (tmp_path / str(number)).write_text("x")
            assert bell.wait_beyond(count)
            settle(bell)
    assert "not now" in caplog.text


def test_it_starts_and_stops_cleanly(tmp_path):
    before = threading.active_count()
    watcher = quick(tmp_path, Bell())
    for _ in range(3):
        watcher.start()
        watcher.start()
        watcher.stop()
        watcher.stop()
    watcher.rearm()
    assert threading.active_count() == before


def test_a_stop_waits_for_what_is_just_being_armed(tmp_path, monkeypatch, caplog):
    observers = type(Observer())
    schedule, begun, ended = observers.schedule, threading.Event(), []

    def slow(observer, *args, **more):
        begun.set()
        observer.stopped_event.wait(0.5)  # which must not come
        ended.append(observer.stopped_event.is_set())
        return schedule(observer, *args, **more)

    before = threading.active_count()
    watcher = quick(tmp_path / "engine", Bell())
    watcher.start()
    monkeypatch.setattr(observers, "schedule", slow)
    (tmp_path / "engine").mkdir()
    loop = threading.Thread(target=watcher.rearm)
    loop.start()
    assert begun.wait(10)
    watcher.stop()
    loop.join()
    assert ended == [False]
    assert not [r for r in caplog.records if r.name.startswith("baton")]  # watchdog has words of its own
    assert threading.active_count() == before


def test_it_can_be_stopped_by_the_listener_itself(tmp_path):
    stopped = threading.Event()

    def stop():
        watcher.stop()
        stopped.set()

    watcher = quick(tmp_path, stop)
    watcher.start()
    (tmp_path / "x").write_text("x")
    assert stopped.wait(10)
