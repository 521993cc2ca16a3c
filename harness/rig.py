"""``ctl up`` on a fresh repository: what the demo, the benches and the hostile clients stand on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Self

from harness.control_plane import ControlPlane, Data
from harness.memory import memory
from harness.network import free_ports
from harness.places import ENGINE, STATE
from harness.waiting import Failed

from baton.durable import make_private
from baton.journal import JOURNAL, Journal
from baton.local import procfs


class Rig(ControlPlane):
    """``ctl up`` in ``home``, which is emptied first."""

    look_s = 0.05  # it is measured: looking must not slow it down

    def __init__(self, home: Path, config: Path) -> None:
        self.home = home
        self.repository, self.state = home / "model_repository", home / "state"
        names = ("--http-port", "--grpc-port", "--metrics-port", "--console-port")
        ports = [word for name, port in zip(names, free_ports(4), strict=True) for word in (name, str(port))]
        up = ("up", "--repository", str(self.repository), *ports)
        options = ("--config", str(config), "--state", str(self.state))
        super().__init__(*up, options=options, log=home / "up.log")

    def __enter__(self) -> Self:
        # Who is told to end leaves nothing running behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        shutil.rmtree(self.home, ignore_errors=True)
        if STATE in self.home.parents:
            make_private(STATE)
        self.repository.mkdir(parents=True)
        return self.start()

    @property
    def urls(self) -> list[str]:
        """Where clients ask: gRPC and HTTP."""
        return [f"grpc://{self.places['grpc']}", f"http://{self.places['http']}"]

    def lacks_evidence(self) -> str:
        """What a gate says that waits for a person to ask it again, since the machine was too noisy for it."""
        service = self.service()
        held = [g for g in service["gates"] if g["verdict"] == "hold" and g["name"] not in ("live", "memory")]
        return str(held[0]["message"]) if held and service["phase"] == "waiting" else ""

    def wait_live(self, number: int) -> None:
        """Until the alias leads to the version. A gate that lacks evidence is asked again, as a person would.

        Raises ``Failed`` when its rollout ended without that.
        """
        self.until(lambda service: self._live(service, number), f"version {number} to be live")

    def _live(self, service: Data, number: int) -> bool:
        if service["phase"] == "baking" or service["stable"] == number:
            return True
        row = self.row(number)
        if row is not None and row["ended_at"] is not None:
            raise Failed(f"Baton did not take version {number}: {row['outcome']}, {row['message']}")
        if self.lacks_evidence():
            self.ctl("retry", str(number), "--no-wait")
        return False

    def events(self, rollout: int | None = None) -> list[dict[str, Any]]:
        """The newest events, of one rollout or of all, oldest first; ``at`` in seconds since the epoch."""
        journal = Journal(self.state / JOURNAL)
        try:
            return journal.events.newest(rollout=rollout, limit=500)
        finally:
            journal.close()

    def drop(self, folder: Path, version: int) -> float:
        """Rename a folder into the repository as a person would; returns when, in seconds since the epoch."""
        folder.rename(self.repository / ENGINE / str(version))
        return time.time()

    def stubs(self, version: int) -> list[int]:
        """Process ids of the engine processes of a version."""
        server = self.server_pid()
        return [s.pid for s in procfs.stubs("") if (s.server, s.model, s.version) == (server, ENGINE, version)]

    def server_pid(self) -> int | None:
        """The process id of the Triton server."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
            except OSError:
                continue
            if Path(words[0]).name == "tritonserver" and any(str(self.repository) in w for w in words):
                return int(path.parent.name)
        return None

    def memory(self) -> int:
        """Proportional set size of Triton and its engine processes, in bytes: shared pages are counted once."""
        server = self.server_pid()
        return 0 if server is None else memory(procfs.session_members(os.getsid(server)))
