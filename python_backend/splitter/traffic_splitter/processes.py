"""Finds the processes that run the engine's versions, by /proc; tells which are frozen, and kills them.

Triton starts one process (a stub) for each instance of a python model. All stubs of one server have the same parent,
also in a container, where they share a process namespace with the splitter's own process.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

STOPPED = "T"
"""State of a process that got SIGSTOP. Under a debugger it is ``t``; such a process is left alone."""
CGROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted: version 2 here or in ``unified``, the freezer of version 1 in ``freezer``."""
ASLEEP, ENDED = "SD", "ZX"
_PARENT, _START_TIME = 1, 19
"""Fields of /proc/PID/stat, counted from the state."""

_QUOTED = re.compile("'([^']+)'")

ProcessIds = Mapping[int, int]
"""Process ids, each with its start time in ticks of the kernel: the same id may later belong to another process."""


class Processes:
    """The processes of one engine on the server that runs this process. Thread-safe."""

    def __init__(self, engine: str, *, proc: Path = Path("/proc"), parent: int | None = None) -> None:
        self._engine = engine
        self._proc = proc
        self._parent = os.getppid() if parent is None else parent
        self._lock = threading.Lock()
        self._found: dict[int, dict[int, int]] = {}

    def running(self, version: int) -> ProcessIds:
        """Those of the version. Scans /proc only if one of the processes found last has ended."""
        with self._lock:
            found = self._found.get(version)
        if found and all(self._start_time(pid) == started for pid, started in found.items()):
            return found
        return self.scan(version)

    def scan(self, version: int) -> ProcessIds:
        """As :meth:`running`, but always scans /proc."""
        found = {}
        for pid in self._children():
            arguments, started = self._arguments(pid), self._start_time(pid)
            if started is None or len(arguments) < 2:  # noqa: PLR2004 - the program and model.py
                continue
            if Path(arguments[1]).parts[-3:-1] == (self._engine, str(version)):
                found[pid] = started
        with self._lock:
            self._found[version] = found
        return found

    def named_in(self, version: int, error: str) -> ProcessIds:
        """Those whose instance Triton's error names in quotes; all of the version's where it names none."""
        names = set(_QUOTED.findall(error))
        found = self.scan(version)
        arguments = {pid: set(self._arguments(pid)) for pid in found}
        # Other releases of Triton may not pass the instance's name to its process.
        passed = all(any(each.startswith(f"{self._engine}_") for each in given) for given in arguments.values())
        if not names or not passed:
            return found
        return {pid: started for pid, started in found.items() if names & arguments[pid]}

    def frozen(self, version: int) -> ProcessIds:
        """Those stopped by SIGSTOP or by the freezer of their control group."""
        return {pid: started for pid, started in self.running(version).items() if self._is_frozen(pid)}

    def kill(self, processes: ProcessIds) -> bool:
        """Send SIGKILL to each of these that still runs. False when one could not be killed.

        A process whose control group (version 1) is frozen dies when the group thaws, before it does anything else.
        """
        killed = True
        for pid, started in processes.items():
            if self._start_time(pid) != started:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                killed = False
        return killed

    def _is_frozen(self, pid: int) -> bool:
        fields = self._stat(pid)
        if fields is None:
            return False
        return fields[0] == STOPPED or (fields[0] in ASLEEP and self._cgroup_is_frozen(pid))

    def _cgroup_is_frozen(self, pid: int) -> bool:
        """The state of the process alone does not show it: that is S or D."""
        with suppress(OSError):
            for line in (self._proc / str(pid) / "cgroup").read_text().splitlines():
                _, kind, place = line.split(":", 2)
                place = place.lstrip("/")
                if kind == "freezer" and _text(CGROUPS / "freezer" / place / "freezer.state").startswith("FROZEN"):
                    return True
                if not kind:
                    homes = (CGROUPS / place, CGROUPS / "unified" / place)
                    return any("frozen 1" in _text(home / "cgroup.events") for home in homes)
        return False

    def _start_time(self, pid: int) -> int | None:
        """None when the process has ended."""
        fields = self._stat(pid)
        return None if fields is None or fields[0] in ENDED else int(fields[_START_TIME])

    def _children(self) -> list[int]:
        children = []
        with suppress(OSError):
            for name in os.listdir(self._proc):  # noqa: PTH208 - names, thousands of them
                if name.isdecimal():
                    fields = self._stat(int(name))
                    if fields is not None and int(fields[_PARENT]) == self._parent:
                        children.append(int(name))
        return children

    def _arguments(self, pid: int) -> list[str]:
        """The command line: ``stub REPOSITORY/MODEL/VERSION/model.py REGION ... INSTANCE ...``."""
        try:
            return [os.fsdecode(each) for each in (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")]
        except OSError:
            return []

    def _stat(self, pid: int) -> list[str] | None:
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
