"""One control plane acts for a state directory: who holds its lock, how another one waits for it, and how it is lost.

The lock is ``flock`` on ``baton.lock``. The kernel gives it back with the process, however that ends, so nobody has to
guess whether the holder is dead. A stopped holder (SIGSTOP) keeps it: nobody takes over, and when it goes on it is
still the only one.
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
"""How often one that stands by tries. It does not sleep in ``flock``: the file that it would wait for may be replaced,
together with the state directory, by one that is free."""


class StateLock:
    """The lock of a state directory, held by this process."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    def check(self) -> None:
        """Whether the lock still keeps others out.

        Raises:
            Refused: the file is not the one that is locked any more, so that another process may hold the new one.
        """
        if not _same(self._path, self._handle):
            raise Refused(
                f"The state directory {self._path.parent} was removed or replaced under process {os.getpid()}, which "
                "does nothing more: another control plane may act there.",
                mend="Start it again; what Triton serves is then adopted.",
            )


@contextlib.contextmanager
def claim(socket: Path, *, waits: Callable[[str], None] | None = None) -> Iterator[StateLock]:
    """Holds the state directory of ``socket`` for this process: one control plane may run there, not two.

    A socket that lies there under a lock that can be taken is one of the dead, and is removed. With ``waits``, a lock
    that is held is waited for, and ``waits`` is told who holds it, once for each holder.

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
        os.ftruncate(taken, 0)  # after a crash the name of the dead stays to be read
        os.close(taken)


def holder(socket: Path) -> str | None:
    """The process that holds the state directory of ``socket`` or held it until it died, in words; None: nobody."""
    try:
        return _words(socket.with_suffix(".lock").read_text(errors="replace"))
    except OSError:
        return None


def _take(path: Path) -> int | str:
    """The descriptor of the lock, or who holds it."""
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
        there = path.stat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(handle))
