"""Wakes the control loop when something changes in the engine directories.

It is only a wake-up: the loop also scans at intervals, so a lost notice costs seconds and nothing else. What
has changed is not known here: the scan finds out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, Self

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from baton.verify.files import error_text

Mode = Literal["auto", "inotify", "poll"]

NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ceph|9p|afs|lustre|gpfs|glusterfs|beegfs|ocfs2|gfs2|vboxsf|virtiofs|prl_fs|fuse(\..+)?"
)
"""File systems that other machines write to: inotify does not see those changes."""

_READING: Final = frozenset({"opened", "closed_no_write"})

_log = logging.getLogger(__name__)


class Watcher(FileSystemEventHandler):
    """Calls ``on_change()`` after something changed, or may have, below one of the directories. Links are not followed.

    The first call comes at once, the next one ``interval`` seconds later at the earliest, and one more after the last
    change: a copy of 10 GB makes a call a second, and no change is missed. Calls come from a thread of the watcher,
    never two at a time.

    ``mode`` ``inotify`` asks the kernel for notices, ``poll`` calls every ``poll_interval`` seconds, since the loop's
    scan compares file statuses anyway, and ``auto`` takes ``poll`` where a directory lies on a network file system.
    Without room for another inotify watch it polls, and logs a warning with the setting to raise.
    """

    def __init__(
        self,
        directories: Iterable[Path],
        on_change: Callable[[], None],
        *,
        mode: Mode = "auto",
        interval: float = 1.0,
        poll_interval: float = 2.0,
    ) -> None:
        self._directories = tuple(directories)
        self._on_change = on_change
        self._mode: Mode = mode
        self._interval = interval
        self._poll_interval = poll_interval
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._arming = threading.Lock()
        self._thread: threading.Thread | None = None
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, tuple[tuple[int, int], ObservedWatch]] = {}

    @property
    def mode(self) -> Literal["inotify", "poll", "off"]:
        """How it watches at this moment."""
        if self._thread is None:
            return "off"
        return "poll" if self._observer is None else "inotify"

    def start(self) -> None:
        """Begin to watch. A directory that is not there yet is watched from the ``rearm`` on that finds it."""
        if self._thread is not None:
            return
        self._stopping.clear()
        self._changed.clear()
        if self._mode == "inotify" or (self._mode == "auto" and not self._on_network()):
            observer = Observer()
            try:
                observer.start()
            except OSError as error:  # max_user_instances
                self._warn(error)
            else:
                self._observer = observer
        self._thread = threading.Thread(target=self._notify, name="baton-watch", daemon=True)
        self._thread.start()
        self.rearm()

    def stop(self) -> None:
        """Stop watching and wait until no call is under way; a second call does nothing."""
        self._stopping.set()
        self._changed.set()  # the notifying thread waits for this one
        with self._arming:  # a rearm under way would take what stops for a kernel that refuses, and begin to poll
            observer, self._observer = self._observer, None
        if observer is not None:
            _end(observer)
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._watches.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def rearm(self) -> None:
        """Watch again what was deleted and made anew. Cheap; the loop calls it with each of its scans."""
        with self._arming:
            observer = self._observer
            if observer is None or self._stopping.is_set():
                return
            try:
                for directory in self._directories:
                    self._arm(observer, directory)
            except OSError as error:  # max_user_watches
                self._warn(error)
            else:
                return
            self._observer = None
            self._watches.clear()
            self._changed.set()  # the notifying thread waits without end until then
        _end(observer)

    def _arm(self, observer: BaseObserver, directory: Path) -> None:
        try:
            status = directory.stat()
            identity: tuple[int, int] | None = (status.st_dev, status.st_ino)
        except OSError:
            identity = None  # not there: there is nothing to watch until a later call finds it
        armed = self._watches.get(directory)
        alive = armed is not None and any(
            emitter.watch == armed[1] and emitter.is_alive() for emitter in observer.emitters
        )
        if armed is not None and alive and armed[0] == identity:
            return
        if armed is not None:
            del self._watches[directory]
            with contextlib.suppress(KeyError):  # the observer itself drops the watch of a deleted directory
                observer.unschedule(armed[1])
        if identity is None:
            return
        try:
            watch = observer.schedule(self, str(directory), recursive=True)
        except FileNotFoundError:
            return
        self._watches[directory] = (identity, watch)
        # What was put there before the watch stood made no notice.
        self._changed.set()

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take a notice of watchdog, from its thread."""
        # Triton's loads and our own scans read, too: woken by that, we would scan again for ever. (The observer's own
        # filter would do, but it drops changes of mode and owner along with these, and Triton reloads for those.)
        if event.event_type not in _READING:
            self._changed.set()

    def _notify(self) -> None:
        while True:
            self._changed.wait(self._poll_interval if self._observer is None else None)
            if self._stopping.is_set():
                return
            # Cleared before the call: a change during the call makes another call.
            self._changed.clear()
            try:
                self._on_change()
            except Exception:  # noqa: BLE001 - whatever the caller's code raises, the watch must outlive it
                _log.exception("The notice of a change could not be passed on; the next scan will find it.")
            if self._stopping.wait(self._interval):
                return

    def _on_network(self) -> bool:
        kinds = {directory: file_system(directory) for directory in self._directories}
        for directory, kind in kinds.items():
            if NETWORK.fullmatch(kind):
                _log.info(
                    "%s lies on %s, where inotify misses changes of other machines: it is polled.", directory, kind
                )
                return True
        return False

    def _warn(self, error: OSError) -> None:
        _log.warning(
            "No notices from the kernel (%s), polling every %g s instead. To have them, raise "
            "fs.inotify.max_user_watches and fs.inotify.max_user_instances with sysctl.",
            error_text(error),
            self._poll_interval,
        )


def _end(observer: BaseObserver) -> None:
    observer.stop()
    if observer is not threading.current_thread():
        observer.join()


def file_system(path: Path, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that a path lies, or would lie, on (``ext4``, ``nfs4``); empty if unknown."""
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        head, separator, tail = line.partition(" - ")
        fields = head.split(" ")
        if not separator or len(fields) < 5:  # noqa: PLR2004 - man 5 proc_pid_mountinfo: the fifth is the mount point
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of mounts on the same point the last one is the one that is seen.
        if inside and len(point) >= len(best):
            best, kind = point, tail.split(" ")[0]
    return kind
