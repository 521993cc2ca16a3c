"""Files and directories that only their owner can open, and changes that survive a power loss."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from baton.ownership import check_owner, open_own


def make_private(path: Path) -> None:
    """Make a directory that only its owner can open, if there is none. One that is there keeps its mode.

    Its owner may have given it to a group. What needs a state directory calls this first, and makes a directory in it
    after that.

    Raises:
        Untrusted: it belongs to another user, who could put his own code and keys into it.
        OSError: it can't be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owner(path)


def open_private(path: Path) -> BinaryIO:
    """Open a file to append to. Only its owner can open it, whatever the umask, also where it was there before.

    Raises:
        Untrusted: another user may have put something under that name, to have another file written.
        OSError: it can't be opened.
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    close_to_others(descriptor)
    return os.fdopen(descriptor, "ab")


def close_to_others(file: int | Path) -> None:
    """Let only its owner open a file, given by descriptor or path.

    What is no plain file stays as it is, and a file whose mode can't be changed.
    """
    mode = os.stat(file).st_mode  # noqa: PTH116 - a descriptor, too
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        with suppress(OSError):
            os.chmod(file, 0o600)  # noqa: PTH101 - a descriptor, too


def sync_directory(path: Path) -> None:
    """Make renames and new entries in a directory durable: without it, a synced file may lose its name.

    Raises:
        OSError: the directory can't be opened or written out.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
