"""The real loop, service and journal over fake servers and real files, in one process, with a clock of its own."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import PATIENCE_S, until
from tests.support.toy import engine_config

from baton.app import App
from baton.config import Config, GateConfig, LiveConfig, RolloutConfig, ServerConfig, ServiceConfig, TrafficConfig
from baton.controller.engine_info import EngineInfoMonitor
from baton.controller.loop import Loop
from baton.controller.ports import Checks, Ports
from baton.controller.service import Service
from baton.domain import Folder, Gate, GateResult, Outcome, Phase, Rollout, Verdict, VersionMeta
from baton.journal import Journal
from baton.plan import Ask, Sync
from baton.removal import Removal
from baton.testing import DiskRepository, FakeTriton
from baton.triton.key import Caps, Key, token_file
from baton.triton.port import Tensors
from baton.triton.repository import ServiceFiles
from baton.verify.listing import look
from baton.watch.scan import uses

NAME, ENGINE = "ranker", "ranker_engine"


MANY = int(os.environ.get("BATON_EXAMPLES", "0")) >= 1000
AT_ONCE = TrafficConfig(steps=(), shadow_share=0.0)


class Answers:
    """A stub for the gates: every gate passes, unless ``order`` says otherwise."""

    def __init__(self) -> None:
        self.order: dict[Gate, Callable[[Rollout, Callable[[], bool]], GateResult]] = {}
        self.asked: Counter[Gate] = Counter()

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Callable[[], bool]) -> GateResult:
        self.asked[gate] += 1
        if gate in self.order:
            return self.order[gate](rollout, cancelled)
        return GateResult(gate, Verdict.PASS, "passed")


class Place:
    """What outlives a control plane: files, servers, time."""

    def __init__(self, root: Path, *, servers: int = 1) -> None:
        self.root = root
        self.now = 1_000_000.0
        self.repository = root / "repository"
        (self.repository / ENGINE).mkdir(parents=True)
        (self.repository / ENGINE / "config.pbtxt").write_text(engine_config(ENGINE, [1]))
        self.files = ServiceFiles(self.repository, NAME, ENGINE)
        disk = DiskRepository(self.repository)
        self.servers = {
            name: FakeTriton(name, disk, clock=self.clock, boot=(NAME,)) for name in ("a", "b", "c")[:servers]
        }
        self.answers = Answers()
        self.quiet: dict[str, tuple[str, float]] = {}

    def clock(self) -> float:
        return self.now

    def drop(self, version: int, weights: str = "") -> None:
        made = self.root / f"made-{version}"
        made.mkdir()
        (made / "weights").write_text(weights or str(version))
        made.rename(self.files.folder(version))

    def scan(self) -> list[Folder]:
        found = []
        for path in sorted(self.files.engine_dir.iterdir()):
            if path.name == "config.pbtxt":
                continue
            listing = look(path)
            fingerprint = listing.fingerprint
            before = self.quiet.get(path.name)
            since = before[1] if before is not None and before[0] == fingerprint else self.now
            self.quiet[path.name] = (fingerprint, since)
            number = int(path.name) if path.name.isdigit() else None
            problem = None if number is not None else "Not a version number; move it out."
            sizes = {"size": listing.size, "own_size": listing.own_size}
            links = frozenset() if number is None else uses(listing)
            found.append(Folder(path.name, number, fingerprint, (), problem, since, since, uses=links, **sizes))
        return found


class Plane:
    """One control plane; several may follow each other at one place."""

    def __init__(
        self, place: Place, *, traffic: TrafficConfig = AT_ONCE, live: LiveConfig | None = None,
        golden: Sequence[Tensors] = (), **rollout: float,
    ) -> None:  # fmt: skip
        self.place = place
        options = {"keep_previous": 0.0, "settle": 0.0, "load_timeout": 60.0, "drain_timeout": 20.0} | rollout
        self.config = ServiceConfig(
            NAME,
            ENGINE,
            rollout=RolloutConfig(**options),  # type: ignore[arg-type]
            traffic=traffic,
            live=live or LiveConfig(),
            gates=GateConfig(hold_retry=5.0, hold_attempts=3, request_timeout=10.0),
        )
        self.journal = Journal(place.root / "state" / "journal.db")
        self.wake = threading.Event()
        key = Key(token_file(place.root / "state", NAME), Caps.of(traffic))
        ports = Ports(
            ServiceFiles(place.repository, NAME, ENGINE, key),
            place.servers,
            self.journal,
            place.scan,
            Removal(place.repository, ENGINE),
            lambda version: VersionMeta(str(version)),
            place.clock,
            self.wake.set,
        )
        self.service = Service(self.config, ports, Checks(place.answers, golden=golden))
        self.loop = Loop([self.service], place.servers, self.journal, place.clock, self.wake, 1.0)
        self.engines = EngineInfoMonitor(
            {NAME: self.config}, place.servers, lambda: self.loop.indexes, self.journal, place.clock
        )
        servers = tuple(ServerConfig(name, "127.0.0.1:1") for name in place.servers)
        config = Config(place.repository, place.root / "state", servers=servers, services=(self.config,))
        self.app = App(config, self.loop, self.journal, lambda *_: {}, lambda _service: {}, self.engines.of)

    def close(self) -> None:
        self.loop.stop()
        self.journal.close()

    def abandon(self) -> None:
        """As a crash leaves it: nothing is brought to an end in an orderly way, and its threads do nothing more."""
        # First of all what runs: a task that is called off before it began would stand in the books for ever.
        self.service.tasks.cancel(lambda _effect: True)
        until(lambda: not self.service.tasks.running(), "what the crash left behind ends")
        self.service.tasks.close()
        self.loop._pool.shutdown(wait=False)
        self.journal.close()

    def turn(self, *, wait: bool = True) -> None:
        """Once around, and (if it is asked for) until what that began has ended."""
        self.loop.once()
        while wait and self.service.tasks.running():
            assert self.wake.wait(PATIENCE_S), f"the end of {self.service.tasks.running()}"
            self.wake.clear()

    def run(self, condition: Callable[[], object], what: str, *, turns: int = 200) -> None:
        for _ in range(turns):
            if condition():
                return
            self.turn()
            self.place.now += 1.0
        raise AssertionError(f"not within {turns} rounds: {what}; {self.service.decision}")

    def live(self, version: int) -> None:
        self.run(lambda: self.rests_at(version), f"version {version} live")

    def rests_at(self, version: int | None) -> bool:
        at = self.place.files.alias()
        loop_looked = self.service.view is not None
        return loop_looked and at == version and self.journal.rollouts.current(NAME) is None

    def ended(self, version: int) -> Outcome | None:
        """How the newest rollout of the version ended."""
        return next((r.outcome for r in self.journal.rollouts.newest(service=NAME) if r.candidate == version), None)

    def phase(self) -> Phase | None:
        rollout = self.journal.rollouts.current(NAME)
        return None if rollout is None else rollout.phase


class Machine:
    """The processes of one version of a model, as many as ``runs`` says."""

    def __init__(self) -> None:
        self.runs, self.known, self.ended = 1, 0, 0

    def running(self, _server: str, _version: int) -> int:
        return self.runs

    def watch(self, _server: str, _version: int) -> None:
        self.known = self.runs

    def lost(self, _server: str, _version: int) -> bool:
        return self.runs < self.known

    def why(self, _server: str, _version: int) -> str:
        return "its process has ended"

    def guard(self, _server: str, _versions: object, _as_of: float) -> None:
        return

    def end(self, _server: str, _version: int) -> int:
        ended, self.ended, self.known, self.runs = self.runs, self.ended + 1, 0, 1
        return ended


class Full:
    """A connection to a journal whose disk is full as long as ``full`` says so."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real = real
        self.full = False

    def execute(self, statement: str, *values: Any) -> Any:
        if self.full and statement == "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError("database or disk is full")
        return self.real.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Crash(BaseException):
    """The control plane is killed here."""


