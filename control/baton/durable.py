"""Private files and directories, and changes that survive a power loss."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from baton.ownership import check_owner, open_own


def make_private(path: Path) -> None:
    """Make a directory for its owner alone, if it is not there: what lies in a state directory is nobody else's.

    Whoever is the first to need the state directory makes it so, and a directory in it only after that. One that is
    there keeps its mode: its owner may have given it to a group.

    Raises:
        Untrusted: it is another user's, who could put code and keys of his own into it.
        OSError: it can't be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owner(path)


def open_private(path: Path) -> BinaryIO:
    """Open a file to append to, for its owner alone whatever the umask, also where it was there before.

    Raises:
        Untrusted: what has the name may have been put there by another user, to have something else written.
        OSError: it can't be opened.
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    close_to_others(descriptor)
    return os.fdopen(descriptor, "ab")


def close_to_others(file: int | Path) -> None:
    """Take a file that is there, by its descriptor or path, away from all but its owner.

    What is no plain file stays as it is, and what is another user's or on a disk that can't be written.
    """
    mode = os.stat(file).st_mode  # noqa: PTH116 - a descriptor, too
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        with suppress(OSError):
            os.chmod(file, 0o600)  # noqa: PTH101 - a descriptor, too


def sync_directory(path: Path) -> None:
    """Make renames and new entries in a directory durable: without it, a synced file may have no name afterwards.

    Raises:
        OSError: the directory can't be opened or written out.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
