"""The processes that run the engine's versions, as /proc shows them to the splitter: stopped ones are seen, and ended.

Triton starts one process (a stub) for each instance of a python model. Those of one server have the same parent as the
splitter's own process, also in a container, where they share its process namespace.
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
"""Of a process that got SIGSTOP. A debugger's is ``t``, and stays alone: a person looks at it."""
GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted: version 2 here or in ``unified``, the freezer of version 1 in ``freezer``."""
ASLEEP, ENDED = "SD", "ZX"
_PARENT, _BEGUN = 1, 19
"""Places in /proc/PID/stat, counted from the state."""

_QUOTED = re.compile("'([^']+)'")

Known = Mapping[int, int]
"""Process ids, and when each process began, in the kernel's ticks: an id may be given to another process later."""


class Processes:
    """Of one engine, on the server of this process. Any thread may call."""

    def __init__(self, engine: str, *, proc: Path = Path("/proc"), parent: int | None = None) -> None:
        self._engine = engine
        self._proc = proc
        self._parent = os.getppid() if parent is None else parent
        self._lock = threading.Lock()
        self._known: dict[int, dict[int, int]] = {}

    def of(self, version: int) -> Known:
        """Those that run the version now. Looks through all processes only where those it knew have ended."""
        with self._lock:
            known = self._known.get(version)
        if known and all(self._begun(pid) == begun for pid, begun in known.items()):
            return known
        return self.look(version)

    def look(self, version: int) -> Known:
        """As :meth:`of`, and always looks."""
        found = {}
        for pid in self._children():
            words, begun = self._words(pid), self._begun(pid)
            if begun is not None and len(words) > 1 and Path(words[1]).parts[-3:-1] == (self._engine, str(version)):
                found[pid] = begun
        with self._lock:
            self._known[version] = found
        return found

    def blamed(self, version: int, error: str) -> Known:
        """Those of which Triton speaks, by the instance's name in quotes; all of them where it names none."""
        names = set(_QUOTED.findall(error))
        known = self.look(version)
        words = {pid: set(self._words(pid)) for pid in known}
        told = all(any(word.startswith(f"{self._engine}_") for word in each) for each in words.values())
        if not names or not told:  # another release may not name the instance to its process
            return known
        return {pid: begun for pid, begun in known.items() if names & words[pid]}

    def frozen(self, version: int) -> Known:
        """Those that are stopped, by SIGSTOP or with their control group."""
        return {pid: begun for pid, begun in self.of(version).items() if self._is_frozen(pid)}

    def end(self, known: Known) -> bool:
        """SIGKILL to each of these that still runs; False where one could not be ended.

        One whose control group (version 1) is frozen dies when that thaws, before it does anything else.
        """
        good = True
        for pid, begun in known.items():
            if self._begun(pid) != begun:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                good = False
        return good

    def _is_frozen(self, pid: int) -> bool:
        fields = self._stat(pid)
        if fields is None:
            return False
        return fields[0] == STOPPED or (fields[0] in ASLEEP and self._group_is_frozen(pid))

    def _group_is_frozen(self, pid: int) -> bool:
        """Whether its control group is frozen; the state of the process does not tell (S or D)."""
        with suppress(OSError):
            for line in (self._proc / str(pid) / "cgroup").read_text().splitlines():
                _, kind, place = line.split(":", 2)
                place = place.lstrip("/")
                if kind == "freezer" and _text(GROUPS / "freezer" / place / "freezer.state").startswith("FROZEN"):
                    return True
                if not kind:
                    homes = (GROUPS / place, GROUPS / "unified" / place)
                    return any("frozen 1" in _text(home / "cgroup.events") for home in homes)
        return False

    def _begun(self, pid: int) -> int | None:
        fields = self._stat(pid)
        return None if fields is None or fields[0] in ENDED else int(fields[_BEGUN])

    def _children(self) -> list[int]:
        children = []
        with suppress(OSError):
            for name in os.listdir(self._proc):  # noqa: PTH208 - names, thousands of them
                if name.isdecimal():
                    fields = self._stat(int(name))
                    if fields is not None and int(fields[_PARENT]) == self._parent:
                        children.append(int(name))
        return children

    def _words(self, pid: int) -> list[str]:
        """Of its command line: ``stub REPOSITORY/MODEL/VERSION/model.py REGION ... INSTANCE ...``."""
        try:
            return [os.fsdecode(w) for w in (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")]
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
