"""Makes the C library keep freed memory instead of returning it to the system after every tensor.

By default glibc maps each large block anew and unmaps it when it is freed, so every intermediate tensor causes page
faults again. Keeping the memory made a forward and backward pass of a small model 5 to 20 times faster on a machine
where page faults are expensive (a sandbox); other machines gain less. The price: memory that was used once stays with
the process, as it does anyway on a server under steady load.
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
    """Apply the setting to this process; False if the C library has no ``mallopt`` (it is not glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # One arena: the computing thread is not the main one, and arenas of other threads ignore the trim threshold.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP_BYTES), (M_TOP_PAD, GROW_BYTES))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)


class MemoryTrimmer:
    """Returns memory to the system after an unusual request, such as a large image or a long text.

    It does so when more than ``SPARE_BYTES`` above the usual are resident, and at most once in ``PAUSE_S``: under a
    steady load of large requests the memory would be needed again at once.
    """

    SPARE_BYTES = 512 * 2**20
    PAUSE_S = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._usual = resident_bytes()

    def trim(self) -> bool:
        """Call when no request is left; whether memory was returned."""
        now = self._clock()
        if now - self._last < self.PAUSE_S or resident_bytes() <= self._usual + self.SPARE_BYTES:
            return False
        self._last = now
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # not glibc
            return False
        self._usual = max(self._usual, resident_bytes())
        return True


def resident_bytes() -> int:
    """Resident memory of this process; 0 if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
