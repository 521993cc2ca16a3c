"""The lock of a state directory: only one control plane acts for it.

The lock is ``flock`` on ``baton.lock``. The kernel releases it when the process ends, however that happens, so nobody
has to guess whether the holder is dead. A stopped holder (SIGSTOP) keeps it: nobody takes over, and when it goes on it
is still the only one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from baton.durable import make_private
from baton.errors import Refused
from baton.ownership import open_own

EVERY_S = 0.5
"""How often a control plane that stands by tries. It does not wait in ``flock``: the state directory may be replaced
meanwhile, and the lock file in the new one may be free."""


class StateLock:
    """The lock of a state directory, held by this process."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    def check(self) -> None:
        """Whether the lock still keeps others out.

        Raises:
            Refused: another file has its name, and another process may hold the lock of that.
        """
        if not _same(self._path, self._handle):
            raise Refused(
                f"The state directory {self._path.parent} was removed or replaced under process {os.getpid()}. It does "
                "nothing more, since another control plane may act there. Clients are not affected.",
                mend="Start it again; it adopts what Triton serves.",
            )


@contextlib.contextmanager
def claim(socket: Path, *, waits: Callable[[str], None] | None = None) -> Iterator[StateLock]:
    """Hold the lock of the state directory of ``socket``.

    A socket that is there although the lock is free was left by a process that died, and is removed. With ``waits``,
    this waits while another process holds the lock, and tells ``waits`` once of each holder.

    Raises:
        Refused: another process holds it.
        Untrusted: the directory or the lock is another user's.
    """
    path, told = socket.with_suffix(".lock"), ""
    while isinstance(taken := _take(path), str):
        sentence = f"A control plane already runs for state directory {path.parent} ({taken})."
        if waits is None:
            raise Refused(sentence, mend="Stop it first, or give another --state directory.")
        if sentence != told:
            waits(sentence)
            told = sentence
        time.sleep(EVERY_S)
    try:
        os.ftruncate(taken, 0)
        os.pwrite(taken, f"{os.getpid()} {platform.node()}\n".encode(), 0)
        socket.unlink(missing_ok=True)
        yield StateLock(path, taken)
    finally:
        os.ftruncate(taken, 0)  # after a crash the file still tells who held the lock
        os.close(taken)


def holder(socket: Path) -> str | None:
    """The process that holds the lock of ``socket``'s state directory, or held it when it died; None: nobody."""
    try:
        return _words(socket.with_suffix(".lock").read_text(errors="replace"))
    except OSError:
        return None


def _take(path: Path) -> int | str:
    """The descriptor of the locked file, or who holds the lock."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                make_private(path.parent)
                handle = open_own(path, os.O_RDWR | os.O_CREAT)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = _words(os.pread(handle, 512, 0).decode(errors="replace"))
                return found or "a process that is just starting or ending"
            except OSError as error:
                raise Refused(
                    f"The state directory {path.parent} can't be locked: {error.strerror}.",
                    mend="Give it to the user that runs Baton, or name another one with --state.",
                ) from None
            if _same(path, handle):  # else it was replaced between the two calls
                stack.pop_all()
                return handle


def _words(text: str) -> str | None:
    pid, _, host = text.strip().partition(" ")
    if not pid:
        return None
    return f"process {pid} on {host}" if host else f"process {pid}"


def _same(path: Path, handle: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False
