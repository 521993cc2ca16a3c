"""What ``ctl up`` needs of this machine: backends, ports, and a repository that Triton can start with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import baton
from baton.config import Config, ServerConfig, ServiceConfig
from baton.errors import ConfigError
from baton.triton.repository import ServiceFiles

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
HOST = "127.0.0.1"
KEY = "admin.key"
"""The file in the state directory with the key of the Triton that `ctl up` started; each start makes a new one."""
_LOOPBACK = frozenset({HOST, "localhost"})


def checkout() -> Path:
    """The source checkout, when Baton runs from one: it holds the backends and the engines' templates."""
    return Path(baton.__file__).resolve().parents[2]


def own_backends() -> list[Path]:
    """The checkout's backends; an installation has none of its own."""
    directory = checkout() / "python_backend"
    return [directory] if directory.is_dir() else []


def wanted_ports(config: Config, given: dict[str, int | None]) -> dict[str, int]:
    """Ports of the local Triton: the flag's, else the configured server's if it is one on this machine."""
    ports = dict(DEFAULT_PORTS)
    if len(config.servers) == 1:
        server = config.servers[0]
        for name, address in (("http", server.http), ("grpc", server.grpc), ("metrics", server.metrics)):
            host, _, port = (address or "").rpartition(":")
            if host in _LOOPBACK:
                ports[name] = int(port)
    return {name: ports[name] if given[name] is None else int(given[name] or 0) for name in ports}


def with_local_server(config: Config, ports: dict[str, int], console_port: int | None, key: Path) -> Config:
    """The configuration with the local Triton as its only server; the file ``key`` holds its admin key."""
    server = ServerConfig(
        name=config.servers[0].name if len(config.servers) == 1 else "local",
        grpc=f"{HOST}:{ports['grpc']}",
        http=f"{HOST}:{ports['http']}",
        metrics=f"{HOST}:{ports['metrics']}",
        admin_key_file=key,
    )
    control = config.control
    if console_port is not None:
        host = (control.metrics or f"{HOST}:0").rpartition(":")[0]
        control = replace(control, metrics=f"{host}:{console_port}")
    return replace(config, servers=(server,), control=control)


def prepare_repository(config: Config) -> list[str]:
    """Gives every engine its ``config.pbtxt``; returns the public names that Triton can load at its start.

    Only aliases that are there already: the control plane wrote them, and each brings the engine version that served.
    Raises ``ConfigError`` when an engine has no configuration and none can be given to it.
    """
    for service in config.services:
        _prepare_engine(config.repository, service)
        # A restart in the middle of a rollout must not stumble over a version that was never proved: Triton begins
        # with what serves, and the control plane brings the rest.
        files = ServiceFiles(config.repository, service.name, service.engine)
        if files.split():
            files.set_alias(files.alias())
        if (serving := files.alias()) is not None and files.policy() != {serving}:
            files.set_policy(frozenset({serving}))
    return [s.name for s in config.services if (config.repository / s.name / "config.pbtxt").is_file()]


def _prepare_engine(repository: Path, service: ServiceConfig) -> None:
    wanted = repository / service.engine / "config.pbtxt"
    if wanted.is_file():
        return
    template = checkout() / "model_repository" / service.engine / "config.pbtxt"
    if not template.is_file():
        raise ConfigError(
            f"The engine {service.engine} of service {service.name} has no {wanted}.",
            mend="Write it, check --repository, or correct the service's engine in the configuration.",
        )
    wanted.parent.mkdir(parents=True, exist_ok=True)
    # By a rename, since a control plane may be looking at the repository.
    staged = wanted.with_name(".config.pbtxt.new")
    shutil.copyfile(template, staged)
    staged.replace(wanted)