class Fuse:
    """Ends a control plane just before its n-th durable act; from then on nothing that it does counts."""

    def __init__(self, plane: Plane, patched: pytest.MonkeyPatch, blows_at: int) -> None:
        self.acts = 0
        self.blown = False
        self._blows_at = blows_at
        self._lock = threading.Lock()
        self._wrap(plane.journal.database, "transaction", patched)
        for name in ("set_policy", "set_alias", "set_splitter", "_splitter_text", "tidy_alias"):
            self._wrap(plane.service.files, name, patched)
        for server in plane.place.servers.values():
            self._wrap(server, "begin", patched)

    def _wrap(self, thing: Any, name: str, patched: pytest.MonkeyPatch) -> None:
        real = getattr(thing, name)

        def act(*args: Any, **options: Any) -> Any:
            with self._lock:
                self.acts += 1
                self.blown = self.blown or self.acts == self._blows_at
                if self.blown:
                    raise Crash
            return real(*args, **options)

        patched.setattr(thing, name, act)


def tmpfs(fallback: Path) -> Path:
    """Memory in place of a disk where there is one: these tests write durably, thousands of times."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return fallback
    # The name is nobody else's: another run at the same time has the same tests, and took the files of this one away.
    return Path(tempfile.mkdtemp(prefix=f"baton-test-{fallback.name}-", dir=memory))


__all__ = ["ENGINE", "MANY", "NAME", "Answers", "Ask", "Crash", "Full", "Fuse", "Place", "Plane", "Sync", "tmpfs"]
