"""What makes a change of files survive a power loss."""

from __future__ import annotations

import os
from pathlib import Path


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
