"""``ctl doctor``: what would keep Baton from working here, and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.output import BAD, DIM, GOOD, WARN, Line, fit, print_json, say, show, width
from baton.cli.settings import Settings, common, pass_settings
from baton.errors import BatonError, ConfigError, Unreachable
from baton.facts import ControlHealth, Runs

if TYPE_CHECKING:
    from baton.config import Config
    from baton.doctor import Diagnosis

_SIGNS = {True: ("✔", GOOD), False: ("✖", BAD), None: ("⚠", WARN)}
_NAME = 24


@click.command()
@click.option(
    "--backends",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="A directory of python-based backends; may be given several times.",
)
@common()
@pass_settings
def doctor(settings: Settings, backends: tuple[Path, ...]) -> None:
    """Check the machine and the configuration, and say how to mend what is wrong.

    Beside a running control plane, the configuration is the one that it runs with. What only a Triton needs is asked of
    this machine where `ctl up` runs, or may; not where the servers are elsewhere.

    Exits with 0 when nothing failed, else with 1. A warning is no failure.
    """
    from baton.cli.local import own_backends
    from baton.doctor import Diagnosis, access, checks, room_for_versions

    configuration, config = _configuration(settings)
    health, control_plane = _control_plane(settings, config)
    if health is not None and health.runs is not None:
        configuration, config = _running(configuration, config, health.runs)
    results = [configuration, control_plane]
    if settings.server is None:
        results += access(config.servers, config.state)
        results += [
            room_for_versions(config.repository, one.name, one.engine, one.rollout.keep_versions)
            for one in config.services
        ]
        results += checks(
            repository=config.repository,
            state=config.state,
            backends=[*own_backends(), *backends],
            ports=_ports(config) if health is None and not _elsewhere(config) else None,
            no_triton=_no_triton(config, runs=health is not None),
        )
    else:
        message = f"{settings.server} is another one: run `ctl doctor` there to have its disks and Triton looked at"
        results.append(Diagnosis("machine", ok=None, message=message, mend="Leave out --server there (BATON_SERVER)."))
    if settings.json:
        print_json(results)
    else:
        show(_lines(results, width(sys.stdout)))
    failed = [c.name for c in results if c.ok is False]
    if failed:
        say(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}.")
        raise click.exceptions.Exit(1)


def _configuration(settings: Settings) -> tuple[Diagnosis, Config]:
    """The file's own check; a file that is wrong does not hide the rest, which is then checked with the defaults."""
    from dataclasses import replace

    from baton.config import load
    from baton.doctor import Diagnosis

    file = settings.config_file()
    try:
        config = settings.load()
    except ConfigError as error:
        config = load(None)
        if settings.state is not None:
            config = replace(config, state=settings.state)
        return Diagnosis(
            "configuration", ok=False, message=error.message, mend=error.mend or "Correct the file."
        ), config
    names = ", ".join(s.name for s in config.services)
    return Diagnosis("configuration", ok=True, message=f"{file or 'the defaults'}; services: {names}"), config


def _control_plane(settings: Settings, config: Config) -> tuple[ControlHealth | None, Diagnosis]:
    """What the control plane says of itself; None when none runs."""
    from baton.api import SOCKET, ApiClient
    from baton.doctor import Diagnosis

    name = "control plane"
    try:
        client = settings.client() if settings.server else ApiClient((settings.state or config.state) / SOCKET)
        health = client.health()
    except Unreachable as error:
        return None, Diagnosis(name, ok=None, message=error.message, mend=error.mend)
    except BatonError as error:
        health = ControlHealth(live=False, ready=False, message=error.message)
        return health, Diagnosis(name, ok=False, message=error.message, mend=error.mend)
    if health.live and health.ready:
        return health, Diagnosis(name, ok=True, message="runs, and Triton answers")
    mend = "Look into its log." if not health.live else "Start Triton, or check the addresses of [[servers]]."
    return health, Diagnosis(name, ok=False, message=health.message, mend=mend)


def _running(read: Diagnosis, config: Config, runs: Runs) -> tuple[Diagnosis, Config]:
    """The configuration that the control plane runs with, in the place of the one that was ``read`` here.

    What is wrong with the file that was read stays a failure: the next start would meet it.
    """
    from dataclasses import replace

    from baton.config import ServerConfig
    from baton.doctor import Diagnosis

    keys = [None if one.admin_key_file is None else Path(one.admin_key_file) for one in runs.servers]
    servers = tuple(
        ServerConfig(one.name, one.grpc, admin_key_file=key) for one, key in zip(runs.servers, keys, strict=True)
    )
    config = replace(config, repository=Path(runs.repository), state=Path(runs.state), servers=servers)
    if read.ok is False:
        return read, config
    source = runs.configuration or "the defaults"
    message = f"{source}, as the control plane runs with it; services: {', '.join(runs.services)}"
    return Diagnosis(read.name, ok=True, message=message), config


def _no_triton(config: Config, *, runs: bool) -> str:
    """Why Baton starts no Triton on this machine; empty where `ctl up` does, or may."""
    from baton.cli.local import KEY

    names = ", ".join(f"{one.name} ({one.grpc})" for one in config.servers)
    if _elsewhere(config):
        return f"{names} on other machines"
    # The Triton of `ctl up` has the key that is made at each start of it.
    if runs and all(one.admin_key_file != config.state / KEY for one in config.servers):
        return f"`ctl serve` uses {names}"
    return ""


def _elsewhere(config: Config) -> bool:
    """Whether all servers are on other machines."""
    from baton.cli.local import is_here

    return not any(is_here(one.grpc) for one in config.servers)


def _ports(config: Config) -> dict[str, int]:
    """The ports that ``ctl up`` would open."""
    from baton.cli.local import DEFAULT_PORTS, wanted_ports

    console = config.control.metrics
    ports = wanted_ports(config, dict.fromkeys(DEFAULT_PORTS), http=None, metrics=None)
    return {**ports, **({"console": int(console.rpartition(":")[2])} if console is not None else {})}


def _lines(results: list[Diagnosis], columns: int) -> list[Line]:
    lines: list[Line] = []
    for check in results:
        sign, style = _SIGNS[check.ok]
        first, *rest = fit(check.message, columns - _NAME) or [""]
        lines.append([(sign, style), (f" {check.name:<{_NAME - 2}}", ""), (first, "" if check.ok else style)])
        lines += [[(" " * _NAME, ""), (part, "" if check.ok else style)] for part in rest]
        if check.mend is not None and check.ok is not True:
            lines += [[(" " * _NAME, ""), (part, DIM)] for part in fit(f"→ {check.mend}", columns - _NAME)]
    return lines
