"""What the demo and the benchmark stand on: a fresh repository, ``ctl up`` as a process of its own, and its memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from baton.api import SOCKET, ApiClient
from baton.codec import encode
from baton.durable import make_private
from baton.journal import JOURNAL, Journal
from baton.local import procfs

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".baton"
"""The state directory of `make up`; the demo and the benchmark keep what they make in it as well."""
CHECKPOINTS = ROOT / "demo" / "checkpoints"
GOLDEN = ROOT / "demo" / "golden" / "golden.jsonl"
PATIENCE_S = 600.0
"""Nothing here asks how fast the machine is; what never comes fails after this long."""


class Failed(Exception):
    """Ends the demo with the reason."""


def until(
    condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S, instead: Callable[[], str] = str
) -> Any:
    """Wait until the condition gives something true, and return that. ``instead`` tells what there is otherwise."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"Waited {timeout_s:.0f} s for {what}. {instead()}".rstrip())
        time.sleep(0.05)
    return value


class Rig:
    """``ctl up`` on a fresh repository in ``home``, which is emptied first."""

    engine = "qwen3_vl_reranker"

    def __init__(self, home: Path, config: Path) -> None:
        self.home = home
        self.repository = home / "model_repository"
        self.state = home / "state"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home / "up.log"
        self.places: dict[str, str] = {}
        self.api = ApiClient(self.state / SOCKET)

    def __enter__(self) -> Self:
        # A demo that is told to end leaves nothing running behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        shutil.rmtree(self.home, ignore_errors=True)
        if STATE in self.home.parents:
            make_private(STATE)
        self.repository.mkdir(parents=True)
        ports = [str(p) for p in free_ports(4)]
        names = ("--http-port", "--grpc-port", "--metrics-port", "--console-port")
        flags = [word for pair in zip(names, ports, strict=True) for word in pair]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._ctl("json"), "up", "--repository", str(self.repository), *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo; it stops the rest in its own order
            )
        line = b"" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise Failed(f"ctl up did not start:\n{self._log.read_text()}")
        self.places = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            procfs.kill_session(self._process.pid)
            raise

    @property
    def urls(self) -> list[str]:
        """Where clients ask: gRPC and HTTP."""
        return [f"grpc://{self.places['grpc']}", f"http://{self.places['http']}"]

    def _ctl(self, output: str) -> list[str]:
        # The script beside this interpreter: the demo runs without an activated environment.
        script = str(Path(sys.executable).with_name("ctl"))
        return [script, "--config", str(self._config), "--state", str(self.state), "--output", output]

    def ctl(self, *words: str, check: bool = True) -> tuple[int, Any]:
        """Run a verb; its exit code and what it printed, as data."""
        done = subprocess.run([*self._ctl("json"), *words], capture_output=True, check=False)
        if check and done.returncode != 0:
            raise Failed(f"ctl {' '.join(words)} ended with {done.returncode}: {done.stderr.decode().strip()}")
        text = done.stdout.decode().strip()
        return done.returncode, json.loads(text) if text else None

    def service(self) -> dict[str, Any]:
        """The service's part of ``ctl status``."""
        # Asked in process: a `ctl` each half second would be a load of its own on a small machine.
        status: dict[str, Any] = encode(self.api.status().services[0])
        return status

    def lacks_evidence(self) -> str:
        """What a gate says that waits for a person to ask it again, since the machine was too noisy for it."""
        service = self.service()
        held = [g for g in service["gates"] if g["verdict"] == "hold" and g["name"] not in ("live", "memory")]
        return str(held[0]["message"]) if held and service["phase"] == "waiting" else ""

    def wait_live(self, number: int) -> None:
        """Until the public name leads to the version. A gate that lacks evidence is asked again, as a person would.

        Raises ``Failed`` when its rollout ended without that.
        """
        until(lambda: self._live(number), f"version {number} to be live", instead=lambda: self.service()["message"])

    def _live(self, number: int) -> bool:
        service = self.service()
        if service["phase"] == "baking" or service["stable"] == number:
            return True
        for row in self.history():
            if row["candidate"] == number and row["ended_at"] is not None:
                raise Failed(f"Baton did not take version {number}: {row['outcome']}, {row['message']}")
        if self.lacks_evidence():
            self.ctl("retry", str(number), "--no-wait")
        return False

    def history(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = encode(self.api.history())
        return rows

    def events(self, rollout: int | None = None) -> list[dict[str, Any]]:
        """The newest events, of one rollout or of all, oldest first; ``at`` in seconds since the epoch."""
        journal = Journal(self.state / JOURNAL)
        try:
            return journal.events(rollout=rollout, limit=500)
        finally:
            journal.close()

    def drop(self, folder: Path, version: int) -> float:
        """Rename a folder into the repository as a person would; returns when, in seconds since the epoch."""
        target = self.repository / self.engine / str(version)
        folder.rename(target)
        return time.time()

    def ended(self, version: int) -> dict[str, Any]:
        """Wait for the end of the version's newest rollout and return its line of the history."""

        def newest() -> dict[str, Any] | None:
            row = next((r for r in self.history() if r["candidate"] == version), None)
            return row if row is not None and row["ended_at"] is not None else None

        row: dict[str, Any] = until(newest, f"the end of version {version}'s rollout")
        return row

    def stubs(self, version: int) -> list[int]:
        """Process ids of the engine processes of a version."""
        return [
            s.pid for s in procfs.stubs("") if s.model == self.engine and s.version == version and self._ours(s.server)
        ]

    def _ours(self, server: int) -> bool:
        try:
            words = Path(f"/proc/{server}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            return False
        return any(str(self.repository) in word for word in words)

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
        if server is None:
            return 0
        return sum(pss(pid) for pid in procfs.session_members(os.getsid(server)))


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


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
