"""The processes that run one model's versions, on the servers of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from baton.local import procfs
from baton.local.guard import Guard
from baton.reasons import Reason, Why, because

LOOK_AGAIN_S = 1.0
"""How often the processes of a version are looked for again after one of them ended."""

log = logging.getLogger(__name__)


class Processes:
    """``ports``: the gRPC ports of the servers on this machine, by name. Nothing is known of other servers' processes.

    Nor of a server in a container, whose processes have other ids here. ``ended`` is called, from another thread, as
    soon as a watched process ends. Any thread may call.
    """

    def __init__(
        self,
        model: str,
        ports: Mapping[str, int],
        ended: Callable[[], None] = lambda: None,
        guard: Guard | None = None,
        report: Callable[[Why], None] = log.warning,
    ) -> None:
        """``guard`` kills frozen processes; ``report`` is called with the reason for each one that it killed."""
        self._model = model
        self._ports = ports
        self._ended = ended
        self._guard = guard
        self._report = report
        self._watched: dict[tuple[str, int], dict[int, int | None]] = {}
        """By server and version: the process ids, and when each process began."""
        self._guarded: dict[tuple[str, int], dict[int, int]] = {}
        self._looked_at: dict[tuple[str, int], float] = {}
        self._frozen: dict[tuple[str, int], str] = {}

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

    def guard(self, server: str, versions: Collection[int], as_of: float) -> None:
        """Have the processes of these versions killed when they freeze.

        The versions are READY or UNLOADING, by an index read after ``as_of`` (``procfs.uptime``). Versions that are
        being loaded are left alone: when their process is killed, the model never loads again (seen on 24.10). And no
        request waits for them.
        """
        if self._guard is None or server not in self._ports:
            return
        for key in [k for k in self._guarded if k[0] == server and k[1] not in versions]:
            self._guard.keep((self._model, *key), {}, lambda _pid, _s: None)
            del self._guarded[key]
        for version in versions:
            key = (server, version)
            known = self._guarded.get(key, {})
            due = as_of - self._looked_at.get(key, float("-inf")) >= LOOK_AGAIN_S
            if due and (not known or any(procfs.begun(pid) != at for pid, at in known.items())):
                self._looked_at[key] = as_of
                self._begin_guard(key, as_of)

    def _begin_guard(self, key: tuple[str, int], as_of: float) -> None:
        found = {pid: at for pid in self._found(*key) if (at := procfs.begun(pid)) is not None}
        found = {pid: at for pid, at in found.items() if procfs.begun_at(at) <= as_of}
        if found and not found.keys() <= self._guarded.get(key, {}).keys():
            self._frozen.pop(key, None)

        def ended(pid: int, frozen_s: float) -> None:
            server, version = key
            why = f"its process was frozen for {frozen_s:.1f} s and was killed before it could go on and crash Triton"
            self._frozen[key] = why
            self._ended()
            self._report(
                because(Reason.PROCESS_ENDED, model=self._model, version=version, server=server, why=why, pid=pid)
            )

        self._guarded[key] = found
        assert self._guard is not None  # noqa: S101 - the caller asked
        self._guard.keep((self._model, *key), found, ended)
        self._watched.setdefault(key, dict(found))

    def why(self, server: str, version: int) -> str:
        """Why a process of the version has ended, as far as that is known."""
        return self._frozen.get((server, version), "its process has ended")

    def end(self, server: str, version: int) -> int:
        """SIGKILL to the processes that run the version; returns how many there were.

        Another user's processes stay: Triton ends them itself when it unloads the version, unless they hang.
        """
        ended = 0
        for pid in self._found(server, version):
            try:
                procfs.kill(pid)
            except PermissionError:
                log.warning(
                    "process %d of version %d on server %s is another user's: not killed",
                    pid,
                    version,
                    server,
                )
            else:
                ended += 1
        return ended

    def _found(self, server: str, version: int) -> list[int]:
        port = self._ports.get(server)
        triton = None if port is None else procfs.listener(port)
        if triton is None:
            return []
        return [s.pid for s in procfs.stubs() if (s.server, s.model, s.version) == (triton, self._model, version)]
