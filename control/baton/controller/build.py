"""Puts the control plane together from a configuration."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from baton import secret
from baton.config import Config, ServerConfig, ServiceConfig
from baton.controller.content import ContentVerifier
from baton.controller.engine_info import EngineInfoMonitor
from baton.controller.gates import Gates
from baton.controller.loop import Loop
from baton.controller.memory import Memory
from baton.controller.periodic import PeriodicRunner
from baton.controller.ports import Checks, Ports
from baton.controller.service import Service
from baton.domain import Folder, VersionMeta
from baton.errors import ConfigError
from baton.journal import JOURNAL, Journal, open_journal
from baton.journal.retention import Retention
from baton.local.guard import Guard
from baton.local.processes import Processes
from baton.reasons import Why
from baton.removal import Removal
from baton.tls import is_loopback
from baton.triton.grpc import GrpcTriton
from baton.triton.key import Caps, Key, token_file
from baton.triton.port import Triton
from baton.triton.quarantine import QuarantineTriton
from baton.triton.repository import ServiceFiles
from baton.verify.checkpoint import read_meta
from baton.watch.scan import Scanner
from baton.watch.watcher import Watcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """A control plane, not yet started."""

    loop: Loop
    journal: Journal
    watcher: Watcher
    servers: dict[str, Triton]
    manifest: Callable[[str, int], dict[str, str]]
    memory: Memory
    engines: EngineInfoMonitor
    rounds: PeriodicRunner
    guard: Guard

    def start(self) -> None:
        self.guard.start()
        self.watcher.start()
        self.loop.start()
        self.rounds.start()

    def close(self) -> None:
        """Stop in the order in which nothing is asked of what is gone already."""
        self.rounds.stop()
        self.watcher.stop()
        self.loop.stop()
        self.guard.stop()
        for server in self.servers.values():
            server.close()
        self.journal.close()


def build(
    config: Config,
    *,
    clock: Callable[[], float],
    wake: threading.Event,
    servers: dict[str, Triton] | None = None,
    held: Callable[[], None] = lambda: None,
) -> Parts:
    """Wire everything. ``servers`` may be given, as tests do; else they are the configured ones, over gRPC.

    ``held`` raises when this process may not act for the state directory any more: then nothing more is done.

    Raises:
        ConfigError: the repository, a golden set, an admin key or a file of authorities is not there.
        JournalError: the state directory can't be written.
    """
    if not config.repository.is_dir():
        raise ConfigError(
            f"The model repository {config.repository} is not a directory.",
            mend="Name it with repository = ... in baton.toml, or with --repository.",
        )
    journal = open_journal(config.state / JOURNAL, clock, held)
    if servers is None:
        servers = {
            s.name: GrpcTriton(s.name, s.grpc, metrics=s.metrics or None, admin_key=admin_key(s), tls=s.encryption)
            for s in config.servers
        }
    for open_way in (
        s for s in config.servers if s.admin_key_file is not None and not s.tls and not is_loopback(s.grpc)
    ):
        log.warning(
            "The admin key goes to server %s at %s in clear text: whoever sees that network can load models. "
            "Start that Triton with TLS, and set tls = true for it (docs/how-to/encrypt-triton.md).",
            open_way.name, open_way.grpc,
        )  # fmt: skip
    ports = {s.name: int(s.grpc.rpartition(":")[2]) for s in config.servers if is_loopback(s.grpc)}
    local = len(ports) == len(config.servers)
    guard, processes = Guard(), dict[str, Processes]()

    def given_up(server: str, model: str, version: int) -> None:
        if model in processes:
            processes[model].end(server, version)

    servers = {name: QuarantineTriton(triton, given_up) for name, triton in servers.items()}
    gates: dict[str, Gates] = {}
    services = []
    for one in config.services:
        key = Key(token_file(config.state, one.name), Caps.of(one.traffic))
        files = ServiceFiles(config.repository, one.name, one.engine, key)
        gates[one.name] = Gates(one, files, servers, journal, local=local)

        def log_ended(why: Why, service: str = one.name) -> None:
            log.warning("%s: %s", service, why)
            journal.events.append(clock(), "health", why, service=service)

        for model in (one.engine, one.splitter):
            processes[model] = Processes(model, ports, wake.set, guard, log_ended)
        services.append(_service(one, files, servers, processes, journal, gates[one.name], clock, wake))
    watcher = Watcher([s.files.engine_dir for s in services], wake.set, mode=config.control.watch)
    retention = Retention(journal.database, config.control.keep_history, config.control.keep_rollouts)
    loop = Loop(services, servers, journal, clock, wake, config.control.rescan, watcher.rearm, retention.apply)
    configured = {s.name: s for s in config.services}
    memory = Memory(configured, config.repository, journal, clock)
    engines = EngineInfoMonitor(configured, servers, lambda: loop.indexes, journal, clock)
    rounds = PeriodicRunner(memory.look, engines.look)

    def manifest(service: str, version: int) -> dict[str, str]:
        return gates[service].manifest(version)

    return Parts(loop, journal, watcher, servers, manifest, memory, engines, rounds, guard)


def _service(
    config: ServiceConfig,
    files: ServiceFiles,
    servers: dict[str, Triton],
    processes: Mapping[str, Processes],
    journal: Journal,
    gates: Gates,
    clock: Callable[[], float],
    wake: threading.Event,
) -> Service:
    scanner = Scanner()

    def scan() -> list[Folder]:
        return scanner.scan(files.engine_dir, clock())

    def meta(version: int) -> VersionMeta:
        return read_meta(files.folder(version))

    remover = Removal(files.repository, config.engine)
    ports = Ports(
        files,
        servers,
        journal,
        scan,
        remover,
        meta,
        clock,
        wake.set,
        processes[config.engine],
        processes[config.splitter],
    )
    content = ContentVerifier(config.name, journal, gates.manifest, clock)
    return Service(config, ports, Checks(gates, gates.question(), gates.golden(), content))


def admin_key(server: ServerConfig) -> str | None:
    """The server's admin key. Raises ``ConfigError``."""
    if server.admin_key_file is None:
        return None
    return secret.read(server.admin_key_file, f"admin_key_file of server {server.name}")
