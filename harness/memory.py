"""What processes take of the machine's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def memory(processes: Iterable[int]) -> int:
    """Proportional set size of the processes, in bytes: what they share is counted once. Those that ended count 0."""
    return sum(pss(pid) for pid in processes)


class Peak:
    """Samples a figure twice a second and keeps the largest."""

    def __init__(self, figure: Callable[[], int]) -> None:
        self._figure = figure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.largest = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            try:
                self.largest = max(self.largest, self._figure())
            except OSError:
                continue  # a process ended between being listed and being read
