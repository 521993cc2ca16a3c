"""The processes that run one model's versions, on the servers of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from baton.local import procfs

log = logging.getLogger(__name__)


class Processes:
    """``ports``: the gRPC ports of the servers on this machine, by name; of other servers nothing is known.

    Neither is it of a server in a container, whose processes have other numbers here. ``ended`` is called, from another
    thread, as soon as a process ends that is watched. Any thread may call.
    """

    def __init__(self, model: str, ports: Mapping[str, int], ended: Callable[[], None] = lambda: None) -> None:
        self._model = model
        self._ports = ports
        self._ended = ended
        self._watched: dict[tuple[str, int], dict[int, int | None]] = {}
        """By server and version: the process ids, and when each process began."""

    def running(self, server: str, version: int) -> int:
        """How many processes run the version now."""
        return len(self._found(server, version))

    def watch(self, server: str, version: int) -> None:
        """Remember what runs the version now, unless all that was remembered still runs."""
        key = (server, version)
        if key not in self._watched or self.lost(server, version):
            known = self._watched.get(key, {})
            self._watched[key] = {pid: procfs.begun(pid) for pid in self._found(server, version)}
            for pid in self._watched[key].keys() - known.keys():
                procfs.watch_end(pid, self._ended)

    def lost(self, server: str, version: int) -> bool:
        """Whether a process that was remembered has ended."""
        watched = self._watched.get((server, version), {})
        return any(since is None or procfs.begun(pid) != since for pid, since in watched.items())

    def end(self, server: str, version: int) -> int:
        """SIGKILL to the processes that run the version; gives how many there were.

        Those of a server that another user runs stay: Triton ends them itself when it unloads the version, unless they
        hang.
        """
        ended = 0
        for pid in self._found(server, version):
            try:
                procfs.kill(pid)
            except PermissionError:
                log.warning("process %d of version %d on server %s is another user's: not ended", pid, version, server)
            else:
                ended += 1
        return ended

    def _found(self, server: str, version: int) -> list[int]:
        port = self._ports.get(server)
        triton = None if port is None else procfs.listener(port)
        if triton is None:
            return []
        return [s.pid for s in procfs.stubs() if (s.server, s.model, s.version) == (triton, self._model, version)]
