"""What ``ctl up`` needs of this machine: backends, ports, and a repository that Triton can start with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from baton.config import DEFAULT_SERVER, Config, ServerConfig, ServiceConfig
from baton.errors import ConfigError, RepositoryError
from baton.share import shared
from baton.tls import is_loopback
from baton.triton.config_file import write_atomically
from baton.triton.repository import ServiceFiles
from baton.verify.names import ends_triton

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
HOST = "127.0.0.1"
KEY = "admin.key"
"""The file in the state directory with the key of the Triton that `ctl up` started; each start makes a new one."""


def own_backends() -> list[Path]:
    """The directory of the backends that come with Baton: the engines' and the splitter's."""
    directory = shared("python_backend")
    return [directory] if directory.is_dir() else []


def wanted_ports(config: Config, given: dict[str, int | None], **listens: bool | None) -> dict[str, int]:
    """Ports of the local Triton: the flag's, else the configured server's if it is one on this machine.

    ``listens`` tells of HTTP and metrics whether there shall be such a port; None leaves it to the configuration.
    """
    server = config.servers[0] if len(config.servers) == 1 else DEFAULT_SERVER
    ports = {}
    for name, usual in DEFAULT_PORTS.items():
        address, wanted, port = getattr(server, name), listens.get(name), given[name]
        if not (address is not False if wanted is None else wanted):
            continue
        if port is None:
            port = int(address.rpartition(":")[2]) if address and is_loopback(address) else usual
        ports[name] = port
    return ports


def with_local_server(config: Config, ports: dict[str, int], console_port: int | None, key: Path) -> Config:
    """The configuration with the local Triton as its only server; the file ``key`` holds its admin key."""
    server = ServerConfig(
        name=config.servers[0].name if len(config.servers) == 1 else "local",
        grpc=f"{HOST}:{ports['grpc']}",
        http=f"{HOST}:{ports['http']}" if "http" in ports else False,
        metrics=f"{HOST}:{ports['metrics']}" if "metrics" in ports else False,
        admin_key_file=key,
    )
    control = config.control
    if console_port is not None:
        host = (control.metrics or f"{HOST}:0").rpartition(":")[0]
        control = replace(control, metrics=f"{host}:{console_port}")
    return replace(config, servers=(server,), control=control)


def prepare_repository(config: Config) -> list[str]:
    """Gives every engine its ``config.pbtxt``; returns the aliases that Triton can load at its start.

    Only aliases that are there already: the control plane wrote them, and each brings the engine version that served.
    Raises ``ConfigError`` when an engine has no configuration and none can be given to it, or a folder ends Triton.
    """
    for service in config.services:
        prepare_engine(config.repository, service)
        for entry in sorted((config.repository / service.engine).iterdir()):
            if ends_triton(entry.name) and entry.is_dir():
                raise ConfigError(f"{entry}: Triton ends when it reads this number.", mend="Move the folder out.")
        # A restart in the middle of a rollout must not stumble over a version that was never proved: Triton begins
        # with what serves, and the control plane brings the rest.
        files = ServiceFiles(config.repository, service.name, service.engine)
        if files.split():
            files.set_alias(files.alias())
        if (serving := files.alias()) is not None and files.policy() != {serving}:
            files.set_policy(frozenset({serving}))
    return [s.name for s in config.services if (config.repository / s.name / "config.pbtxt").is_file()]


def prepare_engine(repository: Path, service: ServiceConfig) -> None:
    """Gives an engine its ``config.pbtxt`` where it has none.

    Raises ``ConfigError`` when there is none to give, ``RepositoryError`` when the folder is closed to this user.
    """
    wanted = repository / service.engine / "config.pbtxt"
    try:
        if wanted.is_file():
            return
    except PermissionError as error:
        raise RepositoryError(
            f"{wanted} can't be looked at: {error.strerror}. Nothing was started.",
            mend="Start as the user who owns the repository, or let this one in: `ctl doctor` names the folder.",
        ) from None
    template = shared("model_repository", service.engine, "config.pbtxt")
    if not template.is_file():
        raise ConfigError(
            f"The engine {service.engine} of service {service.name} has no {wanted}.",
            mend="Write it, check --repository, or correct the service's engine in the configuration.",
        )
    wanted.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(wanted, template.read_text("utf-8"))
