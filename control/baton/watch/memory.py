"""Measures how much memory each engine version takes on this machine, and keeps the samples of the last minutes.

It measures the processes that run the versions (Triton's python backend starts one for each instance). Not covered:
servers on other machines, and in containers whose processes can't be seen from here.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

EVERY_S: Final = 5.0
"""Seconds between two samples that are kept: 120 of them show a trend, more would only cost memory."""
SLACK: Final = 1.1
"""What is kept over the window, so that a window that just filled up does not lose its first sample to jitter."""
GPU_TIMEOUT_S: Final = 5.0
"""Without persistence mode ``nvidia-smi`` wakes the driver first, which takes a second or two."""

Key = tuple[str, int]
"""The Triton model (the engine) and its version."""

_log = logging.getLogger(__name__)


class Process(Protocol):
    """A process that runs one version of a model, as ``baton.local.procfs.stubs`` finds them."""

    @property
    def pid(self) -> int: ...
    @property
    def repository(self) -> Path: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory of one version's processes together, in bytes."""

    resident_bytes: int
    """Its share (PSS): pages that several processes map are divided among them, so the sum over several
    versions is right. For another user's processes, whose share can't be read, the resident set."""
    gpu_bytes: int | None
    """On all GPUs; ``None`` when the driver does not name the processes, as without a GPU."""
    rss_bytes: int
    """The resident set. Unlike the share it does not move when a neighbour comes or goes: when the second of two
    processes with torch 2.13 ended, the first one's share rose by 20 % and its resident set by nothing. So growth is
    measured by this one."""
    pids: frozenset[int]


class MemoryWatch:
    """Looks at the processes that run versions out of one model repository.

    ``find`` lists the processes of all servers on this machine. A sample takes the kernel some 15 ms a
    gigabyte, and up to ``GPU_TIMEOUT_S`` more with a GPU whose driver is slow: it is for a worker thread.
    """

    def __init__(self, repository: Path, find: Callable[[], Iterable[Process]]) -> None:
        self._repository = repository
        self._find = find
        self._smi = shutil.which("nvidia-smi")
        self._gpu_trouble = ""

    def sample(self) -> Mapping[Key, Usage]:
        """The memory of each version that has a process now; a process that ends meanwhile is left out.

        Empty where nothing can be seen: not on Linux, or with all servers elsewhere.
        """
        resident: dict[Key, dict[int, tuple[int, int]]] = {}
        for process in self._find():
            if process.version is not None and self._is_ours(process):
                sizes = _resident(process.pid)
                if sizes is not None:
                    resident.setdefault((process.model, process.version), {})[process.pid] = sizes
        gpu = self._gpu() if resident else {}
        return {
            key: Usage(
                resident_bytes=sum(share for share, _ in processes.values()),
                gpu_bytes=sum(gpu[pid] for pid in processes if pid in gpu) if gpu.keys() & processes.keys() else None,
                rss_bytes=sum(rss for _, rss in processes.values()),
                pids=frozenset(processes),
            )
            for key, processes in resident.items()
        }

    def _is_ours(self, process: Process) -> bool:
        """Whether its repository is this one, by whatever path its server was given it."""
        home = Path(f"/proc/{process.pid}")
        given = process.repository
        # In a container the same folder has another path; its root can be looked into by root and the same user.
        inside = home / "root" / given.relative_to("/") if given.is_absolute() else home / "cwd" / given
        for path in (inside, given):
            try:
                return path.samefile(self._repository)
            except OSError:
                continue
        return False

    def _gpu(self) -> dict[int, int]:
        """Bytes of GPU memory by process id, summed over all GPUs; empty where that is not known."""
        if self._smi is None:
            return {}
        command = [self._smi, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(  # noqa: S603 - the program that PATH names, with fixed words
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._warn_once(f"GPU memory can't be measured: {error}")
            return {}
        self._warn_once("")
        used: dict[int, int] = {}
        for line in done.stdout.splitlines():
            pid, _, mebibytes = (part.strip() for part in line.partition(","))
            # "[N/A]" and the like: the driver does not say.
            if pid.isdecimal() and mebibytes.isdecimal():
                used[int(pid)] = used.get(int(pid), 0) + (int(mebibytes) << 20)
        return used

    def _warn_once(self, trouble: str) -> None:
        if trouble and trouble != self._gpu_trouble:
            _log.warning("%s", trouble)
        self._gpu_trouble = trouble


@dataclass(slots=True)
class _Track:
    pids: frozenset[int]
    samples: deque[tuple[float, Usage]]


@dataclass(slots=True)
class History:
    """The samples of the last ``window_s`` seconds (and a tenth more) of each version that still runs.

    At most one in ``EVERY_S`` seconds is kept of a version. Its samples begin anew when its processes change: a
    reloaded version starts small and grows to its size, which is no leak.
    """

    window_s: float
    _tracks: dict[Key, _Track] = field(default_factory=dict, init=False)

    def record(self, at: float, sample: Mapping[Key, Usage]) -> None:
        """Add what ``MemoryWatch.sample`` returned at ``at`` (seconds of a clock that does not go back)."""
        for gone in self._tracks.keys() - sample.keys():
            del self._tracks[gone]
        for key, usage in sample.items():
            track = self._tracks.get(key)
            if track is None or track.pids != usage.pids:
                room = math.ceil(self.window_s * SLACK / EVERY_S) + 1
                track = self._tracks[key] = _Track(usage.pids, deque(maxlen=room))
            if not track.samples or at - track.samples[-1][0] >= EVERY_S:
                track.samples.append((at, usage))
            while at - track.samples[0][0] > self.window_s * SLACK:
                track.samples.popleft()

    def series(self, model: str, version: int) -> list[tuple[float, int]]:
        """The version's resident set as (time, bytes), oldest first; empty when it is not known."""
        return [(at, usage.rss_bytes) for at, usage in self._samples(model, version)]

    def gpu_series(self, model: str, version: int) -> list[tuple[float, int]]:
        """Its GPU memory as (time, bytes), where the driver says it."""
        return [(at, usage.gpu_bytes) for at, usage in self._samples(model, version) if usage.gpu_bytes is not None]

    def _samples(self, model: str, version: int) -> Iterable[tuple[float, Usage]]:
        track = self._tracks.get((model, version))
        return () if track is None else track.samples


def _resident(pid: int) -> tuple[int, int] | None:
    """A process's share and its resident set in bytes; ``None`` when it has ended."""
    try:
        fields = dict(line.split()[:2] for line in _lines(pid, "smaps_rollup"))
        return int(fields["Pss:"]) * 1024, int(fields["Rss:"]) * 1024
    except (OSError, KeyError):  # another user's, an old kernel's, or it has ended
        pass
    try:
        rss = int(_lines(pid, "statm")[0].split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    return (rss, rss) if rss else None  # a process that is ending has given its memory back already


def _lines(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text("ascii", "replace").splitlines()
