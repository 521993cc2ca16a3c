"""Tells the C library to keep freed memory instead of handing it back after every tensor.

By default glibc maps each large block afresh and unmaps it when it is freed, so every intermediate tensor pays for
its pages again. Keeping them made a forward and backward pass of a small model 5 to 20 times faster on a machine where
page faults are dear (a sandboxed one), and is a common gain on others. The price: memory once used stays with the
process, which is what a server with a steady load does anyway.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Numbers from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEEP_BYTES = 2**31 - 1
GROW_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Apply the setting to this process; returns False where the C library has no ``mallopt`` (it is not glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # One arena: other threads' arenas hand memory back whatever the threshold is, and the thread that computes is not
    # the main one.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP_BYTES), (M_TOP_PAD, GROW_BYTES))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)


class FreedMemory:
    """Gives back what one unusual request left behind, a large picture or a long text.

    More than ``SPARE_BYTES`` over what was resident before goes back to the system, at most once in ``PAUSE_S``: under
    a steady load of large requests the memory is wanted again at once.
    """

    SPARE_BYTES = 512 * 2**20
    PAUSE_S = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._usual = resident_bytes()

    def relax(self) -> bool:
        """Call after each batch; whether memory was given back."""
        now = self._clock()
        if now - self._last < self.PAUSE_S or resident_bytes() <= self._usual + self.SPARE_BYTES:
            return False
        self._last = now
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # not glibc, which is told by keep_freed_memory as well
            return False
        self._usual = max(self._usual, resident_bytes())
        return True


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
